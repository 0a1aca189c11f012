"""What happened to the jobs of several clients on several machines, and whether it may have: a log on disk, and a checker.

As in ``history.py``: what happens is written down as it happens, by each process into a file of its own, and judged later.
The rules, one function each:

* ``lost``: an accepted job whose client lives, or has come back under its id, was called back.
* ``doubled``: no process was called back twice for a job. A second process of the same client may be, when the first one
  was killed: whether the first one's callback had come to its end, nobody can know.
* ``uninvited``: no callback and no run of a job that was refused or never asked for. Where Redis went away meanwhile, nobody knew
  whether it was accepted: it may have been started before it was cancelled.
* ``run_too_often``: a program was started at most once, or once more for each of its ``retries``.
* ``run_nowhere``: what ended as a program ends was run.
* ``wrong_outcomes``: a job ended as its program does. A crash needs a fault that the test has announced.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

from jobmanager import JobInput, JobResult, Outcome, Pipeline, Task
from jobmanager.errors import JobManagerError

__all__ = ["ClusterHistory", "Happening", "cluster_violations", "read_happenings"]

_OF_PROGRAMS = {Outcome.SUCCESS.value, Outcome.FAILED.value, Outcome.OVERFLOW.value, Outcome.TIMEOUT.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One line of the log."""

    what: str  # submitting, accepted, refused, called_back, kill_taken; process_killed, fault
    process: str  # who wrote it: the client's name and its process
    client: str = ""
    job_id: str = ""
    expected: str = ""  # submitting: the outcome of its program; empty: any
    retries: int = 0  # submitting: programs of it that may be started after the first one
    outcome: str = ""  # called_back
    text: str = ""  # called_back, refused, fault
    at_s: float = 0.0  # by the machine's monotonic clock, which all processes share


class _Submits(Protocol):
    def new_job(self, task: Task | Pipeline, inputdata: Any = None, callback: Any = None, **options: Any) -> str: ...


