"""A long random run, drawn from a seed: jobs of many kinds, and faults at random moments, all of it written down.

``tests/support/history.py`` judges what was written. A seed gives the same jobs and the same faults after the same numbers of
callbacks; what falls into what moment is the machine's doing.
"""

from __future__ import annotations

import gc
import heapq
import io
import itertools
import random
import signal
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from jobmanager import DockerHost, JobManager, JobResult, Outcome
from jobmanager.errors import JobRefused
from jobmanager.testing import FakeEngineServer
from tests.conftest import open_files
from tests.support.history import (
    MIB,
    CalledBack,
    Closing,
    Fault,
    FaultBegan,
    FaultOver,
    HistoryLog,
    KillAnswered,
    KillAsked,
    Measured,
    Record,
    Refused,
    Story,
    Submitted,
    Violation,
    read_history,
    violations,
)
from tests.support.soak_hosts import FAKE_PROGRAMS, FakeSite, RealSite, Site, host_name, job_id, pass_time, real_daemons
from tests.support.soak_jobs import Job, Jobs
from tests.support.witness import NoWitness, Witness

_KEPT_STDOUT = 8192
_STUCK_S = 180.0  # without any callback: what has not ended by then is lost
_POLL_S = 0.05
_AFTERWARDS_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is made of."""

    seed: int
    jobs: int
    warm_up_jobs: int  # the first ones, without faults; then the caller's process is measured
    in_flight: int  # accepted and not called back, at most
    kills_within_s: float  # between a job's submission and the call of kill_job
    child_faults: int
    daemon_faults: int


class Soak:
    """One run; ``run`` once."""

    def __init__(self, plan: Plan, site: Site, log: HistoryLog) -> None:
        self._plan = plan
        self._site = site
        self._log = log
        self._manager = JobManager(
            [DockerHost(url, name=host_name(number), max_concurrent_jobs=site.slots) for number, url in enumerate(site.urls)]
        )
        self._room = threading.Semaphore(plan.in_flight)
        self._changed = threading.Condition()
        self._called_back = 0
        self._kills: list[tuple[float, str]] = []
        self._ended = False
        self._fault_numbers = itertools.count()

    def run(self) -> None:
        """Everything, to the manager's end."""
        plan, jobs = self._plan, Jobs(self._site, seed=self._plan.seed, kills_within_s=self._plan.kills_within_s)
        with self._manager:
            _becomes(lambda: all(host.up for host in self._manager.hosts()), _AFTERWARDS_S)  # else little can be refused
            killer = threading.Thread(target=self._kill_jobs, name="soak-killer")
            killer.start()
            try:
                accepted = self._submit_all(jobs, range(plan.warm_up_jobs))
                self._settle(accepted)
                first = self._measure(quiet=True)
                with ExitStack() as stack:
                    for strikes in (self._strike_children, self._strike_daemons):
                        thread = threading.Thread(target=strikes, name=strikes.__name__)
                        thread.start()
                        stack.callback(thread.join)
                    stack.callback(self._end)
                    accepted += self._submit_all(jobs, range(plan.warm_up_jobs, plan.jobs))
                    self._wait_until_called_back(accepted)
                self._settle(accepted)
                self._settle_descriptors(first)
                self._measure(quiet=True)
            finally:
                self._end()
                killer.join()
            self._log.add(Closing())
        self._look_for_leftovers()
        for record in self._site.witnessed(plan.jobs):
            self._log.add(record)

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    # ---- jobs

    def _submit_all(self, jobs: Jobs, numbers: range) -> int:
        accepted = 0
        for number in numbers:
            if not self._room.acquire(timeout=_STUCK_S):
                break  # nothing moves any more; the checker will say what was lost
            accepted += self._submit(number, jobs.draw(number))
            if number % max(1, self._plan.jobs // 8) == 0:
                self._measure(quiet=False)
        return accepted

    def _submit(self, number: int, job: Job) -> bool:
        id_ = job_id(number)
        self._log.add(Submitted(job_id=id_, kind=job.kind, expected=job.expected))
        try:
            self._manager.new_job(job.task, job.inputs, self._keep, priority=job.priority, job_id=id_)
        except JobRefused as error:
            self._log.add(Refused(job_id=id_, error=type(error).__name__))
            self._room.release()
            return False
        if job.kill_after_s is not None:
            with self._changed:
                heapq.heappush(self._kills, (time.monotonic() + job.kill_after_s, id_))
                self._changed.notify_all()
        return True

    def _keep(self, result: JobResult) -> None:
        self._log.add(
            CalledBack(
                job_id=result.job_id,
                outcome=result.outcome,
                exit_code=result.exit_code,
                evidence=result.evidence[0].kind if result.evidence else None,
                text=result.text,
                stdout=result.stdout[:_KEPT_STDOUT],
                archived=_only_file(result.archive),
                tells_what_is_missing=any(evidence.kind == "archive" for evidence in result.evidence),
                host=result.host,
                waited_s=result.timings.get("waiting", 0.0),
            )
        )
        self._room.release()
        with self._changed:
            self._called_back += 1
            self._changed.notify_all()

    def _kill_jobs(self) -> None:
        while (due := self._next_kill()) is not None:
            self._log.add(KillAsked(job_id=due))
            self._log.add(KillAnswered(job_id=due, taken=self._manager.kill_job(due)))

    def _next_kill(self) -> str | None:
        with self._changed:
            while not self._ended:
                now = time.monotonic()
                if self._kills and self._kills[0][0] <= now:
                    return heapq.heappop(self._kills)[1]
                self._changed.wait(self._kills[0][0] - now if self._kills else None)
        return None

    # ---- faults

    def _strike_children(self) -> None:
        chance = random.Random(f"{self._plan.seed} children")
        kinds = (Fault.WAITER_KILLED, Fault.WORKER_KILLED, Fault.WAITER_STOPPED)
        for _ in self._moments(chance, self._plan.child_faults):
            fault = chance.choices(kinds, (4, 4, 2))[0]
            pick, seconds = chance.random(), chance.uniform(0.1, 2.0)
            victims = _children("_pool_worker" if fault is Fault.WORKER_KILLED else "_waiter")
            if victims:
                self._strike_child(fault, victims[int(pick * len(victims))], seconds)

    def _strike_child(self, fault: Fault, victim: psutil.Process, seconds: float) -> None:
        number = self._begin(fault, f"pid {victim.pid}")
        with suppress(psutil.Error):
            if fault is Fault.WAITER_STOPPED:
                victim.send_signal(signal.SIGSTOP)
                pass_time(seconds)
                victim.send_signal(signal.SIGCONT)
            else:
                victim.kill()
        self._log.add(FaultOver(number=number))

    def _strike_daemons(self) -> None:
        chance = random.Random(f"{self._plan.seed} daemons")
        kinds = list(self._site.faults)
        chance.shuffle(kinds)  # each kind has its turn, so that a short run has several too
        for turn, _ in enumerate(self._moments(chance, self._plan.daemon_faults)):
            fault, host = kinds[turn % len(kinds)], chance.randrange(len(self._site.urls))
            number = self._begin(self._site.known_as(host, fault), self._site.urls[host], host_name(host))
            self._site.strike(host, fault, chance)
            self._log.add(FaultOver(number=number))

    def _begin(self, fault: Fault, target: str, host: str | None = None) -> int:
        with self._changed:
            number = next(self._fault_numbers)
        self._log.add(FaultBegan(number=number, fault=fault, target=target, host=host))
        return number

    def _moments(self, chance: random.Random, times: int) -> Iterator[None]:
        """Comes back after random numbers of callbacks; ends with the run."""
        first, last = self._plan.warm_up_jobs, int(self._plan.jobs * 0.95)
        for count in sorted(chance.sample(range(first, last), times)):
            with self._changed:
                self._changed.wait_for(lambda count=count: self._ended or self._called_back >= count)
                if self._ended:
                    return
            yield

    # ---- looks

    def _wait_until_called_back(self, jobs: int) -> None:
        """Patient as long as jobs end one after the other."""
        before = -1
        while before < self._called_back < jobs:
            before = self._called_back
            with self._changed:
                self._changed.wait_for(lambda before=before: self._called_back > before, _STUCK_S)

    def _settle(self, jobs: int) -> None:
        """Wait until nothing runs any more."""
        self._wait_until_called_back(jobs)
        _becomes(lambda: not any(host.running for host in self._manager.hosts()), _AFTERWARDS_S)

    def _settle_descriptors(self, first: Measured) -> None:
        """A process that was killed last is perhaps being replaced."""
        _becomes(lambda: open_files() <= first.descriptors and threading.active_count() <= first.threads, _AFTERWARDS_S)

    def _measure(self, *, quiet: bool) -> Measured:
        gc.collect()
        measured = Measured(
            jobs=self._called_back,
            rss_bytes=psutil.Process().memory_info().rss,
            descriptors=open_files(),
            threads=threading.active_count(),
            quiet=quiet,
        )
        self._log.add(measured)
        return measured

    def _look_for_leftovers(self) -> None:
        for host in range(len(self._site.urls)):
            _becomes(lambda host=host: all(left.kept_by_engine for left in self._site.left(host)), _AFTERWARDS_S)
            for left in self._site.left(host):
                self._log.add(left)


def _becomes(condition: Callable[[], bool], within_s: float) -> bool:
    """Wait until a condition holds; the checker says what it means when it does not."""
    until = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > until:
            return False
        pass_time(_POLL_S)
    return True


def _children(module: str) -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if module in _command_line(child)]


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def _only_file(archive: bytes | None) -> bytes | None:
    if archive is None:
        return None
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        contents = [tar.extractfile(member).read() for member in tar if member.isfile()]  # type: ignore[union-attr]
    return contents[0] if len(contents) == 1 else repr(contents).encode()


