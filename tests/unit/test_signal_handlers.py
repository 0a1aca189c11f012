"""Signal handlers that use the manager while the main thread does, at every moment of that; against a fake engine."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmanager import JobManager
from jobmanager.errors import Closed
from jobmanager.testing import FakeEngineServer
from tests.conftest import children, eventually

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeEngineServer]:
    with FakeEngineServer() as server:
        yield server


def interrupted(scenario: str, fake: FakeEngineServer) -> str:
    """What the program prints, when it has ended by itself and well."""
    command = [sys.executable, "-m", "tests.unit.interrupted", scenario, fake.url]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=250, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def moments(said: str) -> int:
    return int(said.split()[0])


@pytest.mark.case(29)
def test_a_handler_that_closes_the_manager_while_the_main_thread_starts_it(fake: FakeEngineServer) -> None:
    assert moments(interrupted("closed_while_it_starts", fake)) > 15


@pytest.mark.case(29)
def test_a_handler_that_closes_the_manager_while_the_main_thread_closes_it(fake: FakeEngineServer) -> None:
    assert moments(interrupted("closed_while_it_closes", fake)) > 5


def test_a_handler_that_raises_while_the_main_thread_starts_and_closes_leaves_nothing(fake: FakeEngineServer) -> None:
    assert moments(interrupted("raised_while_it_starts_and_closes", fake)) > 15


def test_a_handler_that_does_everything_in_the_middle_of_the_same(fake: FakeEngineServer) -> None:
    assert moments(interrupted("called_from_a_handler_at_every_moment", fake)) > 100


@pytest.mark.case(29)
def test_a_handler_that_raises_in_the_middle_of_every_call_loses_and_doubles_no_job(fake: FakeEngineServer) -> None:
    assert moments(interrupted("raised_in_every_call", fake)) > 50


def test_ctrl_c_at_any_line_of_a_batch_leaves_nothing_and_the_file_to_the_next_one(fake: FakeEngineServer) -> None:
    assert moments(interrupted("raised_in_a_batch", fake)) > 20


def test_a_handler_that_closes_while_the_main_thread_waits_for_hosts_ends_start_with_closed(fake: FakeEngineServer) -> None:
    fake.faults.pause()
    try:
        assert interrupted("waiting_for_hosts", fake) == "Closed\n"
    finally:
        fake.faults.resume()


def test_a_close_in_another_thread_ends_start_with_closed_while_it_waits_for_hosts(fake: FakeEngineServer) -> None:
    manager = JobManager(fake.url)
    others = len(children())

    def close() -> None:
        eventually(lambda: len(children()) > others)
        manager.close()

    closer = threading.Thread(target=close)
    fake.faults.pause()
    try:
        closer.start()
        with pytest.raises(Closed):
            manager.start()
        closer.join()
    finally:
        fake.faults.resume()


def test_a_handler_that_kills_while_the_main_thread_drains_ends_the_drain(fake: FakeEngineServer) -> None:
    assert interrupted("draining", fake) == "killed\n"


def test_a_handler_that_closes_while_the_interpreter_ends(fake: FakeEngineServer) -> None:
    assert interrupted("at_exit", fake) == ""
