"""What happened in a long random run, and whether it may have: records, a log of them on disk, and a checker.

In the manner of Jepsen: the run writes down every call, callback and fault as it happens, and knows nothing of right and
wrong; afterwards ``violations`` reads it all and says what cannot be. Its rules, one function each:

* ``lost``, ``doubled``, ``uninvited``: each job that was accepted has one callback, and nothing else has any.
* ``wrong_outcomes``: each job ended as its program must end. The death of a process of ours excuses nothing. Where a
  Docker host's end took the containers with it, a job that was there may be a ``crash`` with that evidence.
* ``ran_twice``, ``ran_nowhere``: by the beginnings in its output, and by a witness outside the containers.
* ``impossible_orders``: nothing is called back before it was asked for, no time goes backwards.
* ``not_flat``, ``left_behind``: memory, descriptors and threads of the caller; containers, volumes and shims of the hosts.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType

from jobmanager import Outcome

MIB = 2**20
_RSS_SLACK_BYTES = 10 * MIB
_RSS_BYTES_PER_JOB = 40  # 4 MiB over 100,000 jobs: what an allocator keeps in pieces


class Fault(str, Enum):
    """What was done to the system."""

    WORKER_KILLED = "pool worker killed"
    WAITER_KILLED = "waiter killed"
    WAITER_STOPPED = "waiter stopped for a moment"
    DAEMON_KILLED = "daemon killed, containers with it"
    DAEMON_TERMINATED = "daemon told to end, containers with it"
    DAEMON_KILLED_ALONE = "daemon killed, containers run on"
    DAEMON_AWAY = "daemon away, containers run on"
    DAEMON_HUNG = "daemon stopped for a moment"
    REPLIES_DROPPED = "replies dropped"
    REPLIES_DELAYED = "replies delayed"


_END_CONTAINERS = {Fault.DAEMON_KILLED, Fault.DAEMON_TERMINATED}
_FORGETS = {Fault.DAEMON_KILLED, Fault.DAEMON_KILLED_ALONE, Fault.DAEMON_AWAY}
_OF_MEMORY = {"oom_kills", "oom_killed"}
_DAEMON_DIED = {"ended_during_outage", "stopped_externally"}  # kinds of evidence that such a fault may leave
_DAEMON_HUNG = {"infrastructure_error"}  # the delivery hung for longer than the job's own clock allows


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """How a job must end."""

    outcome: Outcome
    exit_code: int | None = None
    evidence: str | None = "exit_code"  # the kind that must decide; None: a job without a container has none
    body: bytes | None = b""  # what is printed between its beginning and its end; None: it comes to no end by itself
    archived: bytes | None = None  # content of the one file that is collected
    in_container: bool = True
    in_a_hurry: bool = False  # its own clock is shorter than a daemon hangs
    may_lose_pid_1: bool = False  # out of memory, the kernel chooses: the hog, the shell that waits for it, or even PID 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """``new_job`` is called; written before, as the callback may come before it returns."""

    job_id: str
    kind: str
    expected: Expected
    at_s: float = 0.0  # by a monotonic clock; the log sets it


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """``new_job`` raised."""

    job_id: str
    error: str
    at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KillAsked:
    """``kill_job`` is called."""

    job_id: str
    at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KillAnswered:
    """``kill_job`` returned."""

    job_id: str
    taken: bool
    at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CalledBack:
    """A callback."""

    job_id: str
    outcome: Outcome
    exit_code: int | None = None
    evidence: str | None = None  # the kind that decided
    text: str = ""
    stdout: bytes = b""
    archived: bytes | None = None
    tells_what_is_missing: bool = False  # evidence says why collected files are not there
    host: str | None = None
    waited_s: float = 0.0  # from its acceptance until it was placed there
    at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultBegan:
    """Something is about to be broken."""

    number: int
    fault: Fault
    target: str
    host: str | None = None
    at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultOver:
    """It is whole again: a daemon answers, a process goes on."""

    number: int
    at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The caller's process at a moment when nothing ran, or (when not ``quiet``) on the way."""

    jobs: int  # called back so far
    rss_bytes: int
    descriptors: int
    threads: int
    quiet: bool
    at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """``close`` is called: who has not been called back by now was lost."""

    at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """Something was left behind, seen after ``close``."""

    host: str
    what: str
    kept_by_engine: bool = False  # after a restart; no program of a job is in it
    at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnessed:
    """How often a job's program began, counted outside the containers."""

    job_id: str
    times: int
    at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessLeft:
    """The witness has said everything."""

    saw_all: bool
    at_s: float = 0.0


