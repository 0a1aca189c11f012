"""A batch in a notebook: a real kernel of Jupyter's runs the cells, on a real engine."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

from tests.conftest import BUSYBOX, SLOWNESS, eventually, our_containers
from tests.support.faults import programs_begun

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
PATIENCE_S = 60.0 * SLOWNESS

BEGIN = """
import sys
sys.path.insert(0, {folder!r})
from jobmanager import JobInput, JobManager, Limits, Task
manager = JobManager({url!r})
manager.start()
"""
BATCH = """
task = Task({image!r}, command="cat")
for given, result in manager.map(task, [JobInput(stdin=str(number)) for number in range(5)], progress=True):
    print(result.outcome, result.stdout_text)
"""
ENDLESS = """
for given, result in manager.map(Task({image!r}, command="echo begun; sleep 3000", limits=Limits(wall_time_s=3600)), [None] * 9):
    pass
"""
END = "manager.close()"


class Notebook:
    """Cells for a kernel."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def begin(self, cell: str) -> str:
        """Have a cell run, without waiting for its end."""
        return str(self._client.execute(cell))

    def shown(self, cell: str) -> list[dict[str, Any]]:
        """What a begun cell has shown, when it has ended."""
        messages = []
        while True:
            message = self._client.get_iopub_msg(timeout=PATIENCE_S)
            if message["parent_header"].get("msg_id") != cell:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return messages
            messages.append(message)

    def run(self, cell: str) -> list[dict[str, Any]]:
        """The same for one that is begun now, and raises nothing."""
        shown = self.shown(self.begin(cell))
        assert not [message["content"] for message in shown if message["msg_type"] == "error"]
        return shown


@pytest.fixture
def kernel() -> Iterator[tuple[Any, Notebook]]:
    manager, client = start_new_kernel(startup_timeout=PATIENCE_S)
    try:
        yield manager, Notebook(client)
    finally:
        client.stop_channels()
        with suppress(queue.Empty, RuntimeError):
            manager.shutdown_kernel(now=True)


def test_the_bar_is_shown_beside_what_the_cell_prints(kernel: tuple[Any, Notebook], engine_url: str, request: Any) -> None:
    _, notebook = kernel
    notebook.run(BEGIN.format(folder=str(request.config.rootpath), url=engine_url))

    shown = notebook.run(BATCH.format(image=BUSYBOX))

    printed = "".join(message["content"]["text"] for message in shown if message["msg_type"] == "stream")
    assert printed == "".join(f"success {number}\n" for number in range(5))
    bars = [message["content"]["data"] for message in shown if message["msg_type"] == "display_data"]
    assert any("application/vnd.jupyter.widget-view+json" in bar for bar in bars), "it has a place of its own"
    assert any("5/5 (5 success)" in bar.get("text/html", "") for bar in bars), bars
    notebook.run(END)


def test_a_cell_that_is_interrupted_leaves_no_job_and_the_manager_goes_on(
    kernel: tuple[Any, Notebook], engine_url: str, request: Any
) -> None:
    manager, notebook = kernel
    notebook.run(BEGIN.format(folder=str(request.config.rootpath), url=engine_url))
    endless = notebook.begin(ENDLESS.format(image=BUSYBOX))
    eventually(lambda: programs_begun(engine_url) >= 2, within_s=60, what="jobs run")

    manager.interrupt_kernel()

    errors = [message["content"]["ename"] for message in notebook.shown(endless) if message["msg_type"] == "error"]
    assert errors == ["KeyboardInterrupt"]
    eventually(lambda: not our_containers(engine_url), what="nothing is left")
    notebook.run(BATCH.format(image=BUSYBOX))
    notebook.run(END)
