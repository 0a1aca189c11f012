"""``jobmanager nodes`` and ``jobmanager queue``. They ask Redis only, and work while no node and no dispatcher lives."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobmanager.command_line.printing import BAD, FINE, age, complain, console, plain, text
from jobmanager.errors import InvalidValue
from jobmanager.remote.options import ClusterAddress, for_cluster
from jobmanager.remote.overview import EnvironmentNow, NodeNow, QueueNow, nodes_now, queue_now
from jobmanager.remote.signing import Signer
from jobmanager.remote.store import ClusterStore

_WANTS = {"drain": "drain", "pause": "pause", "resume": "up"}
_LOOK_EVERY_S = 0.5
_STYLES = {"up": "green", "draining": "yellow", "paused": "yellow", "down": "bold red"}


@click.command(short_help="Show the nodes of a cluster, or drain, pause, resume and forget some.")
@click.argument("action", type=click.Choice(["list", *_WANTS, "forget"]), default="list")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@for_cluster
@click.option("--until-empty", is_flag=True, help="Wait until nothing is placed or runs on the named nodes.")
@click.option("--timeout", "timeout_s", metavar="SECONDS", type=click.FloatRange(min=0), help="For how long, at most.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def nodes(
    address: ClusterAddress, action: str, names: tuple[str, ...], until_empty: bool, timeout_s: float | None, as_json: bool
) -> int:
    """Show the nodes of a cluster (list), or those that are named.

    drain, pause: they take no more jobs, and give back what they have not started; running jobs end. resume: they take jobs
    again. What was asked for is kept when a node is restarted. forget: they are listed no more, as they will not come back.
    The exit code is 1 when a node is down, or is not empty in time.
    """
    if action != "list" and not names:
        raise click.UsageError(f"nodes {action}: which ones?")
    with address.open() as store:
        chosen = _chosen(nodes_now(store, address.signer), names)
        if action in _WANTS:
            _ask(store, chosen, _WANTS[action])
        elif action == "forget":
            _forget(store, chosen)
            names = ()
        still_busy = _busy_after(store, address.signer, chosen, timeout_s) if until_empty else []
        found = _chosen(nodes_now(store, address.signer), names)
    code = BAD if still_busy or (action == "list" and any(node.state == "down" for node in found)) else FINE
    if as_json:
        click.echo(json.dumps({"exit_code": code, "nodes": [_node_record(node) for node in found]}, indent=2))
    else:
        _show_nodes(console(quiet=False), found, action)
    if still_busy:
        complain(f"not done after {timeout_s:g} s: {'; '.join(still_busy)}", BAD)
    return code


@click.command(short_help="Show what waits and runs in a cluster.")
@for_cluster
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def queue(address: ClusterAddress, as_json: bool) -> int:
    """Show what waits and runs in a cluster, by environment."""
    with address.open() as store:
        found = queue_now(store, address.signer)
    if as_json:
        totals = {name: getattr(found, name) for name in ("waiting", "oldest_s", "placed", "running")}
        click.echo(json.dumps({"exit_code": FINE, **totals, **asdict(found)}, indent=2))
    else:
        _show_queue(console(quiet=False), found)
    return FINE


# ---- nodes


def _chosen(found: Sequence[NodeNow], names: Sequence[str]) -> list[NodeNow]:
    known = {node.name: node for node in found}
    if unknown := [name for name in names if name not in known]:
        raise InvalidValue(f"no node is named {', '.join(unknown)}. There are: {', '.join(known) or 'none'}")
    return [known[name] for name in dict.fromkeys(names)] if names else list(found)


def _ask(store: ClusterStore, chosen: Sequence[NodeNow], want: str) -> None:
    for node in chosen:
        store.set_want(node.name, want)
        store.audit(f"want {want}", "", node.name)
        store.hint("changed", more=node.name)


def _forget(store: ClusterStore, chosen: Sequence[NodeNow]) -> None:
    """None of them is forgotten when one may not be."""
    held = {fields.name for fields in store.nodes() if fields.is_claimed}
    for node in chosen:
        if node.name in held:
            raise InvalidValue(
                f"node {node.name} is not forgotten: a worker holds its name. Stop it first; one that was killed holds it for"
                f" {store.timeouts.suspect_s:g} s"
            )
        if node.jobs:
            raise InvalidValue(
                f"node {node.name} is not forgotten: the leader has not decided yet what becomes of the jobs there ({node.jobs})."
                f" It does so {store.timeouts.node_lost_s:g} s after the node's last sign of life"
            )
    for node in chosen:
        store.forget_node(node.name)
        store.set_want(node.name, "up")
        store.audit("forget", "", node.name)
        store.hint("changed", more=node.name)


def _busy_after(store: ClusterStore, signer: Signer, chosen: Sequence[NodeNow], timeout_s: float | None) -> list[str]:
    """Which of them are still busy when the time is over, and with what."""
    until = None if timeout_s is None else time.monotonic() + timeout_s
    names = {node.name for node in chosen}
    while busy := [f"{node.name} {what}" for node in nodes_now(store, signer) if node.name in names and (what := _busy(node))]:
        if until is not None and time.monotonic() >= until:
            break
        time.sleep(_LOOK_EVERY_S)
    return busy


def _busy(node: NodeNow) -> str:
    """Why a node is not empty yet; empty when it is. What a node does not know yet, it does not do."""
    if node.jobs:
        return f"has {node.jobs} jobs" if node.jobs > 1 else "has 1 job"
    return f"does not know yet that it is to {node.want}" if node.want != "up" and node.takes_jobs else ""


def _node_record(node: NodeNow) -> dict[str, Any]:
    record = asdict(node)
    report = record.pop("report") or {}
    return {**report, **record}


def _show_nodes(out: Console, found: Sequence[NodeNow], action: str) -> None:
    table = Table("node", "state", "slots", "jobs", "memory free", "environments", "version", "seen", "why", box=SIMPLE_HEAD)
    for node in found:
        report = node.report
        table.add_row(
            text(node.name),
            Text(plain(node.state), _STYLES.get(node.state, "")),
            str(report.slots) if report else "",
            str(node.jobs),
            f"{report.free_memory_mib} of {report.memory_mib} MiB" if report else "",
            text(", ".join(report.environments)) if report else "",
            text(report.version) if report else "",
            "never" if node.seen_s is None else f"{age(node.seen_s)} ago",
            text(_why(node, is_resumed=action == "resume")),
        )
    out.print(table if found else Text("no node was seen in the last day", "yellow"))


def _why(node: NodeNow, *, is_resumed: bool) -> str:
    asked = "" if node.want == "up" else f"asked to {node.want}"
    if is_resumed and not node.takes_jobs:
        asked = "asked to resume"
    return "; ".join(each for each in (asked, node.reason) if each and each != node.want)


# ---- queue


def _show_queue(out: Console, found: QueueNow) -> None:
    table = Table("environment", box=SIMPLE_HEAD)
    for name in ("waiting", "oldest", "placed", "running", "nodes"):
        table.add_column(name, justify="right")
    for each in found.environments:
        table.add_row(text(each.environment), *_figures(each), Text(str(each.nodes), "" if each.nodes else "bold red"))
    out.print(table)
    oldest = "" if found.oldest_s is None else f", the oldest for {age(found.oldest_s)}"
    out.print(f"{found.waiting} waiting{oldest}; {found.placed} placed; {found.running} running; {_slots(found)}")
    if not found.leader:
        out.print(Text("no dispatcher leads: nothing is placed. Running jobs end, and their clients are told", "bold red"))


def _figures(each: EnvironmentNow) -> tuple[str, str, str, str]:
    oldest = "" if each.oldest_s is None else age(each.oldest_s)
    return str(each.waiting), oldest, str(each.placed), str(each.running)


def _slots(found: QueueNow) -> str:
    return f"{found.free_slots} of {found.slots} slots free"