class ClusterHistory:
    """The log of one process. Thread-safe; what was written survives the process's end."""

    def __init__(self, folder: Path, client: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.client = client
        self.process = f"{client}-{os.getpid()}"
        self._lock = threading.Lock()
        self._file: IO[str] = (folder / f"{self.process}-{time.monotonic_ns()}.history").open("a")
        self._called_back = 0

    def submit(
        self,
        client: _Submits,
        task: Task | Pipeline,
        inputdata: JobInput | None = None,
        *,
        job_id: str,
        expected: Outcome | None = None,
        **options: Any,
    ) -> str:
        """Submit a job and write down what comes of it: empty when it was accepted, else why not."""
        again = task.retries if isinstance(task, Task) else len(task.phases) - 1
        self.write("submitting", job_id, expected=expected.value if expected else "", retries=again)
        try:
            client.new_job(task, inputdata, self.called_back, job_id=job_id, **options)
        except JobManagerError as error:
            refusal = f"{type(error).__name__}: {error}"
            self.write("refused", job_id, text=refusal)
            return refusal
        self.write("accepted", job_id)
        return ""

    def called_back(self, result: JobResult) -> None:
        """The callback of every job."""
        self.write("called_back", result.job_id, outcome=result.outcome.value, text=result.text)
        with self._lock:
            self._called_back += 1

    def kill_taken(self, job_id: str) -> None:
        """``kill_job`` said that it would kill it."""
        self.write("kill_taken", job_id)

    def process_killed(self, process: str) -> None:
        """A client's process was killed: the name that its own history has."""
        self.write("process_killed", text=process)

    def fault(self, text: str) -> None:
        """Something was broken by which jobs may crash."""
        self.write("fault", text=text)

    @property
    def count(self) -> int:
        """Callbacks so far, here."""
        with self._lock:
            return self._called_back

    def write(self, what: str, job_id: str = "", **more: Any) -> None:
        """Append a line."""
        happening = Happening(what=what, process=self.process, client=self.client, job_id=job_id, at_s=time.monotonic(), **more)
        with self._lock:
            self._file.write(json.dumps(asdict(happening)) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> ClusterHistory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_happenings(folder: Path) -> list[Happening]:
    """What all processes have written, in the order in which it happened; a line that a kill has cut is left out."""
    lines = [line for file in folder.glob("*.history") for line in file.read_text().splitlines(keepends=True)]
    found = [Happening(**json.loads(line)) for line in lines if line.endswith("\n")]
    return sorted(found, key=lambda each: each.at_s)


@dataclass(slots=True)
class _Job:
    """What happened to one job."""

    submitted: list[Happening] = field(default_factory=list)
    accepted: bool = False
    refused: bool = False
    may_run: bool = False  # although it was refused
    kill_taken: bool = False
    called_back: list[Happening] = field(default_factory=list)


@dataclass(slots=True)
class _Whole:
    """A history, sorted."""

    jobs: dict[str, _Job]
    runs: Mapping[str, int]
    killed: set[str]  # processes
    living_clients: set[str]  # with a process that was not killed
    faults: list[Happening]


def cluster_violations(happenings: Sequence[Happening], runs: Mapping[str, int]) -> list[str]:
    """Everything that must not be, in words; `runs`: how often each job's program was started, on all nodes together."""
    whole = _sorted(happenings, runs)
    return [found for rule in _RULES for found in rule(whole)]


def _sorted(happenings: Sequence[Happening], runs: Mapping[str, int]) -> _Whole:
    jobs: dict[str, _Job] = {}
    killed = {each.text for each in happenings if each.what == "process_killed"}
    for each in happenings:
        if not each.job_id:
            continue
        job = jobs.setdefault(each.job_id, _Job())
        if each.what == "submitting":
            job.submitted.append(each)
        elif each.what == "called_back":
            job.called_back.append(each)
        elif each.what == "accepted":
            job.accepted = True
        elif each.what == "refused":
            job.refused = True
            job.may_run = each.text.startswith("RedisUnavailable")  # until its cancellation reaches its node
        elif each.what == "kill_taken":
            job.kill_taken = True
    living = {each.client for each in happenings if each.process not in killed}
    return _Whole(jobs, runs, killed, living, [each for each in happenings if each.what == "fault"])


def _lost(whole: _Whole) -> Iterator[str]:
    for job_id, job in whole.jobs.items():
        if job.accepted and not job.called_back and job.submitted[0].client in whole.living_clients:
            yield f"lost: {job_id} of {job.submitted[0].client} was accepted, and never called back"


def _doubled(whole: _Whole) -> Iterator[str]:
    for job_id, job in whole.jobs.items():
        for process, times in Counter(each.process for each in job.called_back).items():
            if times > 1:
                yield f"doubled: {job_id} was called back {times} times in {process}"
        if sum(each.process not in whole.killed for each in job.called_back) > 1:
            yield f"doubled: {job_id} was called back in several living processes"


def _uninvited(whole: _Whole) -> Iterator[str]:
    for job_id, job in whole.jobs.items():
        if job.called_back and (job.refused or not job.submitted):
            yield f"uninvited: {job_id} was called back, and never accepted"
        if whole.runs.get(job_id) and job.refused and not job.may_run:
            yield f"uninvited: {job_id} was run, and never accepted"
    for job_id in whole.runs.keys() - whole.jobs.keys():
        yield f"uninvited: {job_id} was run, and never asked for"


def _run_too_often(whole: _Whole) -> Iterator[str]:
    for job_id, job in whole.jobs.items():
        allowed = 1 + (job.submitted[0].retries if job.submitted else 0)
        if whole.runs.get(job_id, 0) > allowed:
            yield f"run too often: {job_id} was started {whole.runs[job_id]} times, at most {allowed} are allowed"


def _run_nowhere(whole: _Whole) -> Iterator[str]:
    for job_id, job in whole.jobs.items():
        if not whole.runs.get(job_id) and any(each.outcome in _OF_PROGRAMS for each in job.called_back):
            yield f"run nowhere: {job_id} ended as {job.called_back[0].outcome}, and no engine has started it"


def _wrong_outcomes(whole: _Whole) -> Iterator[str]:
    for job_id, job in whole.jobs.items():
        for call in job.called_back:
            if wrong := _wrong(job, call, whole):
                yield f"wrong outcome: {job_id} is {call.outcome} ({call.text}): {wrong}"


def _wrong(job: _Job, call: Happening, whole: _Whole) -> str:
    expected = job.submitted[0].expected if job.submitted else ""
    if call.outcome == Outcome.KILLED.value:
        return "" if job.kill_taken else "nobody asked for its end"
    if call.outcome == Outcome.CRASH.value and expected != Outcome.CRASH.value:
        return "" if any(fault.at_s <= call.at_s for fault in whole.faults) else "and nothing was broken"
    return "" if not expected or call.outcome == expected else f"its program ends as {expected}"


_RULES: Sequence[Callable[[_Whole], Iterator[str]]] = (
    _lost,
    _doubled,
    _uninvited,
    _run_too_often,
    _run_nowhere,
    _wrong_outcomes,
)
