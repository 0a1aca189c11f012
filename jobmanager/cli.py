"""The command line: arguments in, tables or JSON out. The work is done in ``doctor`` and ``engine/leftovers.py``.

The commands for many machines are in ``remote/``, and are imported when one of them is called: the others need no ``redis``.
Exit codes: 0 all is well; 1 a limit does not hold, a leftover could not be removed, or a node is down or not empty in time;
2 bad input; 3 a host or Redis cannot be reached; 130 interrupted. Of several hosts the highest counts.
"""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import TextIOWrapper
from urllib.parse import urlsplit

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column, Table
from rich.text import Text

from jobmanager._version import __version__
from jobmanager.control.settings import default_host
from jobmanager.control.standalone_engine import open_engine
from jobmanager.doctor.advice import tried
from jobmanager.doctor.probes import examine
from jobmanager.doctor.report import HostReport
from jobmanager.engine.leftovers import Leftover, LeftoverKind, Removal, remove_leftovers, survey, survey_runners
from jobmanager.errors import EngineUnavailable, InvalidHost, JobManagerError, RedisUnavailable
from jobmanager.model._extras import needs_extra
from jobmanager.model.container import EngineAbout
from jobmanager.model.host import DockerHost

__all__ = ["run"]

FINE, BAD, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
_OF_CLUSTERS = {  # by name: the module that has it, which needs the extra `rq`, and what the list of commands says
    "worker": ("jobmanager.remote.worker_command", "Be a node of a cluster: run jobs that come through Redis."),
    "dispatcher": ("jobmanager.remote.dispatcher_command", "Give waiting jobs to the nodes of a cluster, without being one."),
    "nodes": ("jobmanager.remote.commands", "Show the nodes of a cluster, or drain, pause, resume and forget some."),
    "queue": ("jobmanager.remote.commands", "Show what waits and runs in a cluster."),
}
_TIMEOUT_S = 30.0
_WIDTH = 160  # where the output is no terminal


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
        return complain(str(problem), _code(problem))
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
    """Look after the Docker hosts and the nodes of jobmanager."""
    if ctx.invoked_subcommand is not None:
        return FINE
    click.echo(ctx.get_help())  # a person asks; a script that has lost its arguments sees the exit code
    return USAGE


