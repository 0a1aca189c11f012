"""A child process as its parent sees it: a message that cannot be sent, or read, costs itself."""

from __future__ import annotations

import pickle
import queue
from enum import Enum

import pytest

from jobmanager.control import child_process
from jobmanager.control.child_process import Child, ChildExited, MessageReceived, SendFailed, pickled
from jobmanager.engine.connect import connect
from jobmanager.engine.labels import MANAGER_LABEL
from jobmanager.ipc.messages import (
    ContainerStarted,
    RemovalFailed,
    RemoveContainer,
    RemoveVolumes,
    Shutdown,
    VolumeRemovalFailed,
    VolumesRemoved,
)
from jobmanager.model.container import ContainerSpec, ImageDefaults, VolumeMount
from jobmanager.model.host import Address
from jobmanager.model.limits import Limits
from jobmanager.testing import FakeEngineServer
from tests.conftest import eventually
from tests.unit.test_pickling import MESSAGES


def delete(**fields):
    address = Address(host="h", url="fake:///nowhere/engine.sock")
    return RemoveContainer(**{"address": address, "name": "n", "manager_id": "m", "timeout_s": 1.0, **fields})


class Local(str):
    """No child knows it."""


class Lang(str, Enum):
    PY = "python3"


class Larger(RemoveContainer):
    """A record of the caller's own."""


FOREIGN = [Local("x"), Lang.PY, {"deep": [("x", Local("y"))]}, Local, lambda: None, Larger]


@pytest.mark.parametrize("value", FOREIGN, ids=lambda value: type(value).__name__)
def test_what_only_the_callers_modules_could_make_is_refused(value):
    with pytest.raises(pickle.PicklingError, match="is none of the library's own types"):
        pickled(delete(name=value))


def test_all_that_the_library_says_itself_can_be_sent():
    assert [pickle.loads(pickled(message)) for message in MESSAGES] == MESSAGES


@pytest.fixture
def worker():
    """A worker of the process pool, and what was heard of it."""
    heard = queue.SimpleQueue()
    child = Child("jobmanager._pool_worker", heard.put)
    yield child, heard
    child.send(Shutdown())
    child.end(10)


def test_a_message_that_cannot_be_sent_is_told_and_the_next_one_arrives(worker):
    child, heard = worker
    odd = delete(name=Local("x"))
    child.send(odd)
    child.send(delete())

    unsent, answer = heard.get(timeout=30), heard.get(timeout=30)

    assert (unsent.child, unsent.message) == (child, odd)
    assert isinstance(unsent, SendFailed) and "test_child_process.Local is none of the library's own types" in unsent.reason
    assert isinstance(answer, MessageReceived) and isinstance(answer.message, RemovalFailed)


def test_a_worker_removes_volumes_by_name_and_says_why_it_cannot(worker):
    child, heard = worker
    with FakeEngineServer(images=["busybox"]) as server:
        address = Address(host="h", url=server.url)
        engine, volume = connect(address, timeout_s=20), VolumeMount(name="v", path="/volumes/work", size_mib=1)
        spec = ContainerSpec(name="c", image="busybox", labels={MANAGER_LABEL: "m"}, limits=Limits(), volumes=(volume,))
        engine.create(spec, ImageDefaults(command=(), volumes=()))
        request = RemoveVolumes(address=address, names=("v",), manager_id="m", timeout_s=20.0)
        answers = []
        for step in (lambda: None, lambda: engine.remove("c"), server.close):
            step()
            child.send(request)
            answers.append(heard.get(timeout=30).message)
        engine.close()

    in_use, removed, unreachable = answers
    assert isinstance(in_use, VolumeRemovalFailed) and "in use" in in_use.reason
    assert removed == VolumesRemoved()
    assert isinstance(unreachable, VolumeRemovalFailed)


def test_want_of_memory_costs_one_message(worker, monkeypatch):
    child, heard = worker

    def no_room(message):
        raise MemoryError

    monkeypatch.setattr(child_process, "pickled", no_room)
    child.send(delete())
    assert heard.get(timeout=30).reason == "it cannot be sent to a child process: MemoryError: "
    monkeypatch.undo()
    child.send(delete())

    assert isinstance(heard.get(timeout=30), MessageReceived)


def test_a_writer_that_cannot_go_on_ends_the_child_and_that_is_heard(worker, monkeypatch):
    child, heard = worker
    monkeypatch.setattr(child_process, "pickled", lambda message: "no bytes")
    child.send(delete())

    gone = heard.get(timeout=30)

    assert gone == ChildExited(child, why="ended by SIGKILL")
    eventually(lambda: not any(thread.is_alive() for thread in child._threads))


def test_a_message_of_a_childs_that_cannot_be_read_costs_itself(worker, monkeypatch):
    child, _ = worker
    told = []
    monkeypatch.setattr(child, "_listen", told.append)

    child._receive(b"nonsense")
    child._receive(pickle.dumps(ContainerStarted(container_id="c", image_command=(), duration_s=0.1)))

    assert [type(each.message) for each in told] == [ContainerStarted]