Record = (
    Submitted | Refused | KillAsked | KillAnswered | CalledBack | FaultBegan | FaultOver | Measured | Closing | Left | Witnessed
    | WitnessLeft
)
_KINDS = {kind.__name__: kind for kind in Record.__args__}


class HistoryLog:
    """An append-only file of records, a line each; on disk, since the memory of this very process is to be measured."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w")
        self._lock = threading.Lock()

    def add(self, record: Record) -> None:
        """Write a record with the present time; from any thread."""
        with self._lock:
            stamped = dataclasses.replace(record, at_s=round(time.monotonic(), 6))
            self._file.write(as_line(stamped))

    def close(self) -> None:
        """No more is written."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> HistoryLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def as_line(record: Record) -> str:
    """A record as a line of JSON."""
    return json.dumps({"record": type(record).__name__, **dataclasses.asdict(record)}, default=_bytes_as_text) + "\n"


def from_line(line: str) -> Record:
    """The record that a line holds."""
    said = json.loads(line)
    kind = _KINDS[said.pop("record")]
    for name, known in (("stdout", _bytes), ("archived", _bytes), ("outcome", Outcome), ("fault", Fault), ("expected", _expected)):
        if said.get(name) is not None:
            said[name] = known(said[name])
    return kind(**said)


def read_history(path: Path) -> Iterator[Record]:
    """All records of a file, in their order."""
    with path.open() as lines:
        for line in lines:
            yield from_line(line)


def _bytes_as_text(value: object) -> str:
    assert isinstance(value, bytes), value
    return value.decode("latin-1")


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")


def _expected(said: dict[str, object]) -> Expected:
    for name in ("body", "archived"):
        if said[name] is not None:
            said[name] = _bytes(str(said[name]))
    return Expected(**{**said, "outcome": Outcome(said["outcome"])})  # type: ignore[arg-type]


# ---- the checker


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """Something that must not be."""

    rule: str
    about: str  # a job's id, a host, ...
    text: str


@dataclass(slots=True)
class JobStory:
    """What a history says of one job."""

    submitted: list[Submitted] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    kills_asked: list[KillAsked] = field(default_factory=list)
    kills_answered: list[KillAnswered] = field(default_factory=list)
    called_back: list[CalledBack] = field(default_factory=list)
    times_run: int = 0  # by the witness

    @property
    def accepted(self) -> bool:
        """Whether ``new_job`` returned."""
        return bool(self.submitted) and not self.refused

    @property
    def kill_was_taken(self) -> bool:
        """Whether ``kill_job`` said that the job would be killed."""
        return any(answer.taken for answer in self.kills_answered)


@dataclass(slots=True)
class Story:
    """A history, sorted."""

    jobs: dict[str, JobStory] = field(default_factory=dict)
    faults: list[tuple[FaultBegan, float]] = field(default_factory=list)  # with the time when it was over
    measured: list[Measured] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    closing_at_s: float = float("inf")
    witness_saw_all: bool = False

    @classmethod
    def of(cls, records: Iterable[Record]) -> Story:
        """Sort records."""
        story = cls()
        begun: dict[int, FaultBegan] = {}
        over: dict[int, float] = {}
        for record in records:
            if isinstance(record, FaultBegan):
                begun[record.number] = record
            elif isinstance(record, FaultOver):
                over[record.number] = record.at_s
            else:
                story._add(record)
        story.faults = [(fault, over.get(number, float("inf"))) for number, fault in begun.items()]
        return story

    def _add(self, record: Record) -> None:
        if isinstance(record, Measured):
            self.measured.append(record)
        elif isinstance(record, Left):
            self.left.append(record)
        elif isinstance(record, Closing):
            self.closing_at_s = record.at_s
        elif isinstance(record, WitnessLeft):
            self.witness_saw_all = record.saw_all
        else:
            self._add_to_job(record)

    def _add_to_job(self, record: Record) -> None:
        job = self.jobs.setdefault(record.job_id, JobStory())
        if isinstance(record, Witnessed):
            job.times_run += record.times
            return
        places = {
            Submitted: job.submitted,
            Refused: job.refused,
            KillAsked: job.kills_asked,
            KillAnswered: job.kills_answered,
            CalledBack: job.called_back,
        }
        places[type(record)].append(record)


