"""The core of the web app beside this one, with FastAPI: submit, state, live output, recovery, in one asyncio process.

    uvicorn --app-dir examples/webapp_fastapi app:app          # one worker: it has the queue

No thread waits for live output. Programs are posted as JSON: {"student": "ann", "program": "..."}.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import sqlite3
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from jobmanager import Code, DockerHost, Grader, JobManager, JobManagerError, JobResult, Limits, Task
from jobmanager.errors import JobTimeout, UnknownJob

DATABASE = os.environ.get("WEBAPP_DATABASE", "submissions.sqlite")
HOSTS = os.environ.get("WEBAPP_HOSTS", "").split()  # urls; none: DOCKER_HOST, or the default socket
FOLDER = os.environ.get("WEBAPP_TASK", str(Path(__file__).parents[1] / "webapp" / "task"))
STILL_HERE_S = 10.0  # between two signs of life to a browser, for proxies that close silent connections

log = logging.getLogger("uvicorn.error")
task = Task(
    os.environ.get("WEBAPP_ENVIRONMENT", "python3"),
    grader=Grader(),
    directory=FOLDER,
    problems={"program": Code("student/main.py")},
    limits=Limits(cpu_time_s=10, memory_mib=128, processes=32, output_kib=256),
    name="sum of two numbers",
)
manager = JobManager([DockerHost(url) for url in HOSTS] or None, queue_timeout_s=7 * 86400.0, max_waiting_jobs=100_000)


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """A connection for one request or callback: they come in several threads."""
    connection = sqlite3.connect(DATABASE, timeout=10)
    connection.row_factory = sqlite3.Row
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def store(result: JobResult) -> None:
    """The callback of every job. A job that the end of this process has killed stays open: the next start queues it again."""
    if any(evidence.kind == "requested_by" and evidence.value == "close" for evidence in result.evidence):
        return
    with database() as connection:
        done = (result.outcome.value, result.text, result.grade, result.to_json(), result.job_id)
        connection.execute("UPDATE submissions SET outcome = ?, text = ?, grade = ?, result = ? WHERE job_id = ?", done)


def hand_over(submission: sqlite3.Row) -> None:
    answers, student = {"program": submission["program"]}, submission["student"]
    manager.new_job(task, answers, store, job_id=submission["job_id"], launcher_name=student)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    with open(f"{DATABASE}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"another process serves {DATABASE}: start this app with one worker") from None
        await asyncio.to_thread(begin)
        end_live_output_at(signal.SIGTERM)
        end_live_output_at(signal.SIGINT)
        yield
        await asyncio.to_thread(manager.close, kill=True)


def begin() -> None:
    with database() as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS submissions (number INTEGER PRIMARY KEY, student TEXT NOT NULL, program TEXT NOT NULL,"
            " job_id TEXT NOT NULL UNIQUE, outcome TEXT, text TEXT, grade REAL, result TEXT)"
        )
    manager.start(wait=False)  # also while the engine is down: submissions wait
    with database() as connection:
        unfinished = connection.execute("SELECT * FROM submissions WHERE outcome IS NULL ORDER BY number").fetchall()
    for submission in unfinished:
        try:
            hand_over(submission)
        except JobManagerError as refusal:
            log.error("submission %d is not queued: %s", submission["number"], refusal)


def end_live_output_at(number: int) -> None:
    """Uvicorn waits for open responses before it ends the lifespan, so those with live output must end first."""
    servers_own = signal.getsignal(number)

    def handler(number: int, frame: FrameType | None) -> None:
        manager.stop_following()
        if callable(servers_own):
            servers_own(number, frame)
        else:
            sys.exit(128 + number)

    signal.signal(number, handler)


app = FastAPI(lifespan=lifespan)


class Submission(BaseModel):
    student: str = Field(min_length=1, max_length=200)
    program: str = Field(min_length=1, max_length=64 * 1024)


@app.post("/submissions", status_code=201)
def submit(submission: Submission) -> dict[str, int]:
    with database() as connection:  # the row is there before the job, and so before any result
        values = (submission.student, submission.program, uuid.uuid4().hex)
        number = connection.execute("INSERT INTO submissions (student, program, job_id) VALUES (?, ?, ?)", values).lastrowid
    assert number is not None
    try:
        hand_over(found(number))
    except JobManagerError as refusal:
        with database() as connection:
            connection.execute("DELETE FROM submissions WHERE number = ?", (number,))
        raise HTTPException(503, str(refusal)) from None
    return {"number": number}


@app.get("/submissions/{number}")
def show(number: int) -> dict[str, object]:
    submission = found(number)
    place = None if submission["outcome"] else manager.get_job_queue_info(submission["job_id"])
    return {
        **{name: submission[name] for name in ("number", "student", "job_id", "outcome", "text", "grade")},
        "running": place is not None and place.is_running,
        "jobs_before": None if place is None or place.is_running else place.jobs_before,
    }


@app.get("/submissions/{number}/events")
def show_events(number: int) -> StreamingResponse:
    return StreamingResponse(events(found(number)["job_id"]), media_type="text/event-stream")


async def events(job_id: str) -> AsyncIterator[str]:
    """Server-sent events: what the grader tells the student. Then the event ``end``."""
    try:
        async with manager.follow(job_id, timeout_s=STILL_HERE_S) as live:  # left when the browser goes, too
            while True:
                try:
                    output = await anext(live, None)
                except JobTimeout:
                    yield ": still here\n\n"
                    continue
                if output is None:
                    break
                if output.to_submitter:
                    yield f"data: {json.dumps(output.to_submitter)}\n\n"
    except UnknownJob:
        pass  # it has ended
    yield "event: end\ndata:\n\n"


@app.get("/hosts")
def hosts() -> list[dict[str, object]]:
    return [host.to_dict() for host in manager.hosts()]


def found(number: int) -> sqlite3.Row:
    with database() as connection:
        submission = connection.execute("SELECT * FROM submissions WHERE number = ?", (number,)).fetchone()
    if submission is None:
        raise HTTPException(404, "there is no such submission")
    return submission
