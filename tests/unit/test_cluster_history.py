"""The checker of histories of many machines finds each thing that must not be, and nothing in a history as it should be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from jobmanager import JobResult, Outcome, Task
from jobmanager.errors import QueueFull
from tests.support.cluster_history import ClusterHistory, Happening, cluster_violations, read_happenings

SUBMITTING = Happening(what="submitting", process="c-1", client="c", job_id="a", expected="failed", at_s=1.0)
ACCEPTED = Happening(what="accepted", process="c-1", client="c", job_id="a", at_s=2.0)
CALLED_BACK = Happening(what="called_back", process="c-1", client="c", job_id="a", outcome="failed", at_s=5.0)
WHOLE = [SUBMITTING, ACCEPTED, CALLED_BACK]
RUNS = {"a": 1}


def changed(happening: Happening, **more: Any) -> Happening:
    return Happening(**{name: getattr(happening, name) for name in Happening.__dataclass_fields__} | more)


CRASHED = changed(CALLED_BACK, outcome="crash")
KILLED = changed(CALLED_BACK, outcome="killed")
FIRST_KILLED = Happening(what="process_killed", process="test-9", text="c-1", at_s=3.0)
BACK_AGAIN = changed(CALLED_BACK, process="c-2", at_s=6.0)
KILL_TAKEN = Happening(what="kill_taken", process="c-1", client="c", job_id="a", at_s=3.0)
FAULT = Happening(what="fault", process="test-9", text="a node is killed", at_s=3.0)


@pytest.mark.parametrize(
    ("happenings", "runs"),
    [
        (WHOLE, RUNS),
        ([SUBMITTING, ACCEPTED, FAULT, CRASHED], RUNS),
        ([SUBMITTING, ACCEPTED, FAULT, CRASHED], {}),
        ([SUBMITTING, ACCEPTED, KILL_TAKEN, KILLED], {}),
        ([changed(SUBMITTING, retries=1), ACCEPTED, CALLED_BACK], {"a": 2}),
        ([*WHOLE, FIRST_KILLED, BACK_AGAIN], RUNS),  # nobody knows whether the first callback had ended
        ([SUBMITTING, ACCEPTED, FIRST_KILLED], RUNS),  # its client never came back
        ([SUBMITTING, changed(ACCEPTED, what="refused")], {}),
    ],
)
def test_a_history_as_it_should_be_has_none(happenings: list[Happening], runs: dict[str, int]) -> None:
    assert cluster_violations(happenings, runs) == []


@pytest.mark.parametrize(
    ("rule", "happenings", "runs"),
    [
        ("lost", [SUBMITTING, ACCEPTED], RUNS),
        ("lost", [SUBMITTING, ACCEPTED, FIRST_KILLED, changed(SUBMITTING, process="c-2", job_id="b")], RUNS),
        ("doubled", [*WHOLE, changed(CALLED_BACK, at_s=6.0)], RUNS),
        ("doubled", [*WHOLE, BACK_AGAIN], RUNS),
        ("uninvited", [SUBMITTING, changed(ACCEPTED, what="refused"), CALLED_BACK], RUNS),
        ("uninvited", [SUBMITTING, changed(ACCEPTED, what="refused")], RUNS),
        ("uninvited", WHOLE, {"a": 1, "b": 1}),
        ("run too often", WHOLE, {"a": 2}),
        ("run too often", [changed(SUBMITTING, retries=1), ACCEPTED, CALLED_BACK], {"a": 3}),
        ("run nowhere", WHOLE, {}),
        ("wrong outcome", [SUBMITTING, ACCEPTED, changed(CALLED_BACK, outcome="success")], RUNS),
        ("wrong outcome", [SUBMITTING, ACCEPTED, CRASHED], RUNS),
        ("wrong outcome", [SUBMITTING, ACCEPTED, CRASHED, changed(FAULT, at_s=7.0)], RUNS),
        ("wrong outcome", [SUBMITTING, ACCEPTED, KILLED], RUNS),
    ],
)
def test_each_thing_that_must_not_be_is_found(rule: str, happenings: list[Happening], runs: dict[str, int]) -> None:
    assert {found.partition(":")[0] for found in cluster_violations(happenings, runs)} == {rule}


class OneRefusal:
    """Takes each job but one, and calls back at once."""

    def new_job(self, task: Task, inputdata: Any = None, callback: Any = None, *, job_id: str) -> str:
        if job_id == "refused":
            raise QueueFull("full")
        callback(JobResult(job_id=job_id, outcome=Outcome.SUCCESS, text=""))
        return job_id


def test_what_is_written_is_read_and_a_line_that_a_kill_has_cut_is_left_out(tmp_path: Path) -> None:
    with ClusterHistory(tmp_path, "web") as history:
        assert history.submit(OneRefusal(), Task("busybox"), job_id="a", expected=Outcome.SUCCESS) == ""
        assert history.submit(OneRefusal(), Task("busybox"), job_id="refused") == "QueueFull: full"
    (file,) = tmp_path.iterdir()
    with file.open("a") as log:
        log.write('{"what": "called_back", "proc')

    happenings = read_happenings(tmp_path)

    assert [each.what for each in happenings] == ["submitting", "called_back", "accepted", "submitting", "refused"]
    assert {each.process for each in happenings} == {f"web-{os.getpid()}"}
    assert (history.count, cluster_violations(happenings, RUNS)) == (1, [])
