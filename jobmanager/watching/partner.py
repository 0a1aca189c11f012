"""Two containers that go from case to case together: how the monitor of one sees the other one.

One has the submission, the other one a program that judges it: an interactor (``watching/interaction.py``) or a checker
(``watching/checking.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from jobmanager.ipc.messages import CaseRun
from jobmanager.model.result import CaseResult
from jobmanager.results.facts import RunFacts


class NotClean(Exception):
    """The container, or that of its interactor, is not to be used for another case; says why."""


class JudgeNotClean(NotClean):
    """It is that of its interactor: no fault of the submission."""


class PartnerLost(Exception):
    """The container that runs beside this one is gone, for no reason of the programs'; says why."""


class PartnerUnusable(Exception):
    """What is to run beside each case cannot be run: that is its author's fault. Says why."""


class Partner(Protocol):
    """The container beside this one, which judges its cases, or whose cases it judges.

    Each of these is asked again and again, as the link to the own runner must not be silent meanwhile.

    Raises:
        NotClean, PartnerLost, PartnerUnusable: there are no more runs beside this one's.
    """

    tells: bool  # whether it is this side that tells what became of the cases
    runs_beside: bool  # whether a run there begins and ends with the one here, and the two talk

    def attach_to(self, end_run: Callable[[], None]) -> None:
        """``end_run`` ends the run that is going on, where there will be none beside it. Any thread may call it."""
        ...

    def ends(self, number: int) -> bool:
        """Whether a run of this case is to end at once: there will be none beside it."""
        ...

    def is_ready(self, number: int, timeout_s: float) -> bool:
        """Whether the other side has come to this case, too: all before are over and told."""
        ...

    def case(self, case: CaseRun) -> CaseRun | None:
        """The case as it is to be run here, once both are ready for it; None: there is nothing to be run of it."""
        ...

    def judged(self, case: CaseRun, result: CaseResult, facts: RunFacts, timeout_s: float) -> CaseResult | None:
        """What becomes of a case whose run has ended so on this side; None while the other side's has not."""
        ...

    def takes_blame(self, number: int, facts: RunFacts) -> bool:
        """Whether the run of this case has no end of its own because of what runs beside it, or ran beside it in vain."""
        ...

    def told(self, number: int) -> None:
        """What became of this case is told."""
        ...

    def is_told(self, number: int) -> bool:
        """Whether that was the last one told."""
        ...

    def kill(self) -> None:
        """End it soon."""
        ...
