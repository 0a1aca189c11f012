"""``jobmanager run``: one program in one container. Its output comes live, and its exit code is the command's.

A shell script must know what a code means, whatever the program does. So some codes are ours alone: a program that ends
with one of them by itself is told by ``OWN_CODE_IS_TAKEN`` instead.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from jobmanager.command_line.hosts import FindHosts, on_hosts
from jobmanager.command_line.printing import BAD, FINE, INTERRUPTED, complain, outcome_text, plain
from jobmanager.command_line.program_output import pass_on
from jobmanager.command_line.workspace import check_target, pairs, unpack, workspace_files
from jobmanager.errors import JobManagerError
from jobmanager.manager import JobManager
from jobmanager.model.job import JobInput
from jobmanager.model.limits import Limits
from jobmanager.model.network import Network
from jobmanager.model.result import JobResult, Outcome
from jobmanager.model.task import Task
from jobmanager.sync import ClientSync

OWN_CODE_IS_TAKEN, NOT_RUN, BY_SIGNAL = 120, 125, 128
CODES: Mapping[Outcome, int] = {
    Outcome.ERROR: 121,
    Outcome.OVERFLOW: 122,
    Outcome.CRASH: 123,
    Outcome.TIMEOUT: 124,  # as of timeout(1)
    Outcome.KILLED: INTERRUPTED,
}
_RESERVED = {*CODES.values(), NOT_RUN}
_MAX_TEXT = 2000  # characters of a text that are shown
_LIMITS = {  # of a job, by option
    "memory": "memory_mib",
    "cpu_time": "cpu_time_s",
    "wall_time": "wall_time_s",
    "cpus": "cpus",
    "processes": "processes",
    "output": "output_kib",
    "workspace": "workspace_mib",
}


class _NotRun(click.UsageError):
    """Wrong arguments. Code 2, as of other commands, may be the program's own."""

    exit_code = NOT_RUN


class _RunCommand(click.Command):
    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        try:
            return super().make_context(*arguments, **options)
        except click.NoSuchOption as problem:
            hint = f"if it is the command's, write -- before the command: jobmanager run IMAGE -- COMMAND {problem.option_name}"
            raise _NotRun(f"{problem.format_message()} ({hint})") from None
        except click.UsageError as problem:
            raise _NotRun(problem.format_message()) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Showing:
    """How a run and its result are shown."""

    as_json: bool
    quiet: bool
    raw: bool


@click.command("run", cls=_RunCommand)
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.option("--file", "files", metavar="[NAME=]PATH", multiple=True, help="A file or folder for the workspace; can be repeated.")
@click.option("--stdin", metavar="FILE", help="The program's standard input; - passes on ours. Default: it is empty.")
@click.option("--memory", metavar="MIB", type=int, help="Limit of memory.")
@click.option("--cpu-time", metavar="SECONDS", type=float, help="Limit of CPU time.")
@click.option("--wall-time", metavar="SECONDS", type=float, help="Limit of time by the clock. Default: three times the CPU time.")
@click.option("--cpus", metavar="N", type=float, help="Cores that it can use.")
@click.option("--processes", metavar="N", type=int, help="Limit of processes and threads.")
@click.option("--output", metavar="KIB", type=int, help="Limit of what it prints.")
@click.option("--truncate", is_flag=True, help="Let it go on past the limit of --output: the rest is dropped.")
@click.option("--workspace", metavar="MIB", type=int, help="Limit of all its files.")
@click.option("--network", metavar="NAME", help="off, loopback, bridge, or a network of the host's.  [default: off]")
@click.option("--env", "env", metavar="NAME=VALUE", multiple=True, help="A variable of its environment; can be repeated.")
@click.option("--collect", metavar="PATTERN", multiple=True, help="Files of the workspace that come back; can be repeated.")
@click.option("--archive-to", metavar="DIR", type=click.Path(path_type=Path), help="Where they are put: a new or empty folder.")
@on_hosts
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else.")
@click.option("--quiet", is_flag=True, help="Print what the program prints, and no verdict.")
@click.option("--raw", is_flag=True, help="Give a terminal what the program prints as it is, control characters included.")
def run_program(
    find_hosts: FindHosts,
    image: str,
    command: tuple[str, ...],
    files: tuple[str, ...],
    stdin: str | None,
    truncate: bool,
    network: str | None,
    env: tuple[str, ...],
    collect: tuple[str, ...],
    archive_to: Path | None,
    as_json: bool,
    quiet: bool,
    raw: bool,
    **given: float | None,
) -> int:
    """Run one program in a container of IMAGE: an image, or an environment's name. Its output comes as it is printed.

    The exit code is the program's own, 128 and the signal's number, or: 121 its result file cannot be read; 122 overflow (memory,
    processes, files or output); 123 crash (nobody knows how it would have ended); 124 timeout; 125 nothing was run; 130 ctrl-C. A
    program that ends with one of these codes by itself is told by 120.
    """
    try:
        if bool(collect) != (archive_to is not None):
            raise click.UsageError("--collect and --archive-to go together")
        if archive_to is not None:
            check_target(archive_to)
        task = _task(image, command, files, env, collect, network, _limits(given, truncate=truncate))
        inputs = JobInput(stdin=_standard_input(stdin, task.limits))
        result = _shown_run(JobManager(find_hosts()), task, inputs, _Showing(as_json=as_json, quiet=quiet, raw=raw))
        if archive_to is not None and result.archive is not None:
            unpack(result.archive, archive_to)
    except click.UsageError as problem:
        return complain(problem.format_message(), NOT_RUN)
    except JobManagerError as problem:
        return complain(str(problem), NOT_RUN)
    except BrokenPipeError:  # the job is killed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still has to flush
        return BY_SIGNAL + signal.SIGPIPE
    return exit_code(result)


