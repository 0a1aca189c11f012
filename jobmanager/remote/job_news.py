"""News of a client's jobs, as they come from nodes and dispatcher: they lead to hooks, SSH callbacks and answers."""

from __future__ import annotations

import queue
import secrets
import time
from collections.abc import Callable

from jobmanager._callback_manager import Done
from jobmanager.errors import InvalidValue
from jobmanager.events import CaseEnded, JobPlaced, JobStarted, PhaseEnded, PhaseStarted
from jobmanager.hooks import HookManager
from jobmanager.model.listings import QueueInfo
from jobmanager.model.result import CaseResult, Outcome
from jobmanager.remote.cluster_view import ClusterView
from jobmanager.remote.followed_jobs import FollowedJobs
from jobmanager.remote.open_jobs import OpenJob, OpenJobs
from jobmanager.remote.records import BadMessage, ClientEvent
from jobmanager.remote.signing import Signer
from jobmanager.remote.store import SeenState
from jobmanager.scheduling.commands import PublishSSH

ANSWER_S = 2.0  # for the leader's answer
_UNKNOWN = -2  # jobs_before of a job that the leader does not know


class JobNews:
    """Takes one client's events. ``take`` is for the reader's thread, ``ask`` for any other."""

    def __init__(
        self,
        jobs: OpenJobs,
        view: ClusterView,
        hooks: HookManager,
        signer: Signer,
        *,
        client: str,
        followed: FollowedJobs,
        put: Callable[[Done], None],
        accepted: Callable[[OpenJob], None],
    ) -> None:
        self._jobs = jobs
        self._view = view
        self._hooks = hooks
        self._signer = signer
        self._client = client
        self._followed = followed
        self._put = put
        self._accepted = accepted
        self._questions: dict[str, queue.SimpleQueue[ClientEvent]] = {}
        self._handlers: dict[str, Callable[[OpenJob, ClientEvent], None]] = {
            "placed": self._placed,
            "started": self._started,
            "requeued": self._requeued,
            "phase_started": self._phase_started,
            "phase_ended": self._phase_ended,
            "cases_ended": self._cases_ended,
            "ssh": self._ssh,
        }

    def take(self, job: OpenJob | None, event: ClientEvent) -> None:
        """One event. Those of jobs that are not open any more say nothing."""
        if event.event == "answer":
            waiting = self._questions.get(event.question)
            if waiting is not None:
                waiting.put(event)
        elif job is not None and job.result is None and event.event in self._handlers:
            self._accepted(job)
            self._handlers[event.event](job, event)

    def ask(self, job: OpenJob, send: Callable[..., None]) -> QueueInfo | None:
        """What the leader answers to ``send(question=...)``; None when it does not answer in time, or does not know the job."""
        question = secrets.token_hex(8)
        answers = self._questions[question] = queue.SimpleQueue()
        try:
            send(question=question)
            event = answers.get(timeout=ANSWER_S)
        except queue.Empty:
            return None
        finally:
            del self._questions[question]
        return None if event.r != job.r or event.jobs_before == _UNKNOWN else QueueInfo(event.jobs_before, event.wait_s)

    def _placed(self, job: OpenJob, event: ClientEvent) -> None:
        if self._jobs.saw(job, self._seen("placed", job, event)):
            self._hooks.fire(JobPlaced(at_s=time.time(), job_id=job.job_id, host=event.node))

    def _started(self, job: OpenJob, event: ClientEvent) -> None:
        if self._jobs.saw(job, self._seen("running", job, event)):
            self._hooks.fire(JobStarted(at_s=time.time(), job_id=job.job_id, host=event.node))
            self._followed.started(job)

    def _requeued(self, job: OpenJob, _: ClientEvent) -> None:
        self._jobs.saw(job, SeenState(runs=job.seen.runs))

    def _seen(self, state: str, job: OpenJob, event: ClientEvent) -> SeenState:
        before, is_running = job.seen, state == "running"
        is_again = before.token == event.token and before.state == state
        return SeenState(
            state="running" if is_running else "placed",
            node=event.node,
            incarnation=event.incarnation or (before.incarnation if before.token == event.token else ""),
            token=event.token,
            runs=before.runs + (is_running and not is_again),
        )

    def _phase_started(self, job: OpenJob, event: ClientEvent) -> None:
        self._hooks.fire(
            PhaseStarted(at_s=time.time(), job_id=job.job_id, phase=event.phase, number=event.number, host=event.node)
        )

    def _phase_ended(self, job: OpenJob, event: ClientEvent) -> None:
        try:
            outcome = Outcome(event.outcome)
        except ValueError:
            raise BadMessage(f"no outcome: {event.outcome[:40]!r}") from None
        self._hooks.fire(
            PhaseEnded(
                at_s=time.time(),
                job_id=job.job_id,
                phase=event.phase,
                number=event.number,
                outcome=outcome,
                host=event.node,
            )
        )

    def _cases_ended(self, job: OpenJob, event: ClientEvent) -> None:
        if event.token != job.seen.token:  # of a placement that is lost, and may still run
            return
        try:
            cases = [CaseResult.from_json(case) for case in event.cases]
        except InvalidValue as error:
            raise BadMessage(f"no case: {error}") from None
        self._followed.cases_ended(job, event.phase, event.number, cases)
        for number, case in enumerate(cases, event.number):
            self._hooks.fire(
                CaseEnded(at_s=time.time(), job_id=job.job_id, number=number, of=event.of, result=case, phase=event.phase)
            )

    def _ssh(self, job: OpenJob, event: ClientEvent) -> None:
        password = self._signer.unseal("ssh", event.sealed, self._client).decode("utf-8", "replace")
        ssh_callback = self._jobs.take_ssh_callback(job)
        if ssh_callback is not None:
            self._put(
                PublishSSH(
                    job_id=job.job_id,
                    ssh_callback=ssh_callback,
                    address=self._view.address(event.node),
                    port=event.port,
                    user=event.user,
                    password=password,
                )
            )
