"""The page ``docs/benchmarks.md``: its text is written by hand, each benchmark's table by ``--write``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from benchmarks.figures import HEAD, Figure, markdown_table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def write_page(machine: Sequence[tuple[str, str]], found: Mapping[str, Sequence[Figure]]) -> Path:
    """Replace the parts that were measured now; the others stay as they are. Returns where it is."""
    text = PAGE.read_text()
    for name, figures in found.items():
        table = markdown_table([HEAD, *(figure.row() for figure in figures)])
        text = _replaced(text, name, f"Measured on {date.today().isoformat()}.\n\n{table}")
    PAGE.write_text(_replaced(text, "machine", markdown_table([("machine", ""), *machine])))
    return PAGE


def _replaced(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    new, times = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{content}\n{end}", text, flags=re.DOTALL)
    if times != 1:
        raise RuntimeError(f"{PAGE} must hold {begin!r} and {end!r} once")
    return new
