"""The life of a job: what happens to it in each state. Read it beside the table in ``docs/how-it-works.md``.

A container has a life of its own beyond its job's: ``DELETE`` only begins its removal, and its slot stays taken
until nothing of it is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import NamedTuple


class State(Enum):
    """Where a job is."""

    WAITING = auto()  # in the waiting queue
    PLACED = auto()  # a slot is taken, a submitter is at work
    RUNNING = auto()  # its container runs, and a waiter of its host has it
    DONE = auto()  # its result is decided


class Happening(Enum):
    """What can happen to a job."""

    HOST_HAS_ROOM = auto()  # a host with its image has a free slot
    CONTAINER_RUNS = auto()  # the submitter's word
    HOST_CANNOT = auto()  # image gone, engine unreachable or in trouble, before the program began
    START_REFUSED = auto()  # the engine said no for good
    SUBMITTER_DIED = auto()  # or its answer was lost; submitting again finds by name what is there
    NEVER_BEGAN = auto()  # the waiter's word: the container ended before it had its job
    CUT_OFF = auto()  # the run ended by nobody's fault here, and the task allows another one
    RUN_ENDED = auto()  # the waiter's report: program or container ended, or a limit was reached
    WAITER_DIED = auto()  # or hangs and was ended
    WAITERS_LOST = auto()  # several have died just when they were given it
    OVERDUE = auto()  # no report although every limit is long past
    KILL_ASKED = auto()  # kill_job, close, superseded
    QUEUE_TIME_OVER = auto()  # waited longer than queue_timeout_s


class Do(Enum):
    """What is done about it."""

    SUBMIT = auto()  # have a submitter create and start the container of this name
    WATCH = auto()  # put it on its host's wait queue
    HAND_OVER = auto()  # put it on another waiter's wait queue
    STOP = auto()  # have its waiter kill it
    REQUEUE = auto()  # back into the waiting queue, or a crash when no host is left
    DELIVER = auto()  # onto the done queue
    DELETE = auto()  # have a deleter remove the container


class Move(NamedTuple):
    """The next state, and what is done on the way."""

    to: State
    do: tuple[Do, ...] = ()


WAITING, PLACED, RUNNING, DONE = State.WAITING, State.PLACED, State.RUNNING, State.DONE

LIFE: Mapping[Happening, Mapping[State, Move]] = {
    Happening.HOST_HAS_ROOM: {
        WAITING: Move(PLACED, (Do.SUBMIT,)),
    },
    Happening.CONTAINER_RUNS: {
        PLACED: Move(RUNNING, (Do.WATCH,)),
        RUNNING: Move(RUNNING),
        DONE: Move(DONE, (Do.DELETE,)),
    },
    Happening.HOST_CANNOT: {
        PLACED: Move(WAITING, (Do.DELETE, Do.REQUEUE)),
        DONE: Move(DONE, (Do.DELETE,)),
    },
    Happening.START_REFUSED: {
        PLACED: Move(DONE, (Do.DELIVER, Do.DELETE)),
        DONE: Move(DONE, (Do.DELETE,)),
    },
    Happening.SUBMITTER_DIED: {
        PLACED: Move(PLACED, (Do.SUBMIT,)),
        DONE: Move(DONE, (Do.DELETE,)),
    },
    Happening.NEVER_BEGAN: {
        RUNNING: Move(WAITING, (Do.DELETE, Do.REQUEUE)),
    },
    Happening.CUT_OFF: {
        RUNNING: Move(WAITING, (Do.DELETE, Do.REQUEUE)),
    },
    Happening.RUN_ENDED: {
        RUNNING: Move(DONE, (Do.DELIVER, Do.DELETE)),
    },
    Happening.WAITER_DIED: {
        RUNNING: Move(RUNNING, (Do.HAND_OVER,)),
    },
    Happening.WAITERS_LOST: {
        RUNNING: Move(DONE, (Do.DELIVER, Do.DELETE)),
    },
    Happening.OVERDUE: {
        RUNNING: Move(DONE, (Do.DELIVER, Do.DELETE)),
    },
    Happening.KILL_ASKED: {
        WAITING: Move(DONE, (Do.DELIVER,)),
        PLACED: Move(DONE, (Do.DELIVER,)),  # its container is deleted as soon as it appears; the program never begins
        RUNNING: Move(RUNNING, (Do.STOP,)),  # the waiter's report ends it, with what it had printed
    },
    Happening.QUEUE_TIME_OVER: {
        WAITING: Move(DONE, (Do.DELIVER,)),
    },
}