# ---- what is said afterwards


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A run's page and what was wrong."""

    page: str
    violations: list[Violation]


def soak(plan: Plan, site: Site, path: Path) -> Report:
    """Run a plan, write its history to ``path``, and judge it."""
    began = time.monotonic()
    with HistoryLog(path) as log:
        Soak(plan, site, log).run()
    took_s = time.monotonic() - began
    records = list(read_history(path))
    return Report(page=page(plan, records, took_s), violations=violations(records))


def soak_real(plan: Plan, folder: Path, image_tar: Path, path: Path) -> Report:
    """On real daemons, with their data in ``folder``; without the kernel's witness where there is none."""
    with ExitStack() as stack:
        daemons = stack.enter_context(real_daemons(folder, image_tar))
        try:
            witness = stack.enter_context(Witness())
        except NoWitness:
            witness = None
        return soak(plan, RealSite(daemons, witness), path)


def soak_fake(plan: Plan, path: Path) -> Report:
    """On two fake engines."""
    with ExitStack() as stack:
        engines = [stack.enter_context(FakeEngineServer(images=["fake"], programs=FAKE_PROGRAMS)) for _ in range(2)]
        return soak(plan, FakeSite(engines), path)


def page(plan: Plan, records: Sequence[Record], took_s: float) -> str:
    """A run on one page."""
    story = Story.of(records)
    ended = Counter((job.submitted[0].kind, call.outcome.value) for job in story.jobs.values() for call in job.called_back)
    faults = Counter(fault.fault.value for fault, _ in story.faults)
    calls = [call for job in story.jobs.values() for call in job.called_back]
    crashes = Counter(f"{call.evidence} on {call.host}" for call in calls if call.outcome is Outcome.CRASH)
    kept = Counter(f"{left.what.split()[0]} on {left.host}" for left in story.left if left.kept_by_engine)
    runs = sum(job.times_run for job in story.jobs.values())
    witness = f"{runs} programs began" if story.witness_saw_all else "there was none, or it missed something"
    return "\n".join(
        [
            f"seed {plan.seed}: {len(story.jobs)} jobs, {len(calls)} callbacks, {took_s:.0f} s, {len(calls) / took_s:.1f} a second",
            f"  witness: {witness}; refused: {sum(bool(job.refused) for job in story.jobs.values())}",
            *_table("faults", faults.items()),
            *_table("ended", ((f"{kind}: {outcome}", count) for (kind, outcome), count in sorted(ended.items()))),
            *_table("crashes", crashes.items()),
            *_table("kept by engines that were restarted", kept.items()),
            "  the caller's process:",
            *(
                f"    after {seen.jobs:>6} jobs: {seen.rss_bytes / MIB:6.1f} MiB, {seen.descriptors} descriptors,"
                f" {seen.threads} threads{', quiet' if seen.quiet else ''}"
                for seen in story.measured
            ),
        ]
    )


def _table(title: str, rows: Iterator[tuple[str, int]]) -> list[str]:
    return [f"  {title}:", *(f"    {count:>6} {name}" for name, count in rows)]
