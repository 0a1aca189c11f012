"""A job's result in two lines, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobmanager.model._escapes import one_line

if TYPE_CHECKING:
    from jobmanager.model.result import CaseResult, JobResult, PhaseResult

_MAX_CHARS = 200  # of the text


def summary(result: JobResult) -> str:
    """How it ended, with its grade, and why; then where, and the numbers. Both lines are printable."""
    why = one_line(" ".join(result.text.split()))
    why = why if len(why) <= _MAX_CHARS else f"{why[:_MAX_CHARS]}..."
    counts = [_count("cases", result.cases), _count("phases", result.phases)]
    first = ", ".join(filter(None, [result.outcome.value, f"grade {result.grade:g}", *counts]))
    return f"{first}: {why}\n{_numbers(result)}" if why else f"{first}\n{_numbers(result)}"


def _count(noun: str, parts: tuple[CaseResult, ...] | tuple[PhaseResult, ...]) -> str:
    good = sum(part.outcome == "success" for part in parts)
    return f"{good} of {len(parts)} {noun}" if parts else ""


def _numbers(result: JobResult) -> str:
    place = f"job {one_line(result.job_id)}{f' on {one_line(result.host)}' if result.host else ', on no host'}"
    waiting_s = result.timings.get("waiting")
    known = [
        None if result.exit_code is None else f"exit code {result.exit_code}",
        None if result.signal is None else result.signal,
        None if result.limit is None else f"limit: {result.limit}",
        None if result.killed_by is None else f"killed by: {result.killed_by}",
        None if result.cpu_time_s is None else f"CPU {result.cpu_time_s:.2f} s",
        None if result.wall_time_s is None else f"clock {result.wall_time_s:.2f} s",
        None if result.peak_memory_mib is None else f"memory {result.peak_memory_mib:.1f} MiB",
        None if waiting_s is None else f"waited {waiting_s:.2f} s",
    ]
    return f"{place}: {', '.join(filter(None, known)) or 'nothing was measured'}"