def _for_hosts(command: Callable[..., int]) -> Callable[..., int]:
    """The arguments that every command has."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")(command)
    command = click.option("--ssh-config", metavar="FILE", help="For ssh -F, for ssh hosts. Default: your own settings.")(command)
    command = click.option("--tls", metavar="DIR", help="Folder with ca.pem, cert.pem and key.pem, for tcp hosts.")(command)
    return click.argument("hosts", nargs=-1, metavar="[HOST]...")(command)


@commands.command()
@_for_hosts
@click.option("--image", help="Run the probes in this image. Default: the first labelled environment, else the smallest image.")
def doctor(hosts: tuple[str, ...], tls: str | None, ssh_config: str | None, as_json: bool, image: str | None) -> int:
    """Report what each HOST is, and try with real jobs whether every limit holds there.

    HOST is a url such as unix:///var/run/docker.sock, tcp://host:2376 or ssh://user@host. Default: what DOCKER_HOST names,
    or the default socket. The exit code is 1 when a limit does not hold.
    """
    answers = _Answers(as_json=as_json)
    for host in _hosts(hosts, tls, ssh_config):
        with answers.about(host), _progress(host) as on_probe_end:
            report = examine(host, image=image, on_probe_end=on_probe_end)
            answers.add(asdict(report), FINE if report.all_enforced else BAD)
            _show_report(answers.console, report)
    return answers.finish()


@commands.command()
@_for_hosts
@click.option("--yes", is_flag=True, help="Remove the listed leftovers.")
@click.option("--manager", "managers", metavar="ID", multiple=True, help="Choose everything of this manager, even if it is alive.")
@click.option("--all", "everything", is_flag=True, help="Choose everything of every manager, even of living ones.")
def sweep(
    hosts: tuple[str, ...],
    tls: str | None,
    ssh_config: str | None,
    as_json: bool,
    yes: bool,
    managers: tuple[str, ...],
    everything: bool,
) -> int:
    """List what dead managers left on each HOST; with --yes, remove it.

    What belongs to a manager that may be alive is counted and left alone, unless you name it.
    """
    if not all(map(str.strip, managers)):
        raise click.UsageError("--manager: give a manager's id")
    if managers and everything:
        raise click.UsageError("--manager and --all: give one of them")
    answers = _Answers(as_json=as_json)
    for host in _hosts(hosts, tls, ssh_config):
        with answers.about(host):
            chosen, others, removals = _swept(host, _choice(managers, everything), remove=yes)
            answers.add(_sweep_record(host, chosen, others, removals, removed=yes), _sweep_code(removals))
            _show_sweep(answers.console, host, chosen, others, removals, removed=yes)
            for manager_id in _absent(managers, chosen):
                answers.console.print(Text(f"manager {plain(manager_id)} has nothing on this host", "yellow"))
    return answers.finish()


# ---- hosts, and what is answered for each


def _hosts(urls: Sequence[str], tls: str | None, ssh_config: str | None) -> list[DockerHost]:
    """The named hosts, each with the options for its kind of url; else the default one."""
    if not urls and tls is None and ssh_config is None:
        return [default_host()]
    urls = list({url.rstrip("/"): url for url in urls}.values()) or [default_host().url]
    schemes = {DockerHost(url).url: urlsplit(url).scheme for url in urls}
    for option, given, scheme in (("--tls", tls, "tcp"), ("--ssh-config", ssh_config, "ssh")):
        if given is not None and scheme not in schemes.values():
            raise InvalidHost(f"{option} is for {scheme} hosts, and none is given")
    return [
        DockerHost(url, tls=tls if scheme == "tcp" else None, ssh_config=ssh_config if scheme == "ssh" else None)
        for url, scheme in schemes.items()
    ]


@dataclass(kw_only=True)
class _Answers:
    """What was found on each host, and the exit code of the command."""

    as_json: bool
    code: int = FINE
    records: list[dict[str, object]] = field(default_factory=list)

    @property
    def console(self) -> Console:
        """Prints tables; quiet when JSON is wanted."""
        return console(quiet=self.as_json)

    def add(self, record: dict[str, object], code: int) -> None:
        self.records.append(record)
        self.code = max(self.code, code)

    @contextmanager
    def about(self, host: DockerHost) -> Iterator[None]:
        """Report a host that fails, so that the others follow."""
        try:
            yield
        except JobManagerError as problem:
            complain(str(problem), 0)
            self.add({"host": host.name, "url": host.url, "problem": str(problem)}, _code(problem))

    def finish(self) -> int:
        if self.as_json:
            click.echo(json.dumps({"exit_code": self.code, "hosts": self.records}, indent=2))
        return self.code


def console(*, quiet: bool) -> Console:
    """For tables: as wide as the terminal."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH, quiet=quiet, soft_wrap=False, highlight=False)


def _code(problem: JobManagerError) -> int:
    return UNREACHABLE if isinstance(problem, (EngineUnavailable, RedisUnavailable)) else USAGE


def complain(about: str, code: int) -> int:
    """One line on standard error."""
    click.echo(f"jobmanager: {plain(about)}", err=True)
    return code


@contextmanager
def _progress(host: DockerHost) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on standard error while probes run; nothing where that is no terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(f"{host.name}: looking", total=None)
        yield lambda done, total, name: bar.update(task, completed=done, total=total, description=f"{host.name}: {name}")


# ---- doctor


def _show_report(console: Console, report: HostReport) -> None:
    console.print(_heading(report.host))
    console.print(_about_table(report.about))
    for sentence in report.advice:
        console.print(Text(f"look: {plain(sentence)}", "yellow"))
    table = Table("limit", "holds", "seen", box=SIMPLE_HEAD)
    for probe in report.probes:
        table.add_row(text(probe.name), Text("yes", "green") if probe.enforced else Text("NO", "bold red"), text(probe.seen))
    console.print(text(f"probes, in {report.image}:"), table)
    failing = [probe.name for probe in report.probes if not probe.enforced]
    console.print(Text(f"does not hold here: {', '.join(failing)}", "bold red") if failing else Text("every limit holds", "green"))


def _about_table(about: EngineAbout) -> Table:
    table = Table(show_header=False, box=SIMPLE_HEAD)
    rows = {
        "engine": f"{about.engine}, API {about.api}; {tried(about.engine)}",
        "containerd": about.containerd,
        "runtime": f"{about.runtime}; runc {about.runc}",
        "system": f"{about.operating_system}, kernel {about.kernel}",
        "cgroup": f"v{about.cgroup}",
        "storage driver": about.storage_driver,
        "live-restore": "on" if about.live_restore else "off",
        "security": ", ".join(about.security) or "none",
        "swap limit": "no" if "swap" in about.cannot_limit else "yes",
    }
    for name, value in rows.items():
        table.add_row(name, text(value or "unknown"))
    return table


# ---- sweep

Choice = Callable[[Leftover], bool]


