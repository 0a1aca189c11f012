"""What all commands print with: exit codes, consoles, and untrusted text made harmless."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from jobmanager.batch.progress import shares_the_terminal
from jobmanager.errors import EngineUnavailable, JobManagerError, RedisUnavailable
from jobmanager.model.result import Outcome

FINE, BAD, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
_WIDTH = 160  # where the output is no terminal
_STYLES = {Outcome.SUCCESS: "green", Outcome.KILLED: "yellow", Outcome.CRASH: "bold red", Outcome.ERROR: "bold red"}


def console(*, quiet: bool) -> Console:
    """For tables: as wide as the terminal."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH, quiet=quiet, soft_wrap=False, highlight=False)


def error_code(problem: JobManagerError) -> int:
    """The exit code for an error that ends a command."""
    return UNREACHABLE if isinstance(problem, (EngineUnavailable, RedisUnavailable)) else USAGE


def complain(about: str, code: int) -> int:
    """One line on standard error."""
    click.echo(f"jobmanager: {plain(about)}", err=True)
    return code


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on standard error; nothing where that is no terminal. What it yields is told how far it is, and at what."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    bar_console, is_hidden = Console(stderr=True), not sys.stderr.isatty()
    with Progress(
        *columns, console=bar_console, transient=True, disable=is_hidden, redirect_stdout=shares_the_terminal(sys.stdout)
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, total, name: bar.update(task, completed=done, total=total, description=name)


def age(seconds: float) -> str:
    """A time for people."""
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def heading(name: str) -> Text:
    """A line above a table."""
    return Text(plain(name), "bold")


def text(value: str) -> Text:
    """A cell of a table."""
    return Text(plain(value))


def outcome_text(outcome: Outcome) -> Text:
    """An outcome in its colour."""
    return Text(outcome.value, _STYLES.get(outcome, "red"))


def plain(text: str) -> str:
    """Text from an engine or a container, for a terminal: one line without control characters."""
    return "".join(character if character.isprintable() else " " for character in text)
