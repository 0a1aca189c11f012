"""The jobs of one client that somebody follows: one thread reads what their nodes send, and keeps it for the readers."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from redis.exceptions import RedisError

from jobmanager.errors import UnknownJob
from jobmanager.hooks import HookManager
from jobmanager.live_output.fan_out import reader_of_the_past
from jobmanager.live_output.output_buffer import OutputBuffer
from jobmanager.live_output.output_hooks import OutputHooks
from jobmanager.live_output.reader import LiveOutput
from jobmanager.live_output.run_buffer import Output
from jobmanager.model.result import CaseResult, JobResult, Outcome, PrintedOutput
from jobmanager.remote.open_jobs import OpenJob, OpenJobs
from jobmanager.remote.output import MAX_ENVELOPE_BYTES, JobOutputStream, OutputPiece
from jobmanager.remote.records import BadMessage, NodeCommand
from jobmanager.remote.signed_messages import opened, signed
from jobmanager.remote.signing import BadSignature, Signer
from jobmanager.remote.store import ClusterStore
from jobmanager.results.facts import NO_PROGRESS, CapturedOutput, CasesProgress, ContainerEnded, RunCutOff, RunFacts
from jobmanager.scheduling.job_record import OutputSource, RunSource
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_BLOCK_S = 0.25  # for which a read waits: then there may be another job to read
_PAUSE_S = 0.5  # after an error
_JOIN_S = 3.0
_ASK_AGAIN_S = 2.0  # between two requests to begin anew, as pieces were lost
_BEGINNING = "0-0"


@dataclass(slots=True, kw_only=True)
class _FollowedJob:
    """A job that is followed. What is shown is changed by two threads, under ``FollowedJobs``'s lock for that."""

    job: OpenJob
    buffer: OutputBuffer
    after: str = _BEGINNING  # the last entry that was read
    token: str = ""  # of the placement whose pieces are shown
    placement: int = 0  # counts them, and beginnings anew
    runs: list[RunSource] = field(default_factory=list)
    asked_at: float = 0.0

    def begin(self, token: str) -> None:
        """What is shown from now on is of this placement, from its beginning."""
        self.token, self.runs = token, []
        self.placement += 1

    def comes_to(self, phase: str) -> bool:
        """Whether what has come is of the last run, which this may begin, and not of one before: that was sent once more."""
        if not self.runs or self.runs[-1].phase != phase:
            if any(run.phase == phase for run in self.runs):
                return False
            self.runs.append(RunSource(phase=phase, container=f"{self.placement}/{len(self.runs)}"))
        return True

    @property
    def source(self) -> OutputSource:
        """What is to be shown by now."""
        return OutputSource(placement=self.placement, runs=tuple(self.runs), ended=False)


