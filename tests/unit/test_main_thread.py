"""The executor of the main thread's calls: it is there while a manager is, and has ended when the last one has stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from jobmanager.threads import main_thread
from jobmanager.threads.main_thread import keep_executor, outside_main_thread, release_executor
from tests.conftest import our_threads


@pytest.fixture(autouse=True)
def nothing_is_kept() -> Iterator[None]:
    """What a failing test has kept would make all tests after it fail."""
    yield
    while main_thread._queue_of_this_process().managers:
        in_another_thread(release_executor)


def in_another_thread(step) -> None:
    thread = threading.Thread(target=step)
    thread.start()
    thread.join()


def test_when_the_last_manager_has_stopped_the_executor_has_ended_at_once_not_soon():
    for _ in range(300):
        outside_main_thread(keep_executor, takes_long=True)
        assert "jobmanager-executor" in our_threads()  # the thread of the call itself may not have ended yet

        outside_main_thread(release_executor, takes_long=True)
        assert "jobmanager-executor" not in our_threads()


def test_the_executor_stays_for_the_managers_that_are_left():
    in_another_thread(keep_executor)
    in_another_thread(keep_executor)

    in_another_thread(release_executor)
    assert "jobmanager-executor" in our_threads()

    in_another_thread(release_executor)
    assert "jobmanager-executor" not in our_threads()


def test_an_executor_that_releases_itself_does_not_wait_for_itself():
    in_another_thread(keep_executor)

    outside_main_thread(release_executor)  # a short call: the executor itself carries it out

    assert outside_main_thread(lambda: 5) == 5
