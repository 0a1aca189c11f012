"""A web page that runs Python programs in containers.

    gunicorn --workers 2 --bind 127.0.0.1:8000 --chdir examples/webapp app:app        # with or without --preload
    flask --app examples/webapp/app.py run

Each worker has its own manager. The workers share the database. The callback, a method of the database object,
stores each result. Only the worker that made a job knows its progress. Every worker knows when it is done.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask, abort, redirect, render_template, request, url_for
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wrappers import Response

from jobmanager import Code, DockerHost, JobManager, JobManagerError, JobResult, Limits, Task
from jobmanager.errors import InvalidValue

DATABASE = os.environ.get("WEBAPP_DATABASE", "submissions.sqlite")
HOSTS = os.environ.get("WEBAPP_HOSTS", "").split()  # urls; none: DOCKER_HOST, or the default socket
ENVIRONMENT = os.environ.get("WEBAPP_ENVIRONMENT", "python3")
LIMITS = Limits(cpu_time_s=5, wall_time_s=10, memory_mib=128, processes=32, workspace_mib=16, output_kib=64)
LONGEST_PROGRAM = 64 * 1024  # bytes
QUEUE_TIMEOUT_S = 300.0
LOST_AFTER_S = QUEUE_TIMEOUT_S + LIMITS.wall_s + 60  # with the queues here, a job that takes longer has lost its worker


class Database:
    """The submissions. Called by request and callback threads of several processes: each call has its own connection."""

    def __init__(self, path: str) -> None:
        self._path = path
        with open(f"{path}.lock", "w") as lock, self._connected() as connection:
            fcntl.flock(lock, fcntl.LOCK_EX)  # workers that change the mode at the same moment get "database is locked"
            connection.execute("PRAGMA journal_mode=WAL")  # readers and a writer do not block each other
            connection.execute(
                "CREATE TABLE IF NOT EXISTS jobs (job_id TEXT PRIMARY KEY, program TEXT NOT NULL, worker INTEGER NOT NULL,"
                " submitted_at REAL NOT NULL, outcome TEXT, result TEXT)"
            )

    def add(self, job_id: str, program: str) -> None:
        with self._connected() as connection:
            columns = "(job_id, program, worker, submitted_at)"
            connection.execute(f"INSERT INTO jobs {columns} VALUES (?, ?, ?, ?)", (job_id, program, os.getpid(), time.time()))

    def remove(self, job_id: str) -> None:
        with self._connected() as connection:
            connection.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))

    def store_result(self, result: JobResult) -> None:
        """The callback of every job."""
        values = (str(result.outcome), result.to_json(), result.job_id)
        with self._connected() as connection:
            connection.execute("UPDATE jobs SET outcome = ?, result = ? WHERE job_id = ?", values)

    def get(self, job_id: str) -> sqlite3.Row | None:
        with self._connected() as connection:
            row: sqlite3.Row | None = connection.execute("SELECT * FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
            return row

    def latest(self) -> list[sqlite3.Row]:
        with self._connected() as connection:
            return connection.execute("SELECT * FROM jobs ORDER BY submitted_at DESC LIMIT 50").fetchall()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._path, timeout=10)
        connection.row_factory = sqlite3.Row
        try:
            with connection:
                yield connection
        finally:
            connection.close()


app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 4 * LONGEST_PROGRAM  # a form's encoding may turn one byte into three
database = Database(DATABASE)
task = Task(ENVIRONMENT, command=["python3", "main.py"], problems={"program": Code("main.py")}, limits=LIMITS, name="webapp")
manager = JobManager([DockerHost(url) for url in HOSTS] or None, queue_timeout_s=QUEUE_TIMEOUT_S)
manager.start()  # right at import time, also before gunicorn --preload forks its workers


@app.get("/")
def index() -> str:
    return page()


@app.post("/jobs")
def submit() -> Response | tuple[str, int]:
    program = request.form.get("program", "").replace("\r\n", "\n")
    if not program.strip():
        return page("The program is empty."), 400
    if len(program.encode()) > LONGEST_PROGRAM:
        return page(f"The program is longer than {LONGEST_PROGRAM} bytes."), 400
    job_id = uuid.uuid4().hex  # chosen here, so that the row exists before the result
    database.add(job_id, program)
    try:
        launcher = request.remote_addr or "Unknown"
        manager.new_job(task, {"program": program}, database.store_result, job_id=job_id, launcher_name=launcher)
    except JobManagerError as problem:
        database.remove(job_id)
        return page(str(problem), program), 400 if isinstance(problem, InvalidValue) else 503
    return redirect(url_for("show", job_id=job_id), code=303)


@app.get("/jobs/<job_id>")
def show(job_id: str) -> str:
    job = found(job_id)
    result = JobResult.from_json(job["result"]) if job["result"] else None
    return render_template("job.html", job=job, result=result, status=status_of(job))


@app.get("/jobs/<job_id>/status")
def status(job_id: str) -> dict[str, str | int | None]:
    job = found(job_id)
    return {"job_id": job_id, "status": status_of(job), "outcome": job["outcome"], "worker": job["worker"]}


@app.errorhandler(RequestEntityTooLarge)
def too_large(_: RequestEntityTooLarge) -> tuple[str, int]:
    return page(f"The program is longer than {LONGEST_PROGRAM} bytes."), 413


def page(message: str = "", program: str = 'print("Hello!")') -> str:
    return render_template("index.html", message=message, program=program, jobs=database.latest(), status_of=status_of)


def found(job_id: str) -> sqlite3.Row:
    return database.get(job_id) or abort(404)


def status_of(job: sqlite3.Row) -> str:
    """The row decides for every worker; the manager adds the progress if this worker made the job."""
    if job["outcome"]:
        return "done"
    queued = manager.get_job_queue_info(job["job_id"])
    if queued is not None:
        return "running" if queued.jobs_before < 0 else f"waiting for {queued.jobs_before} other jobs"
    return "lost" if time.time() - job["submitted_at"] > LOST_AFTER_S else "under way"
