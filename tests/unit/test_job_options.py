"""A job's options are written once; each ``new_job`` shows them in its signature, and refuses others as Python does."""

from __future__ import annotations

import inspect
import pydoc
from typing import Optional, get_type_hints

import pytest

from jobmanager import Client, ClientBuffer, ClientFuture, ClientSync, JobManager, Task
from jobmanager.remote import RemoteClient

TASK = Task("x", command="true")
PRIORITY = "priority: 'int' = 0, launcher_name: 'str' = 'Unknown', debug: 'Debug' = False"
SUPERSEDE = "supersede_key: 'str | None' = None, wait_s: 'float | None' = 0.0"
JOB, ID = "task: 'Task | Pipeline', inputdata: 'InputData' = None", "job_id: 'str | None' = None"
CALLBACKS = "callback: 'Callback | None' = None", "ssh_callback: 'SSHCallback | None' = None"
SIGNATURES = [
    (JobManager.new_job, f"(self, {JOB}, {CALLBACKS[0]}, *, {PRIORITY}, {CALLBACKS[1]}, {ID}, {SUPERSEDE}) -> 'str'"),
    (Client.new_job, f"(self, {JOB}, {CALLBACKS[0]}, *, {PRIORITY}, {CALLBACKS[1]}, {ID}, {SUPERSEDE}) -> 'str'"),
    (JobManager.submit, f"(self, {JOB}, *, {PRIORITY}, {ID}, {SUPERSEDE}) -> 'JobFuture'"),
    (ClientFuture.new_job, f"(self, {JOB}, *, {PRIORITY}, {ID}, {SUPERSEDE}) -> 'JobFuture'"),
    (ClientBuffer.new_job, f"(self, {JOB}, *, {PRIORITY}, {SUPERSEDE}) -> 'str'"),
    (ClientSync.new_job, f"(self, {JOB}, *, {PRIORITY}, {SUPERSEDE}, timeout_s: 'float | None' = None) -> 'JobResult'"),
]


@pytest.mark.parametrize(("method", "signature"), SIGNATURES, ids=[method.__qualname__ for method, _ in SIGNATURES])
def test_a_signature_shows_every_option_with_its_default(method, signature):
    assert str(inspect.signature(method)) == signature
    assert signature.removeprefix("(") .partition(")")[0] in pydoc.render_doc(method, renderer=pydoc.plaintext)


@pytest.mark.parametrize(("method", "signature"), SIGNATURES, ids=[method.__qualname__ for method, _ in SIGNATURES])
def test_the_type_hints_can_be_read_and_are_those_of_the_signature(method, signature):
    hints = get_type_hints(method)

    assert hints.keys() == {*inspect.signature(method).parameters, "return"} - {"self"}
    assert (hints["priority"], hints["supersede_key"]) == (int, Optional[str])


@pytest.mark.parametrize("owner", [JobManager, ClientSync, ClientBuffer, ClientFuture])
def test_an_unknown_keyword_is_a_type_error_that_names_it_and_the_method(owner):
    given = "unix:///nowhere" if owner is JobManager else JobManager("unix:///nowhere")

    with pytest.raises(TypeError) as raised:
        owner(given).new_job(TASK, image="python")

    says = "it belongs elsewhere: Task(..., environment=...)"
    assert str(raised.value) == f"{owner.__name__}.new_job() got an unexpected keyword argument 'image': {says}"


@pytest.mark.parametrize("name", ["map", "amap"])
@pytest.mark.parametrize("owner", [JobManager, RemoteClient, ClientFuture])
def test_the_ways_to_run_a_batch_are_the_same_on_each_client_and_an_error_names_the_one_that_was_called(owner, name):
    method = getattr(owner, name)
    hints = get_type_hints(method)
    given = JobManager("unix:///nowhere")
    client = {JobManager: given, ClientFuture: ClientFuture(given)}.get(owner) or RemoteClient("redis://nowhere", key=b"k" * 32)

    with pytest.raises(TypeError) as raised:
        getattr(client, name)(TASK, [], timeout=3)

    assert hints.keys() == {*inspect.signature(method).parameters, "return"} - {"self"}
    says = f"{owner.__name__}.{name}() got an unexpected keyword argument 'timeout': it belongs elsewhere"
    assert str(raised.value).startswith(says)
    assert client._batch_client() is (given if owner is ClientFuture else client)


def test_a_method_that_is_called_without_its_object_is_named_all_the_same():
    with pytest.raises(TypeError, match=r"^JobManager\.new_job\(\) got an unexpected keyword argument 'image'"):
        JobManager.new_job(TASK, image="python")


@pytest.mark.parametrize(("owner", "option"), [(ClientSync, "job_id"), (ClientBuffer, "job_id"), (ClientFuture, "ssh_callback")])
def test_an_option_of_another_way_in_is_unknown(owner, option):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
        owner(JobManager("unix:///nowhere")).new_job(TASK, **{option: None})


def test_options_are_given_by_keyword_only():
    with pytest.raises(TypeError, match="takes from 2 to 4 positional arguments but 5 were given"):
        JobManager("unix:///nowhere").new_job(TASK, None, None, 5)