class FollowedJobs:
    """Thread-safe. ``started`` and ``ended`` are for the client's reader thread."""

    def __init__(self, store: ClusterStore, signer: Signer, jobs: OpenJobs, hooks: HookManager, *, client: str) -> None:
        self._store = store
        self._signer = signer
        self._jobs = jobs
        self._hooks = OutputHooks(hooks)
        self._client = client
        self._changing = threading.Lock()  # held while output is added to a buffer: by the thread that reads, or at a job's end
        self._lock = threading.Lock()  # guards what follows
        self._followed: dict[str, _FollowedJob] = {}  # by R
        self._thread: threading.Thread | None = None
        self._is_stopped = False
        self._closing = threading.Event()

    def follow(self, job_id: str, timeout_s: float | None) -> LiveOutput:
        """One more reader; raises UnknownJob."""
        job = self._jobs.by_id(job_id)
        if job is None:
            raise UnknownJob(f"there is no job with the id {job_id!r} in this process, or its callback has returned")
        with self._lock:
            followed = self._followed.get(job.r)
            is_first = followed is None
            if followed is None:
                followed = self._followed[job.r] = _FollowedJob(job=job, buffer=OutputBuffer(job_id))
            reader = LiveOutput(followed.buffer, timeout_s)
            self._start_thread()
            is_stopped = self._is_stopped
        if is_stopped:
            reader.close()
            return reader
        if (result := job.result) is not None:  # its end may have come before there was a buffer
            reader.close()
            self.ended(job, result)
            return reader_of_the_past(job_id, _source_of(result, 1, ()), timeout_s, told=result.to_submitter)
        if is_first:
            self.started(job)
        return reader

    def started(self, job: OpenJob) -> None:
        """A node has the job, perhaps another one than before. If it is followed, the node is told."""
        with self._lock:
            followed = self._followed.get(job.r)
        if followed is not None:
            self._send("follow", followed)

    def cases_ended(self, job: OpenJob, phase: str, first: int, cases: Sequence[CaseResult]) -> None:
        """News of a job: these cases have ended, the first of which has this number. They have nothing of what was printed."""
        with self._lock:
            followed = self._followed.get(job.r)
        if followed is None:
            return
        with self._changing:
            if not followed.buffer.ended:
                self._hooks.fire_all(followed.buffer, self._add_cases(followed, phase, first, cases))

    def ended(self, job: OpenJob, result: JobResult) -> None:
        """A job has its result: what was not shown of its output is in it."""
        with self._lock:
            followed = self._followed.pop(job.r, None)
        if followed is None:
            return
        with self._changing:
            source = _source_of(result, max(1, followed.placement), followed.runs)
            self._hooks.fire_all(followed.buffer, followed.buffer.catch_up(source))
            self._hooks.fire_all(followed.buffer, followed.buffer.tell_rest(result.to_submitter))
            followed.buffer.finish()
            self._hooks.fire_missed(followed.buffer)
        with suppress(RedisError, OSError):
            self._stream(followed).remove()

    def stop(self) -> None:
        """End all readers, and those that come later."""
        with self._lock:
            self._is_stopped = True
            buffers = [followed.buffer for followed in self._followed.values()]
        for buffer in buffers:
            buffer.end_readers()

    def close(self) -> None:
        """No job prints any more."""
        self._closing.set()
        with self._lock:
            thread, followed = self._thread, list(self._followed.values())
            self._followed.clear()
        for each in followed:
            each.buffer.finish()
        if thread is not None:
            thread.join(_JOIN_S)

    def abandon(self) -> None:
        """In a forked child: the jobs are the parent's. Its locks may be held by threads that are not here."""
        for followed in self._followed.values():
            followed.buffer.changed, followed.buffer.ended = threading.Condition(), True

    # ---- the thread

    def _start_thread(self) -> None:
        if self._thread is None and not self._closing.is_set():
            self._thread = threading.Thread(target=self._read_while_followed, name="jobmanager-remote-output", daemon=True)
            self._thread.start()

    def _read_while_followed(self) -> None:
        while not self._closing.is_set():
            try:
                if not self._drop_unread() and self._is_last():
                    return
                self._read()
            except (RedisError, OSError) as error:
                _log.debug("output cannot be read now: %s", error)
                self._closing.wait(_PAUSE_S)
            except Exception:  # noqa: BLE001 - the loop's edge
                _log.exception("the reader of output met an error and goes on")
                self._closing.wait(_PAUSE_S)

    def _is_last(self) -> bool:
        with self._lock:
            if not self._followed:
                self._thread = None
            return not self._followed

    def _drop_unread(self) -> bool:
        """Forget the jobs that nobody follows any more. Whether others are left."""
        with self._lock:
            unread = [followed for followed in self._followed.values() if not followed.buffer.has_readers()]
            for followed in unread:
                del self._followed[followed.job.r]
            is_any_left = bool(self._followed)
        for followed in unread:
            self._send("unfollow", followed)
            self._stream(followed).remove()
        return is_any_left

    def _read(self) -> None:
        with self._lock:
            by_r = dict(self._followed)
        after = {r: followed.after for r, followed in by_r.items()}
        for r, entries in self._store.read_outputs(after, block_s=_BLOCK_S):
            followed = by_r[r]
            for entry, envelope in entries:
                followed.after = entry
                self._take(followed, envelope)
            self._stream(followed).forget(entry for entry, _ in entries)

    def _take(self, followed: _FollowedJob, envelope: str) -> None:
        try:
            piece = opened(self._signer, OutputPiece, envelope, MAX_ENVELOPE_BYTES)
            if piece.r != followed.job.r:
                raise BadMessage("it is another job's output")
            with self._changing:
                if not followed.buffer.ended:
                    self._hooks.fire_all(followed.buffer, self._add(followed, piece))
        except (BadSignature, BadMessage) as error:
            _log.warning("output of job %s is not believed: %s", followed.job.job_id, error)

    def _add(self, followed: _FollowedJob, piece: OutputPiece) -> Iterator[Output]:
        if piece.ended:
            return
        if piece.token != followed.token or piece.starts_again:
            followed.begin(piece.token)
        if piece.starts_again or not followed.comes_to(piece.phase):
            return
        yield from followed.buffer.catch_up(followed.source)
        container = followed.runs[-1].container
        if piece.to_submitter:
            if followed.buffer.told() < piece.at:  # texts before it were lost
                self._ask_again(followed)
            yield from followed.buffer.tell(container, piece.at, piece.to_submitter)
            return
        stderr, shown = bool(piece.stderr), followed.buffer.shown(bool(piece.stderr))
        if shown < piece.at - piece.missed_bytes:  # pieces before it were lost
            self._ask_again(followed)
            return
        yield from followed.buffer.miss(container, stderr, piece.at)
        yield from followed.buffer.add(container, stderr, piece.at, piece.content)

    def _add_cases(self, followed: _FollowedJob, phase: str, first: int, cases: Sequence[CaseResult]) -> Iterator[Output]:
        """Those after some that were never heard of are shown at the job's end."""
        if followed.job.seen.token != followed.token:
            followed.begin(followed.job.seen.token)
        if not followed.comes_to(phase):
            return
        run = followed.runs[-1]
        if first == len(run.progress.cases) + 1:
            followed.runs[-1] = replace(run, progress=CasesProgress(cases=(*run.progress.cases, *cases)))
            yield from followed.buffer.catch_up(followed.source)

    def _ask_again(self, followed: _FollowedJob) -> None:
        if time.monotonic() - followed.asked_at > _ASK_AGAIN_S:
            followed.asked_at = time.monotonic()
            self._send("follow", followed)

    def _send(self, command: str, followed: _FollowedJob) -> None:
        """Tell the job's node; nothing while it has none, or while Redis is away."""
        node, r = followed.job.seen.node, followed.job.r
        if followed.job.seen.state != "running":
            return
        message = NodeCommand(command=command, r=r, client=self._client, nonce=secrets.token_hex(16), at_s=time.time())
        with suppress(RedisError, OSError):
            self._store.send_command(node, signed(self._signer, message))

    def _stream(self, followed: _FollowedJob) -> JobOutputStream:
        return JobOutputStream(self._store.redis, self._store.keys, followed.job.r)


