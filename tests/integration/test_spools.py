"""What waiters keep of long runs on the caller's own disk is gone with the manager."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmanager.testing import FakeEngineServer, Print, Sleep
from tests.conftest import eventually

TOP = Path(__file__).resolve().parents[2]
PRINTED = b"".join(b"%07d\n" % number for number in range(2**18))  # 2 MiB
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


def test_a_caller_that_is_killed_leaves_no_spool(temporary: Path) -> None:
    with engine(100) as fake:
        caller = subprocess.Popen([sys.executable, "-c", _CALLER, fake.url], env={**os.environ, "PYTHONPATH": str(TOP)})
        try:
            eventually(lambda: spooled(temporary) > len(PRINTED) // 4, what="a part of its output is kept")
        finally:
            caller.kill()
            caller.wait(10)

        eventually(lambda: not list(temporary.iterdir()), what="the folder is gone")
