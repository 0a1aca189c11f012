"""``jobmanager sweep``: what dead managers left on a host. The work is done in ``engine/leftovers.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from jobmanager.command_line.hosts import HostAnswers, for_hosts, named_hosts
from jobmanager.command_line.printing import BAD, FINE, age, heading, plain, text
from jobmanager.control.standalone_engine import open_engine
from jobmanager.engine.leftovers import Leftover, LeftoverKind, Removal, remove_leftovers, survey, survey_runners
from jobmanager.model.host import DockerHost

Choice = Callable[[Leftover], bool]
_TIMEOUT_S = 30.0


@click.command()
@for_hosts
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
    answers = HostAnswers(as_json=as_json)
    for host in named_hosts(hosts, tls, ssh_config):
        with answers.about(host):
            chosen, others, removals = _swept(host, _choice(managers, everything), remove=yes)
            answers.add(_sweep_record(host, chosen, others, removals, removed=yes), _sweep_code(removals))
            _show_sweep(answers.console, host, chosen, others, removals, removed=yes)
            for manager_id in _absent(managers, chosen):
                answers.console.print(Text(f"manager {plain(manager_id)} has nothing on this host", "yellow"))
    return answers.finish()


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
    console.print(heading(host.name))
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
