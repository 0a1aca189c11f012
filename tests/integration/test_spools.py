"""What waiters keep of long runs on the caller's own disk: whole for the waiter after them, and gone with the manager."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmanager import DockerHost, JobManager, Limits, Outcome, Task
from jobmanager.testing import FakeEngineServer, Print, Sleep
from tests.conftest import eventually
from tests.support.faults import processes

TOP = Path(__file__).resolve().parents[2]
PRINTED = b"".join(b"%07d\n" % number for number in range(2**18))  # 2 MiB
TALKS = Task("any", command="talks", limits=Limits(output_kib=8192))
_CALLER = """
import sys, time
from jobmanager import JobManager, Limits, Task

manager = JobManager(sys.argv[1])
manager.start()
manager.submit(Task("any", command="talks", limits=Limits(output_kib=8192)))
time.sleep(1000)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this process and its children make temporary files; nothing may be left in it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def spooled(temporary: Path) -> int:
    """Bytes of the only spool."""
    return sum(file.stat().st_size for file in temporary.glob("jobmanager-*/*") if file.is_file())


def engine(seconds: float) -> FakeEngineServer:
    half = len(PRINTED) // 2
    programs = {"talks": [Print(PRINTED[:half]), Sleep(seconds), Print(PRINTED[half:])]}
    return FakeEngineServer(images=["any"], programs=programs)


def test_a_waiter_killed_in_the_middle_of_a_long_output_leaves_all_of_it_to_the_next(temporary: Path) -> None:
    with engine(2) as fake, JobManager(DockerHost(fake.url)) as manager:
        job = manager.submit(TALKS)
        eventually(lambda: spooled(temporary) > len(PRINTED) // 4, what="a part of its output is kept")
        for waiter in processes("_waiter"):
            waiter.kill()

        result = job.result(40)

        assert (result.outcome, result.stdout == PRINTED, result.output_cut) == (Outcome.SUCCESS, True, False)
        eventually(lambda: spooled(temporary) == 0, what="the spool is gone")


def test_a_caller_that_is_killed_leaves_no_spool(temporary: Path) -> None:
    with engine(100) as fake:
        caller = subprocess.Popen([sys.executable, "-c", _CALLER, fake.url], env={**os.environ, "PYTHONPATH": str(TOP)})
        try:
            eventually(lambda: spooled(temporary) > len(PRINTED) // 4, what="a part of its output is kept")
        finally:
            caller.kill()
            caller.wait(10)

        eventually(lambda: not list(temporary.iterdir()), what="the folder is gone")