def violations(records: Sequence[Record]) -> list[Violation]:
    """Everything in a history that must not be; an empty list is what one hopes for."""
    story = Story.of(records)
    return [*impossible_orders(records), *(found for rule in RULES for found in rule(story))]


def lost(story: Story) -> Iterator[Violation]:
    """Accepted, and not called back before the end."""
    for job_id, job in story.jobs.items():
        if job.accepted and not any(call.at_s <= story.closing_at_s for call in job.called_back):
            yield Violation(rule="lost", about=job_id, text=f"{job.submitted[0].kind}: accepted, never called back")


def doubled(story: Story) -> Iterator[Violation]:
    """Called back more than once."""
    for job_id, job in story.jobs.items():
        if len(job.called_back) > 1:
            outcomes = ", ".join(call.outcome for call in job.called_back)
            yield Violation(rule="doubled", about=job_id, text=f"called back {len(job.called_back)} times: {outcomes}")


def uninvited(story: Story) -> Iterator[Violation]:
    """Called back or run although ``new_job`` refused it, or was never asked."""
    for job_id, job in story.jobs.items():
        if (job.called_back or job.times_run) and not job.accepted:
            yield Violation(rule="uninvited", about=job_id, text="called back or run, but never accepted")


def wrong_outcomes(story: Story) -> Iterator[Violation]:
    """Ended otherwise than its program does, without a fault that excuses it."""
    for job_id, job in story.jobs.items():
        for call in job.called_back:
            if job.accepted and (wrong := _wrong(job, call, story)):
                said = f"{call.outcome}, exit code {call.exit_code}, evidence {call.evidence}, {call.text!r} on {call.host}"
                yield Violation(rule="wrong outcome", about=job_id, text=f"{job.submitted[0].kind}: {wrong}; it is {said}")


def _wrong(job: JobStory, call: CalledBack, story: Story) -> str:
    """What is wrong with a job's result, in words; nothing when it is right."""
    expected = job.submitted[0].expected
    if job.kill_was_taken:
        return "" if call.outcome is Outcome.KILLED else "kill_job said that it would be killed"
    if call.outcome is Outcome.KILLED:
        return "kill_job did not say so"
    if call.outcome is Outcome.CRASH:
        return "" if _is_excused(job.submitted[0], call, story) else "a crash, and no fault that excuses it"
    lost_pid_1 = call.exit_code is None and call.evidence in _OF_MEMORY  # the engine tells it, or the runner had counted before
    if expected.may_lose_pid_1 and call.outcome is expected.outcome and lost_pid_1:
        return ""
    if (call.outcome, call.exit_code, call.evidence) != (expected.outcome, expected.exit_code, expected.evidence):
        return f"must be {expected.outcome}, exit code {expected.exit_code}, evidence {expected.evidence}"
    lost_files = call.archived is None and call.tells_what_is_missing and _faults_of_its_host(job.submitted[0], call, story)
    if call.archived != expected.archived and not lost_files:
        return f"must have collected {expected.archived!r}, not {call.archived!r}"
    return "" if _printed_right(call.stdout, expected) else f"must have printed {expected.body!r}, not {call.stdout!r}"


def _printed_right(stdout: bytes, expected: Expected) -> bool:
    if not expected.in_container:
        return stdout == b""
    if expected.body is None:
        return b"ended " not in stdout
    first = stdout.split(b"\n", 1)[0] + b"\n"
    if expected.may_lose_pid_1 and first.startswith(b"begun ") and stdout == first:
        return True
    return first.startswith(b"begun ") and stdout == first + expected.body + b"ended " + first.removeprefix(b"begun ")


def _is_excused(submitted: Submitted, call: CalledBack, story: Story) -> bool:
    """Whether a fault of its host, while the job was there, explains a crash with that evidence."""
    faults = _faults_of_its_host(submitted, call, story)
    died = call.evidence in _DAEMON_DIED and any(fault in _END_CONTAINERS for fault in faults)
    return died or (bool(faults) and submitted.expected.in_a_hurry and call.evidence in _DAEMON_HUNG)


