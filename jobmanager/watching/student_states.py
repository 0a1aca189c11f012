"""What a student container is there for: a program that runs, one that may come, or none any more. A table.

::

    BUSY ──► IDLE ──► GIVEN ──► BUSY ...
      │        │        │
      └────────┴────────┴──► CLOSED

A container that is not kept goes from BUSY to CLOSED. What is done with the container itself is another table:
``model/container_states.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class StudentState(Enum):
    """What a student container is there for."""

    BUSY = "busy"  # for its program, which may not have begun
    IDLE = "idle"  # for a program that may come
    GIVEN = "given"  # for one that has come, and has not begun
    CLOSED = "closed"  # for no other program; one may still run


class StudentEvent(Enum):
    """What happened to it."""

    RUN_OVER = "run over"  # and the container may be used for another program
    PROGRAM_GIVEN = "program given"
    BEGUN = "begun"  # the program that was given
    WITHDRAWN = "withdrawn"  # the program that was given: it was killed, or cannot begin
    CLOSED = "closed"  # nobody wants it any more, or it cannot be used again


_S, _E = StudentState, StudentEvent
TRANSITIONS: Mapping[tuple[StudentState, StudentEvent], StudentState] = {
    (_S.BUSY, _E.RUN_OVER): _S.IDLE,
    (_S.BUSY, _E.CLOSED): _S.CLOSED,
    (_S.IDLE, _E.PROGRAM_GIVEN): _S.GIVEN,
    (_S.IDLE, _E.CLOSED): _S.CLOSED,
    (_S.GIVEN, _E.BEGUN): _S.BUSY,
    (_S.GIVEN, _E.WITHDRAWN): _S.IDLE,
    (_S.GIVEN, _E.CLOSED): _S.CLOSED,
}
WAITS = (StudentState.IDLE, StudentState.GIVEN)  # no program of it runs
