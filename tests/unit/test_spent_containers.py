"""A container whose run has ended is kept for its volumes: nothing runs in it any more."""

from __future__ import annotations

import pytest

from jobmanager import JobManager, Outcome, Phase, Pipeline, Task
from jobmanager.testing import FakeEngineServer

TWO = Pipeline([Phase("one", Task("busybox", command="echo 1 > /volumes/work/a; sleep 1"), writes=["work"]),  # until two is there
                Phase("two", Task("busybox", command="cat /volumes/work/a"), reads=["work"])])  # fmt: skip


def calls(server: FakeEngineServer, name: str) -> list[str]:
    """The names of the containers that this call was made for, shortened to their phases."""
    return [target.rpartition("-")[2] for call, target in server.history() if call == name]


def test_the_container_of_a_phase_is_frozen_before_the_next_phase_begins() -> None:
    with FakeEngineServer(images=["busybox"]) as server, JobManager(server.url) as manager:
        result = manager.submit(TWO).result(30)
        history = [(call, target.rpartition("-")[2]) for call, target in server.history()]

    assert (result.outcome, result.phases[1].run.stdout) == (Outcome.SUCCESS, b"1\n")  # type: ignore[union-attr]
    assert history.index(("pause", "p1")) < history.index(("feed", "p2"))


def test_a_container_without_volumes_is_not_frozen() -> None:
    with FakeEngineServer(images=["busybox"]) as server, JobManager(server.url) as manager:
        assert manager.submit(Task("busybox", command="true")).result(30).outcome is Outcome.SUCCESS
        assert calls(server, "pause") == []


@pytest.mark.parametrize(("times", "kills"), [(2, []), (1000, ["p1"])])
def test_one_that_cannot_be_frozen_is_killed(times: int, kills: list[str]) -> None:
    with FakeEngineServer(images=["busybox"]) as server, JobManager(server.url) as manager:
        server.faults.refuse("pause", "unable to freeze", times=times)
        result = manager.submit(TWO).result(30)
        assert calls(server, "kill")[:1] == kills

    assert result.phases[1].run is not None and result.phases[1].run.stdout == b"1\n"  # its successor has had the volume
