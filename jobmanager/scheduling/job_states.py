"""The state machine of a job. ``docs/how-it-works.md`` has it as a table.

A container outlives its job: ``DELETE`` only begins its removal, and its slot stays taken until the container is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import NamedTuple


class JobState(Enum):
    """The states of a job."""

    WAITING = auto()  # in the waiting queue
    PLACED = auto()  # a slot is taken, a submitter is at work
    RUNNING = auto()  # its container runs, and a waiter of its host has it
    DONE = auto()  # its result is decided


class JobEvent(Enum):
    """What can happen to a job. The steps of a result have these names in lower case."""

    HOST_ASSIGNED = auto()  # a host with its image has a free slot, which it takes
    CONTAINER_STARTED = auto()  # the submitter's report
    START_FAILED = auto()  # the image is gone, or the engine failed or could not be reached, before the program started
    START_REFUSED = auto()  # the engine refused, and would refuse again
    SUBMITTER_DIED = auto()  # or its reply was lost; the next submitter finds the container by its name
    JOB_NOT_SENT = auto()  # the waiter's report: the container ended before it had the whole job
    CUT_OFF = auto()  # neither program nor task is the cause of the run's end, and the task allows another run
    RUN_ENDED = auto()  # the waiter's report: program or container ended, or a limit was reached
    WAITER_DIED = auto()  # or it hung and was killed
    WAITERS_LOST = auto()  # several waiters died just after they were given it
    OVERDUE = auto()  # no report although every limit is long past
    KILL_REQUESTED = auto()  # kill_job, close, superseded
    QUEUE_TIMEOUT = auto()  # it waited longer than queue_timeout_s


class JobAction(Enum):
    """What is done about an event."""

    SUBMIT = auto()  # have a submitter create and start the container
    MONITOR = auto()  # put it on the wait queue of its host
    REASSIGN = auto()  # put it on the wait queue of another waiter
    KILL = auto()  # have its waiter kill it
    REQUEUE = auto()  # put it back into the waiting queue, or end it as a crash when no host is left
    PUBLISH = auto()  # put its result onto the done queue
    DELETE = auto()  # have a deleter remove the container


class Transition(NamedTuple):
    """The next state, and what is done."""

    to: JobState
    actions: tuple[JobAction, ...] = ()


WAITING, PLACED, RUNNING, DONE = JobState.WAITING, JobState.PLACED, JobState.RUNNING, JobState.DONE

TRANSITIONS: Mapping[JobEvent, Mapping[JobState, Transition]] = {
    JobEvent.HOST_ASSIGNED: {
        WAITING: Transition(PLACED, (JobAction.SUBMIT,)),
    },
    JobEvent.CONTAINER_STARTED: {
        PLACED: Transition(RUNNING, (JobAction.MONITOR,)),
        RUNNING: Transition(RUNNING),
        DONE: Transition(DONE, (JobAction.DELETE,)),
    },
    JobEvent.START_FAILED: {
        PLACED: Transition(WAITING, (JobAction.DELETE, JobAction.REQUEUE)),
        DONE: Transition(DONE, (JobAction.DELETE,)),
    },
    JobEvent.START_REFUSED: {
        PLACED: Transition(DONE, (JobAction.PUBLISH, JobAction.DELETE)),
        DONE: Transition(DONE, (JobAction.DELETE,)),
    },
    JobEvent.SUBMITTER_DIED: {
        PLACED: Transition(PLACED, (JobAction.SUBMIT,)),
        DONE: Transition(DONE, (JobAction.DELETE,)),
    },
    JobEvent.JOB_NOT_SENT: {
        RUNNING: Transition(WAITING, (JobAction.DELETE, JobAction.REQUEUE)),
    },
    JobEvent.CUT_OFF: {
        RUNNING: Transition(WAITING, (JobAction.DELETE, JobAction.REQUEUE)),
    },
    JobEvent.RUN_ENDED: {
        RUNNING: Transition(DONE, (JobAction.PUBLISH, JobAction.DELETE)),
    },
    JobEvent.WAITER_DIED: {
        RUNNING: Transition(RUNNING, (JobAction.REASSIGN,)),
    },
    JobEvent.WAITERS_LOST: {
        RUNNING: Transition(DONE, (JobAction.PUBLISH, JobAction.DELETE)),
    },
    JobEvent.OVERDUE: {
        RUNNING: Transition(DONE, (JobAction.PUBLISH, JobAction.DELETE)),
    },
    JobEvent.KILL_REQUESTED: {
        WAITING: Transition(DONE, (JobAction.PUBLISH,)),
        PLACED: Transition(DONE, (JobAction.PUBLISH,)),  # its container is deleted once it has started
        RUNNING: Transition(RUNNING, (JobAction.KILL,)),  # the waiter's report ends it, with what it had printed
    },
    JobEvent.QUEUE_TIMEOUT: {
        WAITING: Transition(DONE, (JobAction.PUBLISH,)),
    },
}
