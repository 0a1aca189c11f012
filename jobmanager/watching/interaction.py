"""The interactor of a submission with cases: its container, and how the two go from case to case together.

::

    thread of the submission's monitor                   thread of the interactor's
    ready for case 1  ────────────┐      ┌──────────── its container starts, builds; ready for case 1
    clear, RUN case 1             ▼      ▼             clear, RUN case 1
      │        program ◄── two fifos in a volume ──►  program           (nothing of what they say passes here)
    ENDED ──► waits for the other's end ◄────────────  ENDED
    tells what becomes of case 1                       ready for case 2
    ready for case 2 ...

Both are followed by a ``CasesMonitor``. A waiter that takes over finds the interactor's container by its name, and goes on with
both. Where one of the two containers can have no more runs, neither has, and two others take their place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from jobmanager.ipc.messages import CaseRun, JudgePlan, MonitorContainer
from jobmanager.model.result import CaseResult, Outcome
from jobmanager.results.checking import talked_case
from jobmanager.results.facts import CannotRun, RunFacts
from jobmanager.watching.judge_container import JudgeContainer, JudgesHost
from jobmanager.watching.partner import PartnerUnusable

_LAST_WORDS_S = 1.0  # for an interactor whose submission has ended badly: it decides nothing, but may have something to say
_NAME = "its interactor"


class Meeting:
    """Where two threads wait for each other before each case, and one of them for the other after it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._at = {True: 0, False: 0}  # the case to which each side has come; True: the submission's
        self._told = 0
        self._judged: tuple[int, CaseResult] | None = None
        self._over: Exception | None = None
        self._dismissed = 0
        self._end_run: dict[bool, Callable[[], None]] = {True: lambda: None, False: lambda: None}

    def is_ready(self, number: int, timeout_s: float, *, tells: bool) -> bool:
        """Whether both sides have come to this case, and the one before is told."""
        with self._changed:
            self._at[tells] = number
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._is_due(number), timeout_s)

    def tell(self, number: int) -> None:
        """What became of this case is told."""
        with self._changed:
            self._told = number
            self._changed.notify_all()

    def is_told(self, number: int) -> bool:
        """Whether what became of this case was told last, by the present waiter."""
        return self._told == number > 0

    def judge(self, number: int, result: CaseResult) -> None:
        """How the interactor's run has ended."""
        with self._changed:
            self._judged = (number, result)
            self._changed.notify_all()

    def judgement(self, number: int, timeout_s: float) -> CaseResult | None:
        """How the interactor's run of this case has ended; None while it has not."""
        with self._changed:
            self._changed.wait_for(lambda: self._has(number) or self._over is not None, timeout_s)
            if self._judged is not None and self._has(number):
                return self._judged[1]
            if self._over is not None:
                raise self._over
            return None

    def end(self, why: Exception) -> None:
        """There are no more cases on one of the sides. Only the first call counts."""
        with self._changed:
            self._over = self._over or why
            is_unjudged = not self._has(self._at[True])
            self._changed.notify_all()
        if is_unjudged:  # or the submission's program would wait in vain
            self._end_run[True]()

    def dismiss(self, number: int) -> None:
        """The submission's program cannot be run: its interactor would wait for it in vain."""
        with self._changed:
            self._dismissed = number
        self._end_run[False]()

    def is_dismissed(self, number: int) -> bool:
        """Whether the interactor's run of this case is to end, whatever becomes of it."""
        return self._dismissed == number

    def attach(self, end_run: Callable[[], None], *, tells: bool) -> None:
        """What ends the run that is going on on one of the sides."""
        self._end_run[tells] = end_run

    @property
    def is_over(self) -> bool:
        """Whether there are no more cases on one of the sides."""
        return self._over is not None

    def _is_due(self, number: int) -> bool:
        if self._over is not None:
            raise self._over
        return min(self._at.values()) >= number

    def _has(self, number: int) -> bool:
        return self._judged is not None and self._judged[0] == number


class _InteractorsSide:
    """How the interactor's monitor sees the submission's."""

    tells = False
    runs_beside = True

    def __init__(self, meeting: Meeting) -> None:
        self._meeting = meeting

    def attach_to(self, end_run: Callable[[], None]) -> None:
        self._meeting.attach(end_run, tells=False)

    def ends(self, number: int) -> bool:
        return self._meeting.is_dismissed(number)

    def is_ready(self, number: int, timeout_s: float) -> bool:
        return self._meeting.is_ready(number, timeout_s, tells=False)

    def case(self, case: CaseRun) -> CaseRun:
        return case

    def judged(self, case: CaseRun, result: CaseResult, facts: RunFacts, timeout_s: float) -> CaseResult:  # noqa: ARG002
        if isinstance(facts.ending, CannotRun) and not self._meeting.is_dismissed(case.number):
            self._meeting.end(PartnerUnusable(f"{_NAME} cannot be run: {result.text}"))
            return result
        self._meeting.judge(case.number, result)
        return result

    def takes_blame(self, number: int, facts: RunFacts) -> bool:
        return isinstance(facts.ending, CannotRun) or self._meeting.is_dismissed(number)

    def told(self, number: int) -> None:
        """It is the submission's side that tells."""

    def is_told(self, number: int) -> bool:
        return self._meeting.is_told(number)

    def kill(self) -> None:
        """It is the submission's side that ends it."""


class Interaction:
    """The interactor's container, and how the submission's monitor sees it (a ``Partner``)."""

    tells = True
    runs_beside = True

    def __init__(self, job: MonitorContainer, plan: JudgePlan, host: JudgesHost) -> None:
        """``job``: the submission's."""
        self._meeting = Meeting()
        side = _InteractorsSide(self._meeting)
        self._container = JudgeContainer(job, plan, host, name=_NAME, side=side, on_end=self._meeting.end)

    def start(self) -> None:
        """Start its thread, and the container."""
        self._container.start()

    def close(self) -> None:
        """The submission has no more cases: the container is removed soon."""
        self.kill()

    def attach_to(self, end_run: Callable[[], None]) -> None:
        self._meeting.attach(end_run, tells=True)

    def ends(self, number: int) -> bool:  # noqa: ARG002
        return self._meeting.is_over

    def is_ready(self, number: int, timeout_s: float) -> bool:
        return self._meeting.is_ready(number, timeout_s, tells=True)

    def case(self, case: CaseRun) -> CaseRun:
        return case

    def judged(self, case: CaseRun, result: CaseResult, facts: RunFacts, timeout_s: float) -> CaseResult | None:
        if isinstance(facts.ending, CannotRun) and not self._meeting.is_over:
            self._meeting.dismiss(case.number)
            return result
        was_first = facts.end is not None and facts.end.input_over
        is_decided = result.outcome is not Outcome.SUCCESS and not was_first
        said = self._meeting.judgement(case.number, _LAST_WORDS_S if is_decided else timeout_s)
        if said is not None:
            return talked_case(case.points, result, said, interactor_was_first=was_first)
        if is_decided:
            self._meeting.dismiss(case.number)
            return result
        return None

    def takes_blame(self, number: int, facts: RunFacts) -> bool:  # noqa: ARG002
        return self._meeting.is_over

    def told(self, number: int) -> None:
        self._meeting.tell(number)

    def is_told(self, number: int) -> bool:
        return self._meeting.is_told(number)

    def kill(self) -> None:
        """End the container soon. Never blocks."""
        self._container.kill()
