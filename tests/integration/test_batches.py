"""Batches on a real engine: stopped in the middle by ctrl-C or ``kill -9`` and started again, they go on and run nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jobmanager import DockerHost, JobInput, JobManager, Outcome, Task, compare
from tests.conftest import BUSYBOX, PrivateDaemon, eventually, our_containers

pytestmark = pytest.mark.engine
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "batch.py"
MARK_VARIABLE = "JOBMANAGER_TEST_BATCH"
COUNT = 60
EXPECTED = {"success": 50, "failed": 8, "timeout": 2}  # every seventh fails, and 9 and 59 never end


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Environment variables for the example; afterwards none of its processes may be left."""
    mark = uuid.uuid4().hex
    yield os.environ | {MARK_VARIABLE: mark, "PYTHONUNBUFFERED": "1"}
    eventually(lambda: not marked(mark), what="the example's processes have ended")


def marked(mark: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK_VARIABLE) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def begin(environment: dict[str, str], url: str, results: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(EXAMPLE), "--count", str(COUNT), "--results", str(results), "--environment", BUSYBOX, url]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finished(results: Path) -> dict[str, str]:
    """The job of each input whose result is in the file; a torn last line is none."""
    if not results.exists():
        return {}
    lines = [json.loads(line) for line in results.read_text().split("\n")[1:-1]]
    assert len({line["key"] for line in lines}) == len(lines), "no input has two results"
    return {line["key"]: line["result"]["job_id"] for line in lines}


def finish(environment: dict[str, str], url: str, results: Path) -> None:
    """Start it again; it ends, and what had a result before has the same one."""
    before = finished(results)
    assert 0 < len(before) < COUNT
    with begin(environment, url, results) as again:
        printed, complaints = again.communicate(timeout=100)
    assert again.returncode == 0, complaints
    assert {line.split()[0]: int(line.split()[1]) for line in printed.splitlines()} == EXPECTED
    after = finished(results)
    assert len(after) == COUNT and before.items() <= after.items()


def test_a_script_that_was_stopped_by_ctrl_c_leaves_nothing_and_goes_on_when_it_is_started_again(
    engine_url: str, environment: dict[str, str], tmp_path: Path
) -> None:
    results = tmp_path / "run.jsonl"
    with begin(environment, engine_url, results) as script:
        eventually(lambda: len(finished(results)) >= 5, within_s=60)
        os.killpg(script.pid, signal.SIGINT)
        _, complaints = script.communicate(timeout=60)
    assert (script.returncode, complaints) == (1, f"stopped; start it again, and it goes on with {results}\n")
    assert our_containers(engine_url) == []

    finish(environment, engine_url, results)


def test_a_script_that_was_killed_goes_on_when_it_is_started_again(
    private_engine: PrivateDaemon, environment: dict[str, str], tmp_path: Path
) -> None:
    results = tmp_path / "run.jsonl"
    with begin(environment, private_engine.url, results) as script:
        eventually(lambda: len(finished(results)) >= 5, within_s=60)
        os.kill(script.pid, signal.SIGKILL)
        script.communicate(timeout=60)
    whole = results.read_bytes()
    results.write_bytes(whole + b'{"key":"torn by')  # as it may be left, and now is for certain

    finish(environment, private_engine.url, results)


def test_a_changed_task_over_the_same_inputs_is_compared(engine_url: str, tmp_path: Path) -> None:
    inputs = [JobInput(stdin=f"{number}\n") for number in range(6)]
    with JobManager(DockerHost(engine_url)) as manager:
        for name, least in (("old", 2), ("new", 3)):
            task = Task(BUSYBOX, command=f"read n; test $n -ge {least}")
            assert len(list(manager.map(task, inputs, results=tmp_path / name, ordered=False))) == 6
    found = compare(tmp_path / "old", tmp_path / "new")
    assert [(each.old, each.new) for each in found.changes] == [(Outcome.SUCCESS, Outcome.FAILED)] and found.unchanged == 5


def test_a_cancelled_amap_leaves_no_container(engine_url: str) -> None:
    async def main(manager: JobManager) -> None:
        async def consume() -> None:
            async for _ in manager.amap(Task(BUSYBOX, command="sleep 60"), [None] * 20, at_once=4):
                pytest.fail("it sleeps")

        task = asyncio.create_task(consume())
        while not our_containers(engine_url) and not task.done():
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with JobManager(DockerHost(engine_url)) as manager:
        asyncio.run(main(manager))
        assert manager.get_job_queue_snapshot() == ([], [])
        eventually(lambda: not our_containers(engine_url))