def _faults_of_its_host(submitted: Submitted, call: CalledBack, story: Story) -> list[Fault]:
    """What happened to a job's host while the job was there."""
    placed_at = submitted.at_s + call.waited_s
    return [
        fault.fault
        for fault, over_at in story.faults
        if fault.host is not None and fault.host == call.host and fault.at_s <= call.at_s and placed_at <= over_at
    ]


def ran_twice(story: Story) -> Iterator[Violation]:
    """A program began more than once."""
    for job_id, job in story.jobs.items():
        if job.times_run > 1:
            yield Violation(rule="ran twice", about=job_id, text=f"its program began {job.times_run} times")
        for call in job.called_back:
            if call.stdout.count(b"begun ") > 1:
                yield Violation(rule="ran twice", about=job_id, text=f"its output has several beginnings: {call.stdout!r}")


def ran_nowhere(story: Story) -> Iterator[Violation]:
    """The result is of a run that the witness has not seen: then the witness, or the result, is worth nothing."""
    if not story.witness_saw_all:
        return
    for job_id, job in story.jobs.items():
        if not job.times_run and any(b"begun " in call.stdout for call in job.called_back):
            yield Violation(rule="ran nowhere", about=job_id, text="it has printed something, and nobody saw it begin")


def impossible_orders(records: Sequence[Record]) -> Iterator[Violation]:
    """Effects before their causes."""
    submitted: set[str] = set()
    kills: set[str] = set()
    faults: set[int] = set()
    now = float("-inf")
    for record in records:
        if record.at_s < now:
            yield Violation(rule="impossible order", about=type(record).__name__, text="time went backwards")
        now = record.at_s
        if isinstance(record, Submitted):
            if record.job_id in submitted:
                yield Violation(rule="impossible order", about=record.job_id, text="submitted twice")
            submitted.add(record.job_id)
        elif isinstance(record, (Refused, KillAsked, KillAnswered, CalledBack, Witnessed)) and record.job_id not in submitted:
            yield Violation(rule="impossible order", about=record.job_id, text=f"{type(record).__name__} before it was submitted")
        if isinstance(record, CalledBack) and record.outcome is Outcome.KILLED and record.job_id not in kills:
            yield Violation(rule="impossible order", about=record.job_id, text="killed before anybody asked for it")
        elif isinstance(record, KillAsked):
            kills.add(record.job_id)
        elif isinstance(record, FaultBegan):
            faults.add(record.number)
        elif isinstance(record, FaultOver) and record.number not in faults:
            yield Violation(rule="impossible order", about=f"fault {record.number}", text="over before it began")


def not_flat(story: Story) -> Iterator[Violation]:
    """What the caller's process has grown by between the first quiet moment and the last."""
    quiet = [measured for measured in story.measured if measured.quiet]
    if len(quiet) < 2:
        yield Violation(rule="not flat", about="the caller", text="not measured at two quiet moments")
        return
    first, last = quiet[0], quiet[-1]
    allowed = _RSS_SLACK_BYTES + (last.jobs - first.jobs) * _RSS_BYTES_PER_JOB
    for what, before, after, more in (
        ("resident memory", first.rss_bytes, last.rss_bytes, allowed),
        ("descriptors", first.descriptors, last.descriptors, 0),
        ("threads", first.threads, last.threads, 0),
    ):
        if after > before + more:
            yield Violation(rule="not flat", about=what, text=f"{before} before, {after} after")


def left_behind(story: Story) -> Iterator[Violation]:
    """Containers, volumes, shims.

    An engine that is killed while it starts a container forgets it, not so its containerd: a shim stays, with a PID 1 that waits
    for a job or with nothing. Nobody can reach it through the engine any more. One with a program in it is never excused.
    After a restart with live-restore the engine takes volumes for mounted whose containers have ended since, until the next one.
    """
    forgetful = {fault.host for fault, _ in story.faults if fault.fault in _FORGETS}
    for left in story.left:
        if not (left.kept_by_engine and left.host in forgetful):
            yield Violation(rule="left behind", about=left.host, text=left.what)


RULES: tuple[Callable[[Story], Iterator[Violation]], ...] = (
    lost,
    doubled,
    uninvited,
    wrong_outcomes,
    ran_twice,
    ran_nowhere,
    not_flat,
    left_behind,
)
