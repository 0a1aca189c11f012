"""The container of an interactor or a checker: started, followed and removed in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Union

from jobmanager._deleter import delete
from jobmanager._submitter import submit
from jobmanager.engine.labels import MANAGER_LABEL, STUDENT_LABEL
from jobmanager.engine.pipes import make_fifos, pipes_volume
from jobmanager.engine.protocol import Engine, EngineError, NoSuchContainer, Unreachable
from jobmanager.engine.runner_volume import RunnerVolumes
from jobmanager.ipc.messages import (
    BuildDone,
    CaseDone,
    ContainerRemoved,
    ContainerStarted,
    JudgePlan,
    MonitorContainer,
    StartFailed,
    StartRefused,
    VolumesLost,
)
from jobmanager.model.container import ContainerSpec, ContainerStatus
from jobmanager.model.result import Outcome
from jobmanager.results.facts import ProgramExited
from jobmanager.results.verdict import judge
from jobmanager.watching.cases_container import DIED_OF_CASE
from jobmanager.watching.cases_monitor import CasesMonitor
from jobmanager.watching.partner import JudgeNotClean, NotClean, Partner, PartnerLost, PartnerUnusable
from jobmanager.watching.spool import Spool
from jobmanager.watching.student_container import MonitorRegistry

_log = logging.getLogger(__name__)

_STARTS = 5  # of one container, where the engine answers
_REMOVAL_TRIES = 3
_PAUSE_S = 0.5  # before another try

StartReply = Union[ContainerStarted, StartFailed, StartRefused, VolumesLost]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgesHost:
    """What containers beside a submission's are started and followed with."""

    name: str  # of the Docker host
    runners: RunnerVolumes
    connect: Callable[[], Engine]
    lost_timeout_s: float
    monitors: MonitorRegistry
    spool_folder: str


