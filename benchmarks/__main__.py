"""``python -m benchmarks [name ...] [--private] [--write]``: measure, and print one table for each benchmark."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from benchmarks import (
    attacks,
    cases,
    cluster,
    cluster_queue,
    endurance,
    forecast,
    overhead,
    phases,
    queue,
    runner,
    start,
    students,
    throughput,
)
from benchmarks.figures import HEAD, Figure, text_table
from benchmarks.page import write_page
from benchmarks.place import engines, facts

BENCHMARKS: Mapping[str, Callable[[Sequence[str]], Iterator[Figure]]] = {
    "overhead": overhead.measure,
    "throughput": throughput.measure,
    "runner": runner.measure,
    "endurance": endurance.measure,
    "start": start.measure,
    "phases": phases.measure,
    "cases": cases.measure,
    "students": students.measure,
    "queue": queue.measure,
    "cluster": cluster.measure,
    "cluster_queue": cluster_queue.measure,
    "forecast": forecast.measure,
    "attacks": attacks.measure,
}


def main() -> None:
    """Run what was asked for, or everything."""
    asked = _arguments()
    found: dict[str, list[Figure]] = {}
    with engines(private=asked.private) as urls:
        machine = facts(urls[0])
        print(text_table(machine))
        for name in asked.names or BENCHMARKS:
            found[name] = list(BENCHMARKS[name](urls))
            print(f"\n{name}\n{text_table([HEAD, *(figure.row() for figure in found[name])])}", flush=True)
    if asked.write:
        machine.append(("load after", f"{os.getloadavg()[0]:.1f} (one minute)"))
        print(f"\nwritten: {write_page(machine, found)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure; all benchmarks unless some are named.")
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(BENCHMARKS))
    parser.add_argument("--private", action="store_true", help="on two quiet engines of our own (root, with dockerd)")
    parser.add_argument("--write", action="store_true", help="refresh the figures in docs/benchmarks.md")
    asked = parser.parse_args()
    if unknown := set(asked.names) - BENCHMARKS.keys():
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    return asked


if __name__ == "__main__":
    main()
