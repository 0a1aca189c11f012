"""The budget that all student containers of a job share."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from jobmanager import Limits
from jobmanager.grading.link import RunStudent
from jobmanager.watching.student_budget import BudgetExceeded, StudentBudget
from tests.conftest import eventually

LIMITS = Limits(cpu_time_s=10, wall_time_s=30, memory_mib=100)
ASKED = RunStudent(id=1, command="true", env={})


def budget(
    *, cpu_time_s: float = 10, memory_mib: int = 100, most_students: int = 8, wall_time_left_s: float = 30, wait_s: float = 0
) -> StudentBudget:
    return StudentBudget(
        LIMITS,
        cpu_time_s=cpu_time_s,
        memory_mib=memory_mib,
        most_students=most_students,
        wall_time_left_s=lambda: wall_time_left_s,
        wait_s=wait_s,
    )


def test_who_asks_for_nothing_has_the_tasks_limits_less_a_grace() -> None:
    assert budget().allocate(ASKED).limits == replace(LIMITS, wall_time_s=24)


def test_who_asks_has_what_he_asks_for_as_far_as_it_is_left() -> None:
    asked = replace(ASKED, cpu_time_s=2, wall_time_s=1000, memory_mib=40)
    assert budget(wall_time_left_s=9).allocate(asked).limits == replace(LIMITS, cpu_time_s=2, wall_time_s=3, memory_mib=40)
    assert budget(cpu_time_s=1.5).allocate(replace(asked, wall_time_s=0)).limits.wall_time_s == 4.5


def test_who_has_less_cpu_time_than_he_asked_for_is_known() -> None:
    shared = budget(cpu_time_s=11)
    first = shared.allocate(replace(ASKED, memory_mib=20))
    assert not first.has_less_cpu
    shared.mark_stopped(first, 9.0)
    assert not shared.allocate(replace(ASKED, cpu_time_s=1, memory_mib=20)).has_less_cpu
    assert shared.allocate(replace(ASKED, cpu_time_s=5, memory_mib=20)).has_less_cpu


def test_memory_and_places_are_shared_by_those_that_run() -> None:
    shared = budget(memory_mib=150, most_students=2)
    first = shared.allocate(replace(ASKED, memory_mib=90))
    with pytest.raises(BudgetExceeded, match="wants 61 MiB, and 60 MiB are left"):
        shared.allocate(replace(ASKED, memory_mib=61))
    assert shared.allocate(ASKED).limits.memory_mib == 60
    with pytest.raises(BudgetExceeded, match="2 student containers run already"):
        shared.allocate(replace(ASKED, memory_mib=16))
    shared.mark_stopped(first, 0.0)
    shared.release(first)
    assert shared.allocate(ASKED).limits.memory_mib == 90


def test_who_asks_for_no_memory_while_another_has_all_of_it_is_told_what_to_say() -> None:
    shared = budget()
    shared.allocate(ASKED)
    with pytest.raises(BudgetExceeded, match=r"^0 MiB are left .* give each its --memory, or .* Grader\(student_memory_mib"):
        shared.allocate(ASKED)
    with pytest.raises(BudgetExceeded, match="needs at least 16 MiB, and 2 were asked for"):
        shared.allocate(replace(ASKED, memory_mib=2))


def test_cpu_time_that_was_used_is_gone_for_the_next_ones() -> None:
    shared = budget()
    first = shared.allocate(ASKED)
    shared.mark_stopped(first, 7.0)
    shared.release(first)
    assert shared.allocate(ASKED).limits.cpu_time_s == 3.0


def test_two_that_run_at_once_use_one_pot() -> None:
    shared = budget(memory_mib=200)
    first, second = shared.allocate(ASKED), shared.allocate(ASKED)
    assert shared.cpu_left_s(first, 0.0) == 1.0  # then somebody looks again

    assert shared.cpu_left_s(first, 6.0) == 1.0
    assert shared.cpu_left_s(second, 3.5) == pytest.approx(0.25)
    assert shared.cpu_left_s(second, 4.0) <= 0
    assert shared.cpu_left_s(first, 6.0) <= 0


def test_without_time_there_is_a_timeout() -> None:
    for short in (budget(cpu_time_s=0.01), budget(wall_time_left_s=3)):
        with pytest.raises(BudgetExceeded, match=r"no (CPU )?time is left") as refused:
            short.allocate(ASKED)
        assert refused.value.timeout


def test_one_that_is_nobodys_yet_waits_for_one_that_goes() -> None:
    shared = budget(wait_s=20)
    first = shared.allocate(ASKED)
    shared.mark_stopped(first, 1.0)
    granted: list[int] = []
    waiting = threading.Thread(target=lambda: granted.append(shared.allocate(ASKED).limits.memory_mib))
    waiting.start()

    shared.release(first)

    eventually(lambda: granted == [100])
    waiting.join()


def test_who_asks_waits_for_one_that_is_being_ended() -> None:
    shared = budget(wait_s=20)
    first = shared.allocate(ASKED)
    shared.mark_stopping(first)
    granted: list[int] = []
    waiting = threading.Thread(target=lambda: granted.append(shared.allocate(ASKED).limits.memory_mib))
    waiting.start()

    shared.mark_stopped(first, 1.0)
    shared.release(first)

    eventually(lambda: granted == [100])
    waiting.join()


def test_one_that_is_gone_already_is_not_waited_for_because_somebody_ends_it_too_late() -> None:
    shared = budget(wait_s=20)
    first = shared.allocate(ASKED)
    shared.mark_stopped(first, 1.0)
    shared.release(first)
    shared.mark_stopping(first)
    shared.allocate(ASKED)

    refused: list[str] = []

    def ask() -> None:
        with pytest.raises(BudgetExceeded) as why:
            shared.allocate(ASKED)
        refused.append(str(why.value))

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: refused, within_s=10, what="it is refused without a wait of 20 s")
    asking.join()
