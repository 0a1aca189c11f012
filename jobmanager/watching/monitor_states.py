"""The states of a monitor, and what follows from each event in each of them: a table.

::

    NEW ──► SENT ──► RUNNING ──► COLLECTING ──► OVER
              │         │             ▲
              └────► STOPPING ────────┘   (a KILL was sent)
                        │
                     KILLED ──► OVER      (the engine was told: the runner does not answer)

That the container ends, or cannot be reached for too long, is no event: it ends the monitor in any state.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class MonitorState(Enum):
    """How far a monitor is with its container."""

    NEW = "new"  # the runner was not heard yet
    SENT = "sent"  # it has the run, as far as we know
    RUNNING = "running"  # the program has started
    STOPPING = "stopping"  # the runner was told to kill it
    KILLED = "killed"  # the engine was told to kill the container
    COLLECTING = "collecting"  # the program has ended: the runner is asked for files
    OVER = "over"


class MonitorEvent(Enum):
    """What happened to it."""

    SENT_AHEAD = "sent ahead"  # the run, with the first HELLO: no waiter has spoken to this runner before
    CONNECTED = "connected"  # a session has begun: the first one, or another after the connection was lost
    STARTED = "started"
    REFUSED = "refused"  # the runner does not start the program
    ENDED = "ended"  # the program, and the runner's report is whole
    COLLECTED = "collected"
    STOP = "stop"  # a kill was requested, or a limit of ours is reached
    OVERDUE = "overdue"  # the runner should have stopped it
    UNANSWERED = "unanswered"  # the runner does not answer in time


class MonitorAction(Enum):
    """What is to be done then."""

    SEND_RUN = "send run"  # unless the runner has it
    NOTE_SENT = "note sent"
    TELL_START = "tell start"
    ASK_RUNNER = "ask runner"  # whether it lives
    SEND_KILL = "send kill"
    KILL_CONTAINER = "kill container"
    COLLECT = "collect"


_S, _E, _A = MonitorState, MonitorEvent, MonitorAction
TRANSITIONS: Mapping[tuple[MonitorState, MonitorEvent], tuple[MonitorState, MonitorAction | None]] = {
    (_S.NEW, _E.SENT_AHEAD): (_S.SENT, _A.NOTE_SENT),
    (_S.NEW, _E.CONNECTED): (_S.SENT, _A.SEND_RUN),
    (_S.NEW, _E.STARTED): (_S.RUNNING, _A.TELL_START),  # an earlier waiter has kept it
    (_S.NEW, _E.REFUSED): (_S.OVER, None),
    (_S.NEW, _E.STOP): (_S.OVER, None),
    (_S.NEW, _E.OVERDUE): (_S.NEW, _A.ASK_RUNNER),
    (_S.NEW, _E.UNANSWERED): (_S.KILLED, _A.KILL_CONTAINER),
    (_S.SENT, _E.CONNECTED): (_S.SENT, _A.SEND_RUN),
    (_S.SENT, _E.STARTED): (_S.RUNNING, _A.TELL_START),
    (_S.SENT, _E.REFUSED): (_S.OVER, None),
    (_S.SENT, _E.STOP): (_S.STOPPING, _A.SEND_KILL),
    (_S.SENT, _E.OVERDUE): (_S.SENT, _A.ASK_RUNNER),
    (_S.SENT, _E.UNANSWERED): (_S.KILLED, _A.KILL_CONTAINER),
    (_S.RUNNING, _E.CONNECTED): (_S.RUNNING, None),
    (_S.RUNNING, _E.ENDED): (_S.COLLECTING, _A.COLLECT),
    (_S.RUNNING, _E.STOP): (_S.STOPPING, _A.SEND_KILL),
    (_S.RUNNING, _E.OVERDUE): (_S.RUNNING, _A.ASK_RUNNER),
    (_S.RUNNING, _E.UNANSWERED): (_S.KILLED, _A.KILL_CONTAINER),
    (_S.STOPPING, _E.CONNECTED): (_S.STOPPING, _A.SEND_KILL),
    (_S.STOPPING, _E.STARTED): (_S.STOPPING, _A.TELL_START),
    (_S.STOPPING, _E.REFUSED): (_S.OVER, None),
    (_S.STOPPING, _E.OVERDUE): (_S.STOPPING, _A.ASK_RUNNER),
    (_S.STOPPING, _E.ENDED): (_S.COLLECTING, _A.COLLECT),
    (_S.STOPPING, _E.UNANSWERED): (_S.KILLED, _A.KILL_CONTAINER),
    (_S.KILLED, _E.CONNECTED): (_S.KILLED, _A.KILL_CONTAINER),
    (_S.KILLED, _E.STARTED): (_S.KILLED, None),
    (_S.KILLED, _E.REFUSED): (_S.OVER, None),
    (_S.KILLED, _E.ENDED): (_S.OVER, None),
    (_S.KILLED, _E.UNANSWERED): (_S.OVER, None),
    (_S.COLLECTING, _E.CONNECTED): (_S.COLLECTING, _A.COLLECT),
    (_S.COLLECTING, _E.COLLECTED): (_S.OVER, None),
    (_S.COLLECTING, _E.STOP): (_S.OVER, None),
}
