"""The ``Client`` protocol: ``JobManager`` satisfies it to the letter, and so does what our tests put in its place."""

from __future__ import annotations

import inspect

import pytest

from jobmanager import Client, JobManager
from tests.unit.stub_client import StubClient

METHODS = [name for name, value in vars(Client).items() if inspect.isfunction(value) and not name.startswith("_")]


def test_the_manager_and_the_stub_are_clients():
    assert isinstance(JobManager("unix:///nowhere"), Client)
    assert isinstance(StubClient(), Client)
    assert not isinstance(object(), Client)


def test_the_protocol_has_these_methods():
    assert set(METHODS) == {
        "start", "close", "new_job", "kill_job", "get_job_queue_info", "get_job_queue_snapshot", "queue_length",
        "get_available_environments", "hosts", "follow", "stop_following",
    }  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("cls", [JobManager, StubClient])
def test_each_method_takes_what_the_protocol_says(cls, name):
    ours, theirs = (inspect.signature(getattr(owner, name)).parameters for owner in (cls, Client))

    for key, parameter in theirs.items():
        assert (ours[key].kind, ours[key].default) == (parameter.kind, parameter.default), key
    for key in ours.keys() - theirs.keys():
        assert ours[key].default is not inspect.Parameter.empty, key
    positional = [key for key, parameter in ours.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    assert positional == [key for key, parameter in theirs.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
