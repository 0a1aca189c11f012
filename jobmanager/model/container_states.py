"""The life of a container, of a job's as of a student's: a table that both sides of the library follow.

``docs/how-it-works.md`` shows it. A container belongs to a job or to a grading container, which releases it once it needs it no
more.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import NamedTuple, Protocol


class ContainerState(Enum):
    """The states of a container."""

    WANTED = auto()  # its host has not been asked for it
    STARTING = auto()  # a submitter is at work
    UNWANTED = auto()  # the same, but it was released: it is removed as soon as the submitter has reported
    READY = auto()  # it runs, and PID 1 waits for a run
    BUSY = auto()  # it has a run, and is monitored
    SPENT = auto()  # its run has ended
    REMOVING = auto()  # a deleter is at work
    GONE = auto()  # removed; a volume of its own may be left


class ContainerEvent(Enum):
    """What can happen to a container."""

    START_DUE = auto()  # its host is to make it
    STARTED = auto()  # the submitter's report
    START_FAILED = auto()  # the submitter's report: it was not started, and will not be
    SUBMITTER_DIED = auto()  # or its reply was lost; the next submitter finds the container by its name
    RUN_GIVEN = auto()  # its owner has a run for it
    KILL_REQUESTED = auto()  # the run is to be killed
    WAITER_DIED = auto()  # or it hung and was killed
    RUN_ENDED = auto()  # the waiter's report
    RELEASED = auto()  # its owner needs it no more
    FOUND = auto()  # a host has it, and no owner is known
    REMOVED = auto()  # the deleter's report: container and volumes are gone
    VOLUME_LEFT = auto()  # the deleter's report: the container is gone, a volume of its own is not
    REMOVAL_FAILED = auto()  # the deleter's report


class ContainerAction(Enum):
    """What is done about an event."""

    START = auto()  # have a submitter create and start it
    MONITOR = auto()  # have a waiter of its host send it the run, and follow it
    REASSIGN = auto()  # have another waiter follow it
    KILL = auto()  # have its waiter kill it
    REMOVE = auto()  # have a deleter remove it
    REMOVE_LATER = auto()  # the same after a pause, which grows
    FREE = auto()  # it takes no room on its host any more
    FORGET = auto()  # nothing is left of it


class ContainerTransition(NamedTuple):
    """The next state, and what is done."""

    to: ContainerState
    actions: tuple[ContainerAction, ...] = ()


_T, _S, _A = ContainerTransition, ContainerState, ContainerAction

CONTAINER_TRANSITIONS: Mapping[ContainerEvent, Mapping[ContainerState, ContainerTransition]] = {
    ContainerEvent.START_DUE: {
        _S.WANTED: _T(_S.STARTING, (_A.START,)),
    },
    ContainerEvent.STARTED: {
        _S.STARTING: _T(_S.READY),
        _S.UNWANTED: _T(_S.REMOVING, (_A.REMOVE,)),
    },
    ContainerEvent.START_FAILED: {
        _S.STARTING: _T(_S.REMOVING, (_A.REMOVE,)),
        _S.UNWANTED: _T(_S.REMOVING, (_A.REMOVE,)),
    },
    ContainerEvent.SUBMITTER_DIED: {
        _S.STARTING: _T(_S.STARTING, (_A.START,)),
        _S.UNWANTED: _T(_S.REMOVING, (_A.REMOVE,)),
    },
    ContainerEvent.RUN_GIVEN: {
        _S.READY: _T(_S.BUSY, (_A.MONITOR,)),
    },
    ContainerEvent.KILL_REQUESTED: {
        _S.BUSY: _T(_S.BUSY, (_A.KILL,)),  # the waiter's report ends it, with what the program had printed
    },
    ContainerEvent.WAITER_DIED: {
        _S.BUSY: _T(_S.BUSY, (_A.REASSIGN,)),
    },
    ContainerEvent.RUN_ENDED: {
        _S.BUSY: _T(_S.SPENT),
    },
    ContainerEvent.RELEASED: {
        _S.WANTED: _T(_S.GONE, (_A.FREE, _A.FORGET)),
        _S.STARTING: _T(_S.UNWANTED),
        _S.READY: _T(_S.REMOVING, (_A.REMOVE,)),
        _S.BUSY: _T(_S.REMOVING, (_A.REMOVE,)),
        _S.SPENT: _T(_S.REMOVING, (_A.REMOVE,)),
    },
    ContainerEvent.FOUND: {
        _S.WANTED: _T(_S.REMOVING, (_A.REMOVE,)),
    },
    ContainerEvent.REMOVED: {
        _S.REMOVING: _T(_S.GONE, (_A.FREE, _A.FORGET)),
        _S.GONE: _T(_S.GONE, (_A.FORGET,)),
    },
    ContainerEvent.VOLUME_LEFT: {
        _S.REMOVING: _T(_S.GONE, (_A.FREE, _A.REMOVE_LATER)),
        _S.GONE: _T(_S.GONE, (_A.REMOVE_LATER,)),
    },
    ContainerEvent.REMOVAL_FAILED: {
        _S.REMOVING: _T(_S.REMOVING, (_A.REMOVE_LATER,)),
        _S.GONE: _T(_S.GONE, (_A.REMOVE_LATER,)),
    },
}

WANTED_STATES = frozenset({_S.WANTED, _S.STARTING, _S.READY, _S.BUSY, _S.SPENT})  # its owner has not released it


class HasContainerState(Protocol):
    """What keeps the state of a container."""

    state: ContainerState


def apply_event(container: HasContainerState, event: ContainerEvent) -> tuple[ContainerAction, ...] | None:
    """Give a container its next state. Returns what is to be done, in this order; None when the event changes nothing."""
    transition = CONTAINER_TRANSITIONS[event].get(container.state)
    if transition is None:
        return None
    container.state = transition.to
    return transition.actions
