"""What a node's manager tells its hooks, as news for the clients of its jobs."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from redis.exceptions import RedisError

from jobmanager.events import CaseEnded, JobEnded, JobStarted, PhaseEnded, PhaseStarted
from jobmanager.hooks import HookManager
from jobmanager.model.result import CaseResult
from jobmanager.remote.node_jobs import HeldJob, NodeJobs
from jobmanager.remote.records import ClientEvent
from jobmanager.remote.signed_messages import signed
from jobmanager.remote.signing import Signer
from jobmanager.remote.store import ClusterStore
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_CASES_S = 0.2  # between two messages about the cases of a job
_MOST_CASES = 20  # in one
_MAX_TEXT = 300  # of a case, in news


class NodeEvents:
    """Sends events to clients. They may be lost while Redis is away: no result depends on them."""

    def __init__(self, store: ClusterStore, signer: Signer, node: str, jobs: NodeJobs) -> None:
        self._store = store
        self._signer = signer
        self._node = node
        self._jobs = jobs
        self._telling = threading.Lock()  # held while cases are told, so that they are told in their order; guards what follows
        self._cases: dict[str, list[CaseEnded]] = {}  # by R: those that have ended and were not told
        self._told_at: dict[str, float] = {}

    def listen(self, hooks: HookManager) -> None:
        """Have these hooks call us."""
        hooks.add(JobStarted, self._job_started)
        hooks.add(PhaseStarted, self._phase_started)
        hooks.add(PhaseEnded, self._phase_ended)
        hooks.add(CaseEnded, self._case_ended)
        hooks.add(JobEnded, self._job_ended)

    def tell_ssh(
        self, job: HeldJob, host: str | None, port: int | None, user: str | None, password: str | None
    ) -> None:
        """Where a person can log in. That there will be no such place is told by the job's end."""
        if host is None or port is None or user is None or password is None:
            return
        sealed = self._signer.seal("ssh", password.encode(), job.header.client)
        self._send(job, self._event(job, "ssh", port=port, user=user, sealed=sealed))

    def _job_started(self, event: JobStarted) -> None:
        job = self._jobs.find_local(event.job_id)
        if job is None or self._jobs.count_start(job) == 1:  # the first one was counted, and told, when it was handed over
            return
        try:
            self._store.count_runs(job.r, token=job.token, runs=job.runs)
        except RedisError as error:  # the next beat says how many there were
            _log.warning("a further run of job %s is not counted: %s", job.header.job_id, error)
        self._send(job, self._event(job, "started", token=job.token))

    def _phase_started(self, event: PhaseStarted) -> None:
        if (job := self._jobs.find_local(event.job_id)) is not None:
            self._tell_late(job)
            self._send(job, self._event(job, "phase_started", phase=event.phase, number=event.number))

    def _phase_ended(self, event: PhaseEnded) -> None:
        if (job := self._jobs.find_local(event.job_id)) is not None:
            outcome = event.outcome.value
            self._tell_late(job)
            self._send(job, self._event(job, "phase_ended", phase=event.phase, number=event.number, outcome=outcome))

    def _case_ended(self, event: CaseEnded) -> None:
        """Cases are quick: those of a moment are told together."""
        job = self._jobs.find_local(event.job_id)
        if job is None:
            return
        with self._telling:
            waiting = self._cases.get(job.r)
            if waiting is not None and (waiting[-1].number + 1 != event.number or len(waiting) >= _MOST_CASES):
                self._tell_cases(job)
            self._cases.setdefault(job.r, []).append(event)
            if event.number == event.of or event.at_s - self._told_at.get(job.r, 0.0) >= _CASES_S:
                self._tell_cases(job)
                self._told_at[job.r] = event.at_s
            elif len(self._cases[job.r]) == 1:
                self._tell_cases_soon(job)

    def _tell_cases_soon(self, job: HeldJob) -> None:
        """The case after these may take long."""
        timer = threading.Timer(_CASES_S, self._tell_late, (job,))
        timer.daemon = True
        timer.start()

    def _tell_late(self, job: HeldJob) -> None:
        """Those that have waited; they come before what is told next."""
        with self._telling:
            self._told_at[job.r] = time.time()
            self._tell_cases(job)

    def _tell_cases(self, job: HeldJob) -> None:
        ended = self._cases.pop(job.r, None)
        if ended:
            cases = tuple(_as_news(each.result).to_json() for each in ended)
            first = ended[0]
            numbers = {"number": first.number, "of": first.of}
            self._send(job, self._event(job, "cases_ended", phase=first.phase, token=job.token, cases=cases, **numbers))

    def _job_ended(self, event: JobEnded) -> None:
        """The last news of a job, and what its result waits for."""
        if (job := self._jobs.find_local(event.job_id)) is not None:
            with self._telling:
                self._tell_cases(job)
                self._told_at.pop(job.r, None)
            job.is_told.set()

    def _event(self, job: HeldJob, event: str, **fields: str | int | tuple[str, ...]) -> ClientEvent:
        return ClientEvent(event=event, r=job.r, node=self._node, **fields)  # type: ignore[arg-type]

    def _send(self, job: HeldJob, event: ClientEvent) -> None:
        try:
            self._store.send_event(job.header.client, signed(self._signer, event))
        except RedisError as error:
            _log.debug("an event of job %s is lost: %s", job.header.job_id, error)


def _as_news(case: CaseResult) -> CaseResult:
    """Without what was printed, which comes with the job's result."""
    run = None if case.run is None else replace(case.run, stdout=b"", stderr=b"", text=case.run.text[:_MAX_TEXT], evidence=())
    return replace(case, text=case.text[:_MAX_TEXT], run=run)