class JudgeContainer:
    """One such container, from the submission's first second to its own last run.

    Its labels name the submission's, so who removes that one, or sweeps, finds it, too.
    """

    def __init__(
        self,
        job: MonitorContainer,
        plan: JudgePlan,
        host: JudgesHost,
        *,
        name: str,
        side: Partner,
        on_end: Callable[[Exception], None],
        replacements: int = 0,
    ) -> None:
        """``job``: the submission's.

        Args:
            name: what texts call the program, such as "its checker".
            side: how its monitor sees the submission's.
            on_end: is told why there are no more runs: PartnerLost, PartnerUnusable, NotClean. Only the first one counts.
            replacements: how often in a row another container takes the place of one that cannot be cleared, or that died of a
                case, and had ended no run.
        """
        self._job = job
        self._plan = plan
        self._host = host
        self._name = name
        self._side = side
        self._on_end = on_end
        self._replacements = replacements
        self._lock = threading.Lock()
        self._monitor: CasesMonitor | None = None
        self._is_over = self._is_leaving = False
        self._has_ended_a_run = False  # since its present container has started
        self._manager_id = ""  # once it is known

    def start(self) -> None:
        """Start the thread, and the container."""
        threading.Thread(target=self._run, name=f"{self._plan.spec.name}-judge", daemon=True).start()

    def kill(self) -> None:
        """End the container soon. Never blocks."""
        self._end(PartnerLost(f"{self._name} was ended"))
        with self._lock:
            if self._monitor is not None:
                self._monitor.kill()

    def _end(self, why: Exception) -> None:
        """There are no more runs."""
        with self._lock:
            self._is_over = True
        self._on_end(why)

    def _run(self) -> None:
        try:
            with closing(self._host.connect()) as engine:
                self._follow_each(engine)
        except EngineError as error:
            self._end(PartnerLost(f"{self._name} could not be started: {error}"))
        except Exception as error:  # noqa: BLE001 - the thread's edge: a bug here must not leave the submission waiting
            _log.exception("the judge %s of job %s failed", self._plan.spec.name, self._job.job_id)
            self._end(PartnerLost(f"{self._name} failed: {type(error).__name__}: {error}"))

    def _follow_each(self, engine: Engine) -> None:
        left, is_first = self._replacements, True
        while not self._is_over:
            self._has_ended_a_run = False
            try:
                why = self._follow(engine, is_first=is_first)
                left = self._replacements if self._has_ended_a_run else left - 1
                if why and (left < 0 or not self._replacements):
                    self._end(self._unclean(why))
            finally:
                is_gone = self._remove(engine)
            if not why:
                return
            if not is_gone:
                self._end(PartnerLost(f"{self._name}: a container of it could not be removed: {why}"))
            _log.info("%s of job %s: %s", self._name, self._job.job_id, why)
            is_first = False

    def _unclean(self, why: str) -> Exception:
        if self._replacements:
            return PartnerUnusable(f"{self._name} was not run: {why}")
        kind = NotClean if why == DIED_OF_CASE else JudgeNotClean  # the submission may be why it died
        return kind(f"{self._name}: {why}")

    def _follow(self, engine: Engine, *, is_first: bool) -> str:
        """Returns why the container is used for no other run, where another one could take its place."""
        container = self._started(engine, is_first=is_first)
        if container is None:
            return ""
        monitor, spool = container
        self._host.monitors.register(self._plan.spec.name, monitor)
        try:
            facts = monitor.run()
        finally:
            self._host.monitors.unregister(self._plan.spec.name)
        spool.remove()
        if not facts.not_clean and not isinstance(facts.ending, ProgramExited):
            self._end(PartnerLost(f"{self._name}: {judge(facts, self._plan.spec.limits).text}"))
        self._is_leaving = facts.is_leaving
        monitor.close(leave=facts.is_leaving)
        return facts.not_clean

    def _started(self, engine: Engine, *, is_first: bool) -> tuple[CasesMonitor, Spool] | None:
        """Its monitor, once it has a container: that of an earlier waiter, where there is one."""
        if not self._plan.spec.image:
            self._end(PartnerLost(f"{self._name} could not be started: its image is gone"))
            return None
        container_id, is_there = self._submitted(engine, is_first=is_first)
        if not container_id:
            return None
        spool = self._spool(is_there=is_there)
        monitor = CasesMonitor(
            replace(self._plan.job, container_id=container_id, taken_over=is_there),
            engine,
            host_lost_timeout_s=self._host.lost_timeout_s,
            send=self._take,
            spool=spool,
            partner=self._side,
        )
        with self._lock:
            self._monitor = monitor
            if self._is_over:  # meanwhile
                monitor.kill()
        return monitor, spool

    def _spool(self, *, is_there: bool) -> Spool:
        spool = Spool.in_folder(self._host.spool_folder, self._plan.spec.name)
        if is_there:
            return spool
        spool.remove()  # of a container that is gone
        return Spool.in_folder(self._host.spool_folder, self._plan.spec.name)

    def _submitted(self, engine: Engine, *, is_first: bool) -> tuple[str, bool]:
        """The container's id, and whether an earlier waiter had it; no id where there will be none.

        A host that does not answer is waited for, as for the submission.
        """
        reason, tries, until = "", 0, time.monotonic() + self._host.lost_timeout_s
        while not self._is_over:
            reply, is_there = self._submit(engine, is_first=is_first)
            if isinstance(reply, ContainerStarted):
                return reply.container_id, is_there
            reason = reply.reason
            tries += not (isinstance(reply, StartFailed) and reply.unreachable)
            if not isinstance(reply, StartFailed) or tries == _STARTS or time.monotonic() > until:
                break
            time.sleep(_PAUSE_S)
        self._end(PartnerLost(f"{self._name} could not be started: {reason}"))
        return "", False

    def _submit(self, engine: Engine, *, is_first: bool) -> tuple[StartReply, bool]:
        try:
            labels = engine.inspect(self._job.container_id).labels
            self._manager_id = labels.get(MANAGER_LABEL, "")
            spec = replace(self._plan.spec, labels={**labels, STUDENT_LABEL: self._job.container_name})
            is_there = is_first and self._job.taken_over and _runs(engine, spec.name)
            if spec.pipes and not is_there:
                self._make_fifos(engine, spec, labels)
        except Unreachable as error:
            return StartFailed(reason=str(error), unreachable=True), False
        return submit(engine, spec, self._host.runners, host=self._host.name), is_there

    def _make_fifos(self, engine: Engine, spec: ContainerSpec, labels: Mapping[str, str]) -> None:
        fifos = (self._plan.job.stdin_fifo, self._plan.job.stdout_fifo)
        make_fifos(engine, pipes_volume(spec.pipes, labels, read_only=False), f"{spec.name}-pipes", spec.image, fifos)

    def _take(self, message: Any) -> bool:
        """What its monitor tells. Nothing of it is for the manager, so nothing is told for good."""
        if isinstance(message, BuildDone) and message.run.outcome is not Outcome.SUCCESS:
            why = f"{self._name} was not run: its build ended as {message.run.outcome}: {message.run.text}"
            self._end(PartnerUnusable(why))
        if isinstance(message, CaseDone):
            self._has_ended_a_run = True
            if message.result.run is None:  # no case can be run
                self._end(PartnerUnusable(f"{self._name} was not run: {message.result.text}"))
        return False

    def _remove(self, engine: Engine) -> bool:
        """Whether it is gone. Who removes the submission's container looks again. A stranger's of that name is left alone."""
        for _ in range(_REMOVAL_TRIES if self._manager_id else 0):
            reply = delete(engine, self._plan.spec.name, self._manager_id, is_ours=False, is_leaving=self._is_leaving)
            if isinstance(reply, ContainerRemoved):
                return True
            time.sleep(_PAUSE_S)
        return not self._manager_id


def _runs(engine: Engine, name: str) -> bool:
    try:
        return engine.inspect(name).status is ContainerStatus.RUNNING
    except NoSuchContainer:
        return False
