"""The checkers of a submission with cases: a container for each, which judges what a case printed while the next case runs.

::

    thread of the submission's monitor                   thread of a checker's
    RUN case 1, RUN case 2 sent ahead                    its container starts, builds; waits
    ENDED case 1 ──── what it printed ────────────────►  clear, PUT input, output, answer, RUN
    waits (case 2 runs meanwhile)   ◄───── result ─────  ENDED
    tells what became of case 1
    ENDED case 2 ...

Both are followed by a ``CasesMonitor``. A waiter that takes over finds the checker's container by its name: a check that has begun
there is not begun again. One that cannot be cleared, or that died of a case, has another one in its place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from jobmanager.ipc.messages import CaseRun, JudgePlan, MonitorContainer
from jobmanager.model.result import CaseResult, Outcome
from jobmanager.results.checking import OUTPUT, checked_case, unchecked_case
from jobmanager.results.facts import CannotRun, RunFacts
from jobmanager.watching.judge_container import JudgeContainer, JudgesHost
from jobmanager.watching.partner import PartnerUnusable

_NAME = "its checker"
_MAX_REPLACEMENTS = 3  # of one checker's container: as many as of a submission's


class Desk:
    """Where the submission's thread hands in one case at a time, and gets it back judged by the checker's."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._handed_in: tuple[int, bytes] = (0, b"")  # the number of a case, and what it printed
        self._judged: tuple[int, CaseResult] | None = None
        self._told = 0
        self._over: Exception | None = None

    def hand_in(self, number: int, printed: bytes) -> None:
        """This case is to be judged. It may be said again."""
        with self._changed:
            if self._handed_in[0] != number:
                self._handed_in = (number, printed)
                self._changed.notify_all()

    def has_come(self, number: int, timeout_s: float) -> bool:
        """Whether this case, or a later one, is handed in and not judged yet."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_due(number), timeout_s)

    def printed(self, number: int) -> bytes | None:
        """What this case printed; None where it is not the one that is to be judged."""
        handed_in, printed = self._handed_in
        return printed if handed_in == number else None

    def judge(self, number: int, result: CaseResult) -> None:
        """How the checker's run has ended."""
        with self._changed:
            self._judged = (number, result)
            self._handed_in = (number, b"")
            self._changed.notify_all()

    def judgement(self, number: int, timeout_s: float) -> CaseResult | None:
        """How the checker's run of this case has ended; None while it has not."""
        with self._changed:
            self._changed.wait_for(lambda: self._has(number) or self._over is not None, timeout_s)
            if self._judged is not None and self._has(number):
                return self._judged[1]
            if self._over is not None:
                raise self._over
            return None

    def tell(self, number: int) -> None:
        """What became of this case is told."""
        self._told = number

    @property
    def is_told(self) -> bool:
        """Whether what became of the case that was judged last is told, by the present waiter."""
        return self._judged is not None and self._judged[0] <= self._told

    def end(self, why: Exception) -> None:
        """Nothing more is judged. Only the first call counts."""
        with self._changed:
            self._over = self._over or why
            self._changed.notify_all()

    def _is_due(self, number: int) -> bool:
        if self._over is not None:
            raise self._over
        handed_in = self._handed_in[0]
        return handed_in >= number and not self._has(handed_in)

    def _has(self, number: int) -> bool:
        return self._judged is not None and self._judged[0] == number


class _CheckersSide:
    """How a checker's monitor sees the submission's."""

    tells = False
    runs_beside = False

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def attach_to(self, end_run: Callable[[], None]) -> None:
        """What the submission does ends no check."""

    def ends(self, number: int) -> bool:  # noqa: ARG002
        return False

    def is_ready(self, number: int, timeout_s: float) -> bool:
        return self._desk.has_come(number, timeout_s)

    def case(self, case: CaseRun) -> CaseRun | None:
        printed = self._desk.printed(case.number)
        return None if printed is None else replace(case, files={**case.files, OUTPUT: printed})

    def judged(self, case: CaseRun, result: CaseResult, facts: RunFacts, timeout_s: float) -> CaseResult:  # noqa: ARG002
        """Files that do not fit are this case's alone: how much a submission prints must not cost it the checks of other cases."""
        if isinstance(facts.ending, CannotRun) and not facts.ending.is_of_this_run:
            self._desk.end(PartnerUnusable(f"{_NAME} cannot be run: {result.text}"))
        else:
            self._desk.judge(case.number, result)
        return result

    def takes_blame(self, number: int, facts: RunFacts) -> bool:  # noqa: ARG002
        return isinstance(facts.ending, CannotRun)

    def told(self, number: int) -> None:
        """It is the submission's side that tells."""

    def is_told(self, number: int) -> bool:  # noqa: ARG002
        return self._desk.is_told

    def kill(self) -> None:
        """It is the submission's side that ends it."""


class Checking:
    """The containers of all checkers of a submission, and how its monitor sees them (a ``Partner``)."""

    tells = True
    runs_beside = False

    def __init__(self, job: MonitorContainer, plans: Sequence[JudgePlan], host: JudgesHost) -> None:
        """``job``: the submission's."""
        self._desks: dict[int, Desk] = {}  # by the number of a case
        self._containers: list[JudgeContainer] = []
        for plan in plans:
            desk = Desk()
            assert plan.job.cases is not None, "a judge has cases"
            self._desks.update((case.number, desk) for case in plan.job.cases.cases)
            container = JudgeContainer(
                job, plan, host, name=_NAME, side=_CheckersSide(desk), on_end=desk.end, replacements=_MAX_REPLACEMENTS
            )
            self._containers.append(container)

    def start(self) -> None:
        """Start a thread and a container for each."""
        for container in self._containers:
            container.start()

    def close(self) -> None:
        """The submission has no more cases: the containers are removed soon."""
        self.kill()

    def attach_to(self, end_run: Callable[[], None]) -> None:
        """No run of the submission's depends on a checker."""

    def ends(self, number: int) -> bool:  # noqa: ARG002
        return False

    def is_ready(self, number: int, timeout_s: float) -> bool:  # noqa: ARG002
        return True

    def case(self, case: CaseRun) -> CaseRun:
        return case

    def judged(self, case: CaseRun, result: CaseResult, facts: RunFacts, timeout_s: float) -> CaseResult | None:  # noqa: ARG002
        """Only a case whose run ended well is checked."""
        desk = self._desks.get(case.number)
        if desk is None or result.outcome is not Outcome.SUCCESS or result.run is None:
            return result
        desk.hand_in(case.number, result.run.stdout)
        try:
            check = desk.judgement(case.number, timeout_s)
        except PartnerUnusable as why:
            return unchecked_case(result, str(why))
        return None if check is None else checked_case(case.points, result, check)

    def takes_blame(self, number: int, facts: RunFacts) -> bool:  # noqa: ARG002
        return False

    def told(self, number: int) -> None:
        if number in self._desks:
            self._desks[number].tell(number)

    def is_told(self, number: int) -> bool:  # noqa: ARG002
        return False

    def kill(self) -> None:
        """End the containers soon. Never blocks."""
        for container in self._containers:
            container.kill()
