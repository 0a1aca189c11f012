"""The table of a monitor's states: it can be left from everywhere, and says what it does."""

from __future__ import annotations

import pytest

from jobmanager.watching.monitor_states import TRANSITIONS, MonitorAction, MonitorEvent, MonitorState

ALIVE = [state for state in MonitorState if state is not MonitorState.OVER]


def test_nothing_leads_out_of_the_end() -> None:
    assert all(state is not MonitorState.OVER for state, _ in TRANSITIONS)


def test_each_state_event_and_action_is_used() -> None:
    assert {state for state, _ in TRANSITIONS} == set(ALIVE)
    assert {event for _, event in TRANSITIONS} == set(MonitorEvent)
    assert {action for _, action in TRANSITIONS.values()} == {*MonitorAction, None}


@pytest.mark.parametrize("state", ALIVE)
def test_each_state_can_be_left_without_the_runner(state: MonitorState) -> None:
    """By what only a waiter knows: a stop, a limit, patience that is over."""
    ours = (MonitorEvent.STOP, MonitorEvent.OVERDUE, MonitorEvent.UNANSWERED)
    reached, looked_at = {state}, set[MonitorState]()
    while reached - looked_at:
        one = (reached - looked_at).pop()
        looked_at.add(one)
        reached |= {TRANSITIONS[one, event][0] for event in ours if (one, event) in TRANSITIONS}

    assert MonitorState.OVER in reached


@pytest.mark.parametrize("state", ALIVE)
def test_a_new_connection_goes_on_where_the_lost_one_was(state: MonitorState) -> None:
    after, _ = TRANSITIONS[state, MonitorEvent.CONNECTED]

    assert after is (MonitorState.SENT if state is MonitorState.NEW else state)


def test_no_run_is_sent_once_the_program_has_started() -> None:
    sending = {state for (state, _), (_, action) in TRANSITIONS.items() if action is MonitorAction.SEND_RUN}

    assert sending == {MonitorState.NEW, MonitorState.SENT}
