"""How far a batch is, and the bar that shows it in a terminal (extra ``cli``) or a notebook (extra ``notebook``)."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from jobmanager.errors import NotSupported
from jobmanager.model._extras import needs_extra
from jobmanager.model.as_data import AsData
from jobmanager.model.result import JobResult

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_REFRESH_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProgress(AsData):
    """How far a batch is."""

    done: int  # inputs with a result
    stored: int  # of these: read from the results file, and not run
    running: int  # jobs that were begun and have no result
    total: int | None  # inputs in all; None when the inputs do not say how many they are
    refused: int  # inputs that were refused, and passed over
    outcomes: Mapping[str, int]  # how many results by their outcome's word, without those that were stored
    elapsed_s: float

    @property
    def per_s(self) -> float:
        """Results in a second, without those that were stored."""
        return (self.done - self.stored) / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at this speed; None: unknown."""
        if self.total is None or self.per_s <= 0:
            return None
        return max(0, self.total - self.done - self.refused) / self.per_s


class ProgressCounter:
    """Counts for ``BatchProgress``."""

    def __init__(self, total: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._clock = clock
        self._began = clock()
        self._stored = self._refused = 0
        self._outcomes: Counter[str] = Counter()

    def add_stored(self) -> None:
        """A result was there already."""
        self._stored += 1

    def add_refused(self) -> None:
        """An input was refused."""
        self._refused += 1

    def add(self, result: JobResult) -> None:
        """A job has its result."""
        self._outcomes[result.outcome.value] += 1

    def progress(self, running: int) -> BatchProgress:
        """How far it is now."""
        return BatchProgress(
            done=self._stored + self._outcomes.total(),
            stored=self._stored,
            running=running,
            total=self._total,
            refused=self._refused,
            outcomes=dict(self._outcomes),
            elapsed_s=self._clock() - self._began,
        )


def shares_the_terminal(output: TextIO | None) -> bool:
    """Whether what is printed there has to stand above a bar. Where it is no terminal, it is left alone."""
    return output is not None and output.isatty()


class ProgressBar:
    """Shows a ``BatchProgress`` with rich, on standard error or in a notebook. It has no thread: it moves when it is called.

    Raises:
        NotSupported: rich is not installed.
    """

    def __init__(self, title: str) -> None:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn
        except ImportError:
            raise NotSupported(f"{needs_extra('progress=True', 'cli', 'rich')}; or give a function as progress") from None
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[text]}", markup=False))
        self._title = title
        self._bar: Progress = Progress(
            *columns, console=Console(stderr=True), auto_refresh=False, redirect_stdout=shares_the_terminal(sys.stdout)
        )
        self._row: TaskID | None = None
        self._next_refresh = 0.0
        self._last: BatchProgress | None = None

    def __call__(self, progress: BatchProgress) -> None:
        self._last = progress
        if time.monotonic() >= self._next_refresh:
            self._show(progress)

    def close(self) -> None:
        """Show the last of it and let the terminal go."""
        if self._last is not None:
            self._show(self._last)
        if self._row is not None:
            self._bar.stop()

    def _show(self, progress: BatchProgress) -> None:
        if self._row is None:
            self._bar.start()
            self._row = self._bar.add_task(self._title, total=None, text="")
        self._bar.update(self._row, total=progress.total, completed=progress.done + progress.refused, text=progress_text(progress))
        self._bar.refresh()
        self._next_refresh = time.monotonic() + _REFRESH_S


def progress_text(progress: BatchProgress) -> str:
    """How far it is, in one line."""
    of = "" if progress.total is None else f"/{progress.total}"
    counts = [f"{count} {word}" for word, count in sorted(progress.outcomes.items(), key=lambda item: -item[1])]
    if progress.stored:
        counts.append(f"{progress.stored} stored")
    if progress.refused:
        counts.append(f"{progress.refused} refused")
    left = progress.left_s
    time_left = "" if left is None else f", {_clock_time(left)} left"
    return f"{progress.done}{of} ({', '.join(counts) or 'none yet'}), {progress.per_s:.3g}/s{time_left}"


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
