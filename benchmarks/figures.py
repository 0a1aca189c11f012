"""Figures: what a benchmark found, beside what it should reach."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of a benchmark's table."""

    what: str
    value: float  # the median where there were several
    unit: str
    spread: str = ""  # of what the median stands for: the quarter points
    at_most: float | None = None  # what it should reach, one way or the other
    at_least: float | None = None

    @property
    def target(self) -> str:
        """What it should reach, in words; empty where it is told for information only."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return f">= {self.at_least:g}" if self.at_least is not None else ""

    @property
    def met(self) -> str:
        """yes, no, or nothing where there is no target."""
        if self.at_most is not None:
            return "yes" if self.value <= self.at_most else "no"
        if self.at_least is not None:
            return "yes" if self.value >= self.at_least else "no"
        return ""

    def row(self) -> tuple[str, ...]:
        """Its cells, in the order of ``HEAD``."""
        return (self.what, f"{_rounded(self.value)} {self.unit}".strip(), self.spread, self.target, self.met)


HEAD = ("figure", "median", "quarter points", "target", "met")


def median(
    what: str, values: Sequence[float], unit: str = "", *, at_most: float | None = None, at_least: float | None = None
) -> Figure:
    """A figure from several values."""
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    spread = f"{_rounded(lower)} .. {_rounded(upper)} of {len(values)}"
    return Figure(what=what, value=middle, unit=unit, spread=spread, at_most=at_most, at_least=at_least)


def text_table(rows: Iterable[Sequence[str]]) -> str:
    """Rows as aligned text."""
    lines = list(rows)
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """Rows as a Markdown table; the first is its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _rounded(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
