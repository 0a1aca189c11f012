"""The command line: the group of all commands. Each has a file in ``command_line/``.

The commands for many machines are in ``remote/``, and are imported when one of them is called: the others need no ``redis``.
Exit codes: 0 all is well; 1 a submission is no success, a limit does not hold, a leftover could not be removed, or a node is down
or not empty in time; 2 bad input; 3 a host or Redis cannot be reached; 130 interrupted. Of several hosts the highest counts.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from io import TextIOWrapper

import click

from jobmanager._version import __version__
from jobmanager.command_line.doctor import doctor
from jobmanager.command_line.grade import grade
from jobmanager.command_line.printing import FINE, INTERRUPTED, USAGE, complain, error_code
from jobmanager.command_line.run import run_program
from jobmanager.command_line.sweep import sweep
from jobmanager.errors import JobManagerError
from jobmanager.model._extras import needs_extra

__all__ = ["run"]

_OF_CLUSTERS = {  # by name: the module that has it, which needs the extra `rq`, and what the list of commands says
    "worker": ("jobmanager.remote.worker_command", "Be a node of a cluster: run jobs that come through Redis."),
    "dispatcher": ("jobmanager.remote.dispatcher_command", "Give waiting jobs to the nodes of a cluster, without being one."),
    "nodes": ("jobmanager.remote.commands", "Show the nodes of a cluster, or drain, pause, resume and forget some."),
    "queue": ("jobmanager.remote.commands", "Show what waits and runs in a cluster."),
}


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a job's name may have characters that the terminal's encoding lacks
    try:
        code = commands.main(arguments, prog_name="jobmanager", standalone_mode=False)
        return code if isinstance(code, int) else FINE
    except click.ClickException as problem:
        return complain(problem.format_message(), problem.exit_code)
    except JobManagerError as problem:
        return complain(str(problem), error_code(problem))
    except (KeyboardInterrupt, click.Abort):
        return complain("interrupted", INTERRUPTED)


class _Commands(click.Group):
    """Ours, and those for many machines."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *_OF_CLUSTERS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _OF_CLUSTERS:
            return super().get_command(ctx, cmd_name)
        try:
            found: click.Command = getattr(importlib.import_module(_OF_CLUSTERS[cmd_name][0]), cmd_name)
            return found
        except ModuleNotFoundError as missing:
            if missing.name not in ("redis", "rq"):
                raise
            raise click.UsageError(needs_extra(cmd_name, "rq", missing.name)) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is called, or an error that names those that may be meant."""
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known[:-1])} and {known[-1]}"
            raise click.UsageError(f"there is no command {name!r}: {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        rows = [(name, command.get_short_help_str(80)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl([*rows, *((name, help_text) for name, (_, help_text) in _OF_CLUSTERS.items())])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="jobmanager")
@click.pass_context
def commands(ctx: click.Context) -> int:
    """Run a program, grade submissions, look after the Docker hosts and the nodes of jobmanager."""
    if ctx.invoked_subcommand is not None:
        return FINE
    click.echo(ctx.get_help())  # a person asks; a script that has lost its arguments sees the exit code
    return USAGE


for _command in (run_program, grade, doctor, sweep):
    commands.add_command(_command)