def _choice(managers: Sequence[str], everything: bool) -> Choice:
    """Which leftovers of a host are to be removed."""
    if managers:
        return lambda each: each.manager_id in managers
    return lambda each: everything or bool(each.why)


def _swept(host: DockerHost, choice: Choice, *, remove: bool) -> tuple[list[Leftover], list[Leftover], list[Removal]]:
    """The chosen leftovers, the others, and how the removal of the chosen ones went."""
    with open_engine(host, timeout_s=_TIMEOUT_S) as engine:
        found = (survey(engine), survey_runners(engine))
        leftovers = [*(each for one in found for each in one.leftovers), *(each for one in found for each in one.others)]
        chosen = [each for each in leftovers if choice(each)]
        others = [each for each in leftovers if not choice(each)]
        return chosen, others, list(remove_leftovers(engine, chosen)) if remove else []


def _absent(managers: Sequence[str], chosen: Sequence[Leftover]) -> list[str]:
    """Managers that were named, perhaps with a typing error, and have nothing here."""
    return [manager_id for manager_id in dict.fromkeys(managers) if manager_id not in {each.manager_id for each in chosen}]


def _sweep_code(removals: Sequence[Removal]) -> int:
    return BAD if any(removal.error for removal in removals) else FINE


def _sweep_record(
    host: DockerHost, chosen: Sequence[Leftover], others: Sequence[Leftover], removals: Sequence[Removal], *, removed: bool
) -> dict[str, object]:
    errors = {removal.leftover.id: removal.error for removal in removals}
    return {
        "host": host.name,
        "url": host.url,
        "leftovers": [
            {**asdict(each), "removed": removed and not errors[each.id], "error": errors.get(each.id, "")} for each in chosen
        ],
        "left_alone": [asdict(each) for each in others],
    }


def _show_sweep(
    console: Console,
    host: DockerHost,
    chosen: Sequence[Leftover],
    others: Sequence[Leftover],
    removals: Sequence[Removal],
    *,
    removed: bool,
) -> None:
    console.print(_heading(host.name))
    errors = {removal.leftover.id: removal.error for removal in removals}
    name = Column("name", overflow="fold")
    table = Table("kind", name, "manager", "job", "age", "why", *(["removed"] if removed else []), box=SIMPLE_HEAD)
    for each in chosen:
        end = [_removed(errors[each.id])] if removed else []
        why = each.why or "chosen by you"
        table.add_row(each.kind.value, *map(text, (each.name, _manager(each), each.job_id, age(each.age_s), why)), *end)
    if chosen:
        console.print(table)
    console.print(_summary(chosen, errors, removed=removed))
    for line in _left_alone(others):
        console.print(text(line))


def _manager(leftover: Leftover) -> str:
    """The manager's id, by which it is chosen, and its name, which somebody may know."""
    return f"{leftover.manager_id} ({leftover.manager_name})" if leftover.manager_name else leftover.manager_id


def _removed(error: str) -> Text:
    return Text(f"NO: {plain(error)}", "bold red") if error else Text("yes", "green")


def _summary(chosen: Sequence[Leftover], errors: dict[str, str], *, removed: bool) -> Text:
    if not chosen:
        return Text("nothing to sweep", "green")
    if not removed:
        return Text(f"{_counted(chosen)} to remove: add --yes to remove them", "yellow")
    kept = sum(bool(error) for error in errors.values())
    if kept:
        return Text(f"{kept} of {len(chosen)} could not be removed", "bold red")
    return Text(f"removed {_counted(chosen)}", "green")


def _left_alone(others: Sequence[Leftover]) -> Iterator[str]:
    """One line for each manager that may be alive, so that the operator can name it."""
    for manager_id in dict.fromkeys(each.manager_id for each in others if each.manager_id):
        theirs = [each for each in others if each.manager_id == manager_id]
        named = next((_manager(each) for each in theirs if each.manager_name), manager_id)
        oldest = age(max(each.age_s for each in theirs))
        yield f"left alone: {_counted(theirs)} of manager {named}, which may be alive; the oldest was made {oldest} ago"


def _counted(leftovers: Sequence[Leftover]) -> str:
    counts = {kind: sum(each.kind is kind for each in leftovers) for kind in LeftoverKind}
    return " and ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts.items() if count)


def age(seconds: float) -> str:
    """A time for people."""
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"


# ---- text


def _heading(host: str) -> Text:
    return Text(plain(host), "bold")


def text(value: str) -> Text:
    """A cell of a table."""
    return Text(plain(value))


def plain(text: str) -> str:
    """Text from an engine or a container, for a terminal: one line without control characters."""
    return "".join(character if character.isprintable() else " " for character in text)
