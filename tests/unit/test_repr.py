"""How results look to people: a ``repr`` is short whatever a program printed, and a summary has two lines."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

import jobmanager
from jobmanager import (
    CallbackInfo,
    Case,
    CaseResult,
    Evidence,
    JobInput,
    JobResult,
    Outcome,
    Output,
    PhaseResult,
    QueueInfo,
    RunningJob,
    RunResult,
    Task,
)
from jobmanager.events import CaseEnded
from jobmanager.model._repr import record_repr, value_repr
from jobmanager.model.as_data import AsData

MANY = b"\0" * 900_000
RUN = RunResult(outcome=Outcome.FAILED, stdout=MANY, stderr=MANY, evidence=(Evidence(kind="k", value="v" * 999, source="s"),) * 50)
CASE = CaseResult(name="n", outcome=Outcome.FAILED, text="t" * 9999, run=RUN)
PHASE = PhaseResult(name="p", outcome=None, run=RUN, tests={str(n): {"output": "x" * 9999} for n in range(99)}, cases=(CASE,) * 999)
RESULT = JobResult(
    job_id="j", outcome=Outcome.FAILED, text="t" * 9999, problems={str(n): ("failed", "t" * 999) for n in range(99)},
    tests={str(n): True for n in range(999)}, custom={"a": [[[[[["x" * 999] * 99] * 99] * 99] * 99] * 99]}, archive=MANY,
    stdout=MANY, stderr=MANY, evidence=RUN.evidence, phases=(PHASE,) * 32, build=RUN, cases=(CASE,) * 999,
)  # fmt: skip


@pytest.mark.parametrize(
    "record",
    [
        RESULT,
        RUN,
        CASE,
        PHASE,
        Output(stderr=False, data=MANY[:65536], case=CASE),
        CaseEnded(at_s=0.0, job_id="j", number=1, of=2, result=CASE),
        JobInput({"a": MANY, "b": {"filename": "f", "value": MANY}}, files={"f": MANY}, stdin=MANY),
        Task("x", command=["echo", "a" * 100_000], files={"f": MANY}, collect=["*"] * 999),
        RunningJob("j", True, "i" * 9999, "l" * 9999, 0.0, 0.0, "h"),
    ],
    ids=lambda record: type(record).__name__,
)
def test_the_repr_of_a_record_is_short_whatever_it_holds(record: Any) -> None:
    assert repr(record).startswith(f"{type(record).__name__}(")
    assert len(repr(record)) < 40_000


def test_a_long_stream_is_cut_and_its_length_said() -> None:
    assert f"stdout={MANY[:200]!r}... (900000 bytes)" in repr(RESULT)
    assert f"text='{'t' * 200}'... (9999 characters)" in repr(RESULT)
    assert "cases=(CaseResult(name='n', " in repr(RESULT) and ", ... (999 in all))" in repr(RESULT)


def test_a_short_record_looks_as_python_would_write_it() -> None:
    evidence = Evidence(kind="exit_code", value=1, source="the runner")
    assert repr(evidence) == "Evidence(kind='exit_code', value=1, source='the runner')"
    assert eval(repr(evidence)) == evidence
    assert repr(QueueInfo(3, None)) == "QueueInfo(jobs_before=3, wait_s=None)"
    assert repr(CallbackInfo(4, 1, 0)) == "CallbackInfo(threads=4, running=1, waiting=0)"


@pytest.mark.parametrize(
    "value",
    [b"abc", "abc", 5, 1.5, None, True, (), [], {}, set(), frozenset(), (1,), (1, 2), [1], {"a": 1}, {1}, frozenset({1})],
    ids=repr,
)
def test_a_small_value_looks_as_python_would_write_it(value: object) -> None:
    assert value_repr(value) == repr(value)


def test_a_number_that_python_refuses_to_convert_is_shown() -> None:
    assert repr(JobInput({"a": 10**5000})) == "JobInput(answers={'a': <a number of 16610 bits>}, executables=frozenset())"


def test_of_contents_that_may_be_private_or_large_the_size_is_shown() -> None:
    shown = repr(JobInput(files={"f": b"secret"}, stdin=b"secret"))
    assert shown == "JobInput(answers={}, files={'f': <6 bytes>}, executables=frozenset(), stdin=<6 bytes>)"
    task = Task("x", command="a", files={"f": b"secret"}, env={"A": "secret"}, cases=[Case("secret")] * 3)
    assert "secret" not in repr(task) and "files={'f': <6 bytes>}" in repr(task) and "cases=<3>" in repr(task)
    assert repr(Case("secret", files={"f": b"secret"}, expected="secret")).count("<6 bytes>") == 3
    assert len(repr(JobInput(files={f"{number}": MANY for number in range(999)}))) < 500


def test_a_users_own_subclass_keeps_its_own_repr() -> None:
    class Mine(JobResult):
        def __repr__(self) -> str:
            return "mine"

    assert repr(Mine(job_id="j", outcome=Outcome.SUCCESS)) == "mine"
    assert repr([Mine(job_id="j", outcome=Outcome.SUCCESS)]) == "[mine]"


def test_every_public_record_has_the_short_repr_and_is_data() -> None:
    public = [getattr(jobmanager, name) for name in jobmanager.__all__]
    results = [cls for cls in public if inspect.isclass(cls) and issubclass(cls, AsData)]
    assert {QueueInfo, RunningJob, CallbackInfo, JobResult, Output} <= set(results)
    assert [cls for cls in results if cls.__repr__ is not record_repr] == []
    assert all(dataclasses.is_dataclass(cls) or hasattr(cls, "_fields") for cls in results)


# ---- the pair of the old client


def test_a_place_in_the_queue_is_a_pair_with_the_remaining_time_beside_it() -> None:
    waits, runs = QueueInfo(3, 12.5), QueueInfo(-1, 20.0)
    before, wait_s = waits
    assert (before, wait_s) == (3, 12.5) == waits and len(waits) == 2
    assert (waits.is_running, waits.remaining_s) == (False, None)
    assert (runs.is_running, runs.remaining_s) == (True, 20.0)
    assert runs.to_dict() == {"jobs_before": -1, "wait_s": 20.0}
    assert QueueInfo.from_dict(runs.to_dict()) == runs


# ---- summary


def test_a_summary_says_how_a_job_ended_and_why_then_the_numbers() -> None:
    result = JobResult(
        job_id="j7", outcome=Outcome.OVERFLOW, text="memory limit of 32 MiB reached", limit="memory", signal="SIGKILL", host="h1",
        killed_by="kernel", cpu_time_s=0.123, wall_time_s=1.5, peak_memory_mib=32.04, timings={"waiting": 0.5, "run": 1.0},
    )  # fmt: skip
    assert result.summary() == (
        "overflow, grade 0: memory limit of 32 MiB reached\n"
        "job j7 on h1: SIGKILL, limit: memory, killed by: kernel, CPU 0.12 s, clock 1.50 s, memory 32.0 MiB, waited 0.50 s"
    )


def test_a_summary_counts_cases_and_phases_and_has_two_lines_whatever_the_text_is() -> None:
    good = CaseResult(name="a", outcome=Outcome.SUCCESS)
    phases = (PhaseResult(name="build", outcome=Outcome.FAILED), PhaseResult(name="test", outcome=None))
    result = JobResult(
        job_id="j\x1b",
        outcome=Outcome.FAILED,
        grade=66.7,
        text="one\n\x1b[2Jtwo " + "x" * 999,
        cases=(good, CASE, good),
        phases=phases,
    )
    first, second = result.summary().splitlines()
    assert first.startswith("failed, grade 66.7, 2 of 3 cases, 0 of 2 phases: one \\x1b[2Jtwo xxx") and first.endswith("x...")
    assert len(first) < 300
    assert second == "job j\\x1b, on no host: nothing was measured"


def test_a_summary_of_a_plain_success_has_no_reason() -> None:
    result = JobResult(job_id="j", outcome=Outcome.SUCCESS, grade=100.0, exit_code=0, host="h")
    assert result.summary() == "success, grade 100\njob j on h: exit code 0"
