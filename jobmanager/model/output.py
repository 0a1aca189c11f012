"""``Output``: what a reader of a job's live output is given at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A piece of what a job printed, as it came."""

    stderr: bool  # else standard output
    data: bytes  # at most 64 KiB; it may end in the middle of a line, or of a character
    missed_bytes: int = 0  # of this stream, before this data: this reader was too slow for them, or nobody has kept them
    starts_again: bool = False  # what came before does not count: the job is run again