def exit_code(result: JobResult) -> int:
    """The command's exit code for a result."""
    if result.outcome in CODES:
        return CODES[result.outcome]
    if result.outcome is Outcome.SUCCESS:
        return FINE
    own = result.exit_code if result.signal is None else BY_SIGNAL + _number(result.signal)
    if not own:  # its result file said that it failed
        return BAD
    return OWN_CODE_IS_TAKEN if own in _RESERVED else own


def _number(name: str) -> int:
    known = {each.name: each.value for each in signal.Signals}
    found = re.search(r"\d+", name)
    return known.get(name) or (int(found[0]) if found else 0)


def _task(
    image: str,
    command: tuple[str, ...],
    files: tuple[str, ...],
    env: tuple[str, ...],
    collect: tuple[str, ...],
    network: str | None,
    limits: Limits,
) -> Task:
    return Task(
        image,
        command=list(command) or None,
        files=workspace_files(files, limits),
        limits=limits,
        network=Network.OFF if network is None else network,
        env=pairs("--env", env),
        collect=collect,
    )


def _limits(given: Mapping[str, float | None], *, truncate: bool) -> Limits:
    named = {_LIMITS[option]: value for option, value in given.items() if value is not None}
    return Limits(on_output_limit="truncate" if truncate else "stop", **named)  # type: ignore[arg-type]


def _standard_input(given: str | None, limits: Limits) -> bytes:
    """All of a file or of our own standard input, a byte more than the job's memory at most: then the job is refused."""
    if given is None:
        return b""
    at_most = limits.memory_mib * 2**20 + 1
    if given == "-":
        return sys.stdin.buffer.read(at_most)
    try:
        with open(given, "rb") as file:
            return file.read(at_most)
    except OSError as problem:
        raise click.UsageError(f"--stdin: {given!r} cannot be read: {problem.strerror}") from None


def _shown_run(manager: JobManager, task: Task, inputs: JobInput, showing: _Showing) -> JobResult:
    """Run it and show it. An exception on the way, ctrl-C too, kills it."""
    with manager:
        run = _unseen if showing.as_json else partial(_followed, raw=showing.raw)
        result = run(manager, task, inputs)
    if showing.as_json:
        click.echo(result.to_json())
    elif not showing.quiet:
        Console(stderr=True, highlight=False).print(verdict(result), soft_wrap=True)
    return result


def _unseen(manager: JobManager, task: Task, inputs: JobInput) -> JobResult:
    return ClientSync(manager).new_job(task, inputs)


def _followed(manager: JobManager, task: Task, inputs: JobInput, *, raw: bool) -> JobResult:
    followed, ended = threading.Event(), SimpleQueue[JobResult]()

    def on_end(result: JobResult) -> None:
        followed.wait()  # what has ended, and was called back, cannot be followed
        ended.put(result)

    try:
        live = manager.follow(manager.new_job(task, inputs, on_end))
    finally:
        followed.set()
    pass_on(live, raw=raw)
    return ended.get()


def verdict(result: JobResult) -> Text:
    """One line: how it ended, why, and what it used."""
    line = outcome_text(result.outcome)
    if result.text:
        line.append(f": {plain(result.text[:_MAX_TEXT])}")
    used = (("s CPU", result.cpu_time_s), ("s", result.wall_time_s), ("MiB", result.peak_memory_mib))
    figures = [f"{value:.2f} {unit}" if unit != "MiB" else f"{value:.0f} {unit}" for unit, value in used if value is not None]
    return Text.assemble(("jobmanager: ", "dim"), line, (f" ({', '.join(figures)})" if figures else "", "dim"))
