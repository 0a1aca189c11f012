"""The table of what a student container is there for: it can be closed from everywhere, and then it is for nothing else."""

from __future__ import annotations

import pytest

from jobmanager.watching.student_states import TRANSITIONS, WAITS, StudentEvent, StudentState

OPEN = [state for state in StudentState if state is not StudentState.CLOSED]


def test_each_state_and_event_is_used() -> None:
    assert {state for state, _ in TRANSITIONS} == set(OPEN)
    assert {event for _, event in TRANSITIONS} == set(StudentEvent)
    assert {*TRANSITIONS.values()} == set(StudentState)


@pytest.mark.parametrize("state", OPEN)
def test_each_state_can_be_closed(state: StudentState) -> None:
    assert TRANSITIONS[state, StudentEvent.CLOSED] is StudentState.CLOSED


def test_one_program_at_a_time_is_given_and_only_where_none_runs() -> None:
    assert [state for state, event in TRANSITIONS if event is StudentEvent.PROGRAM_GIVEN] == [StudentState.IDLE]


def test_a_program_that_was_given_begins_or_its_container_waits_again() -> None:
    assert [state for state, event in TRANSITIONS if event in (StudentEvent.BEGUN, StudentEvent.WITHDRAWN)] == [
        StudentState.GIVEN
    ] * 2
    assert {state for state in StudentState if (state, StudentEvent.RUN_OVER) not in TRANSITIONS} == {*WAITS, StudentState.CLOSED}
