"""``jobmanager doctor``: what a host is, and whether its limits hold. The work is done in ``jobmanager.doctor``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobmanager.command_line.hosts import HostAnswers, for_hosts, named_hosts
from jobmanager.command_line.printing import BAD, FINE, heading, plain, progress, text
from jobmanager.doctor.advice import tried
from jobmanager.doctor.probes import examine
from jobmanager.doctor.report import HostReport
from jobmanager.model.container import EngineAbout


@click.command()
@for_hosts
@click.option("--image", help="Run the probes in this image. Default: the first labelled environment, else the smallest image.")
def doctor(hosts: tuple[str, ...], tls: str | None, ssh_config: str | None, as_json: bool, image: str | None) -> int:
    """Report what each HOST is, and try with real jobs whether every limit holds there.

    HOST is a url such as unix:///var/run/docker.sock, tcp://host:2376 or ssh://user@host. Default: what DOCKER_HOST names,
    or the default socket. The exit code is 1 when a limit does not hold.
    """
    answers = HostAnswers(as_json=as_json)
    for host in named_hosts(hosts, tls, ssh_config):
        with answers.about(host), progress(f"{host.name}: looking") as show:
            report = examine(host, image=image, on_probe_end=partial(_show_probe, show, host.name))
            answers.add(asdict(report), FINE if report.all_enforced else BAD)
            _show_report(answers.console, report)
    return answers.finish()


def _show_probe(show: Callable[[int, int, str], None], host: str, done: int, total: int, name: str) -> None:
    show(done, total, f"{host}: {name}")


def _show_report(console: Console, report: HostReport) -> None:
    console.print(heading(report.host))
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
