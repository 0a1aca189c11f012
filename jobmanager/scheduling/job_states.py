"""The life of a job: its states, events and actions as one table. ``docs/how-it-works.md`` shows it.

A job has its host from ``HOST_ASSIGNED`` on, and containers there. Their lives are another table (``model/container_states.py``):
a container outlives its job, as ``RELEASE`` only begins its removal, and the job's slot stays taken until it is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import NamedTuple


class JobState(Enum):
    """The states of a job."""

    WAITING = auto()  # in the waiting queue
    ASSIGNED = auto()  # it has a slot of a host, and its first container is starting
    RUNNING = auto()  # a container has a run of it
    DONE = auto()  # its result is decided


class JobEvent(Enum):
    """What can happen to a job. The steps of a result have these names in lower case."""

    HOST_ASSIGNED = auto()  # a host with its image has a free slot, which it takes
    CONTAINER_STARTED = auto()  # the container of its run is ready
    START_FAILED = auto()  # the image is gone, or the engine failed or could not be reached, before the program started
    START_REFUSED = auto()  # the engine refused, and would refuse again; or submitters died again and again
    JOB_NOT_SENT = auto()  # the waiter's report: the container ended before it had the whole job
    CUT_OFF = auto()  # neither program nor task is the cause of the run's end, and the task allows another run
    RUN_ENDED = auto()  # the waiter's report: program or container ended, or a limit was reached
    PHASE_ENDED = auto()  # the same of a run after which another one follows
    WAITERS_LOST = auto()  # several waiters died just after they were given it
    OVERDUE = auto()  # no report although every limit is long past
    KILL_REQUESTED = auto()  # kill_job, close, superseded
    QUEUE_TIMEOUT = auto()  # it waited longer than queue_timeout_s


class JobAction(Enum):
    """What is done about an event."""

    WANT_CONTAINER = auto()  # have a container started for its run
    GIVE_RUN = auto()  # give the container its run
    NEXT_RUN = auto()  # the turn of the next phase: give it its container, or want one
    KILL = auto()  # have the run killed
    RELEASE = auto()  # release its containers, and its slot once they are gone
    REQUEUE = auto()  # put it back into the waiting queue, or end it as a crash when no host is left
    PUBLISH = auto()  # put its result onto the done queue


class Transition(NamedTuple):
    """The next state, and what is done."""

    to: JobState
    actions: tuple[JobAction, ...] = ()


WAITING, ASSIGNED, RUNNING, DONE = JobState.WAITING, JobState.ASSIGNED, JobState.RUNNING, JobState.DONE

TRANSITIONS: Mapping[JobEvent, Mapping[JobState, Transition]] = {
    JobEvent.HOST_ASSIGNED: {
        WAITING: Transition(ASSIGNED, (JobAction.WANT_CONTAINER,)),
    },
    JobEvent.CONTAINER_STARTED: {
        ASSIGNED: Transition(RUNNING, (JobAction.GIVE_RUN,)),
        RUNNING: Transition(RUNNING, (JobAction.GIVE_RUN,)),  # that of a later phase, whose turn it is
    },
    JobEvent.START_FAILED: {
        ASSIGNED: Transition(WAITING, (JobAction.RELEASE, JobAction.REQUEUE)),
    },
    JobEvent.START_REFUSED: {
        ASSIGNED: Transition(DONE, (JobAction.PUBLISH, JobAction.RELEASE)),
        RUNNING: Transition(DONE, (JobAction.PUBLISH, JobAction.RELEASE)),  # and no other phase is run
    },
    JobEvent.JOB_NOT_SENT: {
        RUNNING: Transition(WAITING, (JobAction.RELEASE, JobAction.REQUEUE)),
    },
    JobEvent.CUT_OFF: {
        RUNNING: Transition(WAITING, (JobAction.RELEASE, JobAction.REQUEUE)),
    },
    JobEvent.RUN_ENDED: {
        RUNNING: Transition(DONE, (JobAction.PUBLISH, JobAction.RELEASE)),
    },
    JobEvent.PHASE_ENDED: {
        RUNNING: Transition(RUNNING, (JobAction.NEXT_RUN,)),
    },
    JobEvent.WAITERS_LOST: {
        RUNNING: Transition(DONE, (JobAction.PUBLISH, JobAction.RELEASE)),
    },
    JobEvent.OVERDUE: {
        RUNNING: Transition(DONE, (JobAction.PUBLISH, JobAction.RELEASE)),
    },
    JobEvent.KILL_REQUESTED: {
        WAITING: Transition(DONE, (JobAction.PUBLISH,)),
        ASSIGNED: Transition(DONE, (JobAction.PUBLISH, JobAction.RELEASE)),
        RUNNING: Transition(RUNNING, (JobAction.KILL,)),  # the waiter's report ends it, with what it had printed
    },
    JobEvent.QUEUE_TIMEOUT: {
        WAITING: Transition(DONE, (JobAction.PUBLISH,)),
    },
}