def _source_of(result: JobResult, placement: int, shown: Iterable[RunSource]) -> OutputSource:
    """What a result has of a job's output: first what was shown of it, in that order."""
    printed: dict[str, PrintedOutput | None] = {
        phase.name: phase.build if phase.cases else phase.run for phase in result.phases if phase.run is not None
    }
    cases = {phase.name: CasesProgress(cases=_ended(phase.cases)) for phase in result.phases}
    if not result.phases:
        printed[""], cases[""] = result.build if result.cases else result, CasesProgress(cases=_ended(result.cases))
    runs = [
        RunSource(
            phase=run.phase,
            container=run.container,
            facts=_facts(printed.pop(run.phase, None)),
            progress=cases.get(run.phase, NO_PROGRESS),
        )
        for run in shown
    ]
    runs += [RunSource(phase=phase, facts=_facts(output), progress=cases[phase]) for phase, output in printed.items()]
    return OutputSource(placement=placement, runs=tuple(runs), ended=True)


def _ended(cases: Sequence[CaseResult]) -> tuple[CaseResult, ...]:
    return tuple(case for case in cases if case.run is not None or case.outcome is Outcome.ERROR)


def _facts(printed: PrintedOutput | None) -> RunFacts:
    """Facts of a run of which nothing but its output matters here."""
    output = CapturedOutput()
    if printed is not None:
        output = CapturedOutput(
            stdout=printed.stdout,
            stderr=printed.stderr,
            stdout_bytes=printed.stdout_bytes,
            stderr_bytes=printed.stderr_bytes,
        )
    return RunFacts(ending=RunCutOff(cause=ContainerEnded()), output=output)
