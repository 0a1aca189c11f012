"""A batch in a notebook: a real kernel of Jupyter's runs the cells, on a real engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from jupyter_client.manager import start_new_async_kernel

from tests.conftest import BUSYBOX, SLOWNESS, eventually, our_containers
from tests.support.faults import programs_begun

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
PATIENCE_S = 60.0 * SLOWNESS
TOP = Path(__file__).resolve().parents[2]

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

    def __init__(self, manager: Any, client: Any) -> None:
        self.interrupt = manager.interrupt_kernel
        self._client = client

    def begin(self, cell: str) -> str:
        """Have a cell run, without waiting for its end."""
        return str(self._client.execute(cell))

    async def shown(self, cell: str) -> list[dict[str, Any]]:
        """What a begun cell has shown, when it has ended."""
        messages = []
        while True:
            message = await self._client.get_iopub_msg(timeout=PATIENCE_S)
            if message["parent_header"].get("msg_id") != cell:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return messages
            messages.append(message)

    async def run(self, cell: str) -> list[dict[str, Any]]:
        """The same for one that is begun now, and raises nothing."""
        shown = await self.shown(self.begin(cell))
        assert not [message["content"] for message in shown if message["msg_type"] == "error"]
        return shown


@asynccontextmanager
async def notebook_with_manager(url: str) -> AsyncIterator[Notebook]:
    manager, client = await start_new_async_kernel(startup_timeout=PATIENCE_S)
    try:
        notebook = Notebook(manager, client)
        await notebook.run(BEGIN.format(folder=str(TOP), url=url))
        yield notebook
        await notebook.run(END)
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
        zmq.Context.instance().term()


def test_the_bar_is_shown_beside_what_the_cell_prints(engine_url: str) -> None:
    async def shown() -> list[dict[str, Any]]:
        async with notebook_with_manager(engine_url) as notebook:
            return await notebook.run(BATCH.format(image=BUSYBOX))

    messages = asyncio.run(shown())

    printed = "".join(message["content"]["text"] for message in messages if message["msg_type"] == "stream")
    assert printed == "".join(f"success {number}\n" for number in range(5))
    bars = [message["content"]["data"] for message in messages if message["msg_type"] == "display_data"]
    assert any("application/vnd.jupyter.widget-view+json" in bar for bar in bars), "it has a place of its own"
    assert any("5/5 (5 success)" in bar.get("text/html", "") for bar in bars), bars


def test_a_cell_that_is_interrupted_leaves_no_job_and_the_manager_goes_on(engine_url: str) -> None:
    async def interrupted() -> list[dict[str, Any]]:
        async with notebook_with_manager(engine_url) as notebook:
            endless = notebook.begin(ENDLESS.format(image=BUSYBOX))
            eventually(lambda: programs_begun(engine_url) >= 2, within_s=60, what="jobs run")
            await notebook.interrupt()
            messages = await notebook.shown(endless)
            eventually(lambda: not our_containers(engine_url), what="nothing is left")
            await notebook.run(BATCH.format(image=BUSYBOX))
            return messages

    messages = asyncio.run(interrupted())

    assert [message["content"]["ename"] for message in messages if message["msg_type"] == "error"] == ["KeyboardInterrupt"]
