"""How ``make test`` shares out the tests that run on each version of Docker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from xdist.remote import Producer

from tests.support.each_version import EachVersionScheduling

TESTS = ["a.py::one", "a.py::two", "a.py::three", "b.py::four", "b.py::five", "b.py::six", "c.py::seven", "c.py::eight"]


class Worker:
    """What the scheduler sees of a test process."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.shutting_down = False
        self.given: list[int] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        self.given += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    @property
    def files(self) -> set[str]:
        return {TESTS[index].partition("::")[0] for index in self.given}


def scheduling(versions: list[str]) -> tuple[EachVersionScheduling, list[Any]]:
    """One under way, and its workers; all have told what they have collected."""
    config: Any = SimpleNamespace(getvalue=lambda name: ["popen"], option=SimpleNamespace(loadscopereorder=False))
    scheduler = EachVersionScheduling(config, Producer("test", enabled=False), versions)
    workers: list[Any] = [Worker(f"gw{number}") for number in range(len(versions))]
    for worker in workers:
        scheduler.add_node(worker)
    for worker in workers:
        assert not scheduler.collection_is_completed
        scheduler.add_node_collection(worker, TESTS)
    assert scheduler.collection_is_completed
    scheduler.schedule()
    return scheduler, workers


def run_all(scheduler: EachVersionScheduling, workers: list[Any]) -> None:
    done: dict[str, int] = dict.fromkeys((worker.gateway.id for worker in workers), 0)
    while ready := [worker for worker in workers if len(worker.given) > done[worker.gateway.id]]:
        for worker in ready:
            index = worker.given[done[worker.gateway.id]]
            done[worker.gateway.id] += 1
            scheduler.mark_test_complete(worker, index)


@pytest.mark.parametrize("versions", [["old", "new", "new", "old"], ["old", "old", "new"], ["old", "new"], ["old"]])
def test_each_version_runs_every_test_once_and_a_file_as_a_whole(versions: list[str]) -> None:
    scheduler, workers = scheduling(versions)
    assert scheduler.has_pending
    assert not scheduler.tests_finished

    run_all(scheduler, workers)

    for version in set(versions):
        mine = [worker for worker, its in zip(workers, versions, strict=True) if its == version]
        assert sorted(index for worker in mine for index in worker.given) == list(range(len(TESTS)))
        assert sum(len(worker.files) for worker in mine) == 3
        assert all(worker.given for worker in mine), "all have work"
    assert scheduler.tests_finished
    assert not scheduler.has_pending


def test_tests_of_a_worker_that_dies_go_to_the_others_of_its_version() -> None:
    scheduler, workers = scheduling(["old", "old", "new"])
    dead, other, new = workers

    assert scheduler.remove_node(dead) == TESTS[dead.given[0]]
    assert dead not in scheduler.nodes
    run_all(scheduler, [other, new])

    assert {*other.given} == set(range(len(TESTS)))
    assert sorted(new.given) == list(range(len(TESTS)))
