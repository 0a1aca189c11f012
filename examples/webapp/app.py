"""A small grader on the web: submissions, live output, a page for staff, regrading, recovery after a restart.

    gunicorn --workers 1 --threads 16 --bind 127.0.0.1:8000 --chdir examples/webapp app:app

One process has the queue, so there is one worker; its threads serve many browsers. A second one waits for the first one's
end, and then refuses to start. Results are in SQLite. A submission without a result is queued again at the next start.
There is no log-in here: students type their name, and everything below /staff must go behind yours.
"""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import signal
import sqlite3
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from flask import Flask, Response, abort, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from jobmanager import Code, DockerHost, Grader, JobManager, JobManagerError, JobResult, Limits, Task
from jobmanager.errors import JobTimeout, UnknownJob

DATABASE = os.environ.get("WEBAPP_DATABASE", "submissions.sqlite")
HOSTS = os.environ.get("WEBAPP_HOSTS", "").split()  # urls; none: DOCKER_HOST, or the default socket
FOLDER = os.environ.get("WEBAPP_TASK", str(Path(__file__).parent / "task"))
ENVIRONMENT = os.environ.get("WEBAPP_ENVIRONMENT", "python3")
LONGEST_PROGRAM = 64 * 1024  # bytes
WEEK_S = 7 * 86400.0  # for which a submission waits while no engine answers
OTHER_PROCESS_S = 15.0  # for the process before this one to end
STILL_HERE_S = 10.0  # between two signs of life to a browser: writing to one that has gone ends its response
LATER = 10  # the priority of regrading: new submissions come first

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 4 * LONGEST_PROGRAM  # a form's encoding may turn one byte into three
task = Task(
    ENVIRONMENT,
    grader=Grader(),
    directory=FOLDER,
    problems={"program": Code("student/main.py")},
    limits=Limits(cpu_time_s=10, memory_mib=128, processes=32, output_kib=256),
    name="sum of two numbers",
)
manager = JobManager([DockerHost(url) for url in HOSTS] or None, queue_timeout_s=WEEK_S, max_waiting_jobs=100_000)


# --- the database ---------------------------------------------------------------------------------------------------


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


def rows(query: str, *values: object) -> list[sqlite3.Row]:
    with database() as connection:
        return connection.execute(f"SELECT * FROM submissions {query}", values).fetchall()


def found(number: int) -> sqlite3.Row:
    of_number = rows("WHERE number = ?", number)
    return of_number[0] if of_number else abort(404)


def store(result: JobResult) -> None:
    """The callback of every job. A job that the end of this process has killed stays open: the next start queues it again."""
    if any(evidence.kind == "requested_by" and evidence.value == "close" for evidence in result.evidence):
        return
    with database() as connection:
        done = (result.outcome.value, result.text, result.grade, result.to_json(), result.job_id)
        connection.execute("UPDATE submissions SET outcome = ?, text = ?, grade = ?, result = ? WHERE job_id = ?", done)


# --- the life of the app --------------------------------------------------------------------------------------------


def take_lock() -> int:
    """Two processes would be two queues, and both would recover the same submissions. A restart may overlap for a moment."""
    lock = os.open(f"{DATABASE}.lock", os.O_RDWR | os.O_CREAT)
    until = time.monotonic() + OTHER_PROCESS_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > until:
                raise RuntimeError(f"another process serves {DATABASE}: use one worker (gunicorn --workers 1)") from None
            time.sleep(0.1)


def hand_over(submission: sqlite3.Row, *, priority: int = 0) -> str:
    """Give a submission to the manager. Returns why it could not be, or nothing."""
    answers, student = {"program": submission["program"]}, submission["student"]
    try:
        manager.new_job(task, answers, store, job_id=submission["job_id"], launcher_name=student, priority=priority)
    except JobManagerError as refusal:
        app.logger.error("submission %d is not queued: %s", submission["number"], refusal)
        return str(refusal)
    return ""


def begin() -> None:
    with database() as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS submissions (number INTEGER PRIMARY KEY, student TEXT NOT NULL, program TEXT NOT NULL,"
            " submitted_at REAL NOT NULL, job_id TEXT NOT NULL UNIQUE, outcome TEXT, text TEXT, grade REAL, result TEXT)"
        )
    manager.start(wait=False)  # also while the engine is down: the page for staff says so, and submissions wait
    for submission in rows("WHERE outcome IS NULL ORDER BY number"):
        hand_over(submission)


def on_sigterm(number: int, frame: FrameType | None) -> None:
    """The server waits for open responses, so those with live output must end first. Then it does what it does itself."""
    manager.stop_following()
    if callable(servers_own):
        servers_own(number, frame)
    else:
        sys.exit(128 + number)


database_lock = take_lock()
begin()
servers_own = signal.getsignal(signal.SIGTERM)  # gunicorn's worker has set it before it imports the app
signal.signal(signal.SIGTERM, on_sigterm)


# --- for students ---------------------------------------------------------------------------------------------------


@app.get("/")
def index() -> str:
    return render_template("index.html", program="a, b = map(int, input().split())\nprint(a + b)\n")


@app.get("/students/<path:student>")  # a name may have a slash
def of_student(student: str) -> str:
    submissions = rows("WHERE student = ? ORDER BY number DESC LIMIT 100", student)
    return render_template("index.html", student=student, submissions=submissions, state=state)


@app.post("/submissions")
def submit() -> AnyResponse | tuple[str, int]:
    student, program = request.form.get("student", "").strip(), request.form.get("program", "").replace("\r\n", "\n")
    if not student or not program.strip() or len(program.encode()) > LONGEST_PROGRAM:
        message = f"Give your name and a program of at most {LONGEST_PROGRAM} bytes."
        return render_template("index.html", message=message, student=student, program=program), 400
    with database() as connection:  # the row is there before the job, and so before any result
        values = (student, program, time.time(), uuid.uuid4().hex)
        columns = "(student, program, submitted_at, job_id)"
        number = connection.execute(f"INSERT INTO submissions {columns} VALUES (?, ?, ?, ?)", values).lastrowid
    refusal = hand_over(found(number or 0))
    if refusal:
        with database() as connection:
            connection.execute("DELETE FROM submissions WHERE number = ?", (number,))
        return render_template("index.html", message=refusal, student=student, program=program), 503
    return redirect(url_for("show", number=number), code=303)


@app.get("/submissions/<int:number>")
def show(number: int) -> str:
    submission = found(number)
    return render_template("submission.html", submission=submission, state=state(submission), staff=False)


@app.get("/submissions/<int:number>/state")
def show_state(number: int) -> dict[str, object]:
    submission = found(number)
    return {"state": state(submission), **{name: submission[name] for name in ("job_id", "outcome", "text", "grade")}}


@app.get("/submissions/<int:number>/events")
def show_events(number: int) -> Response:
    return Response(events(found(number)["job_id"], staff=False), mimetype="text/event-stream")


def state(submission: sqlite3.Row) -> str:
    if submission["outcome"]:
        return str(submission["outcome"])
    place = manager.get_job_queue_info(submission["job_id"])
    if place is None:
        return "about to be shown"  # its result is on its way; or it was not queued, and the log says why
    if place.is_running:
        return "running"
    soon = "" if place.wait_s is None else f", about {place.wait_s:.0f} s"
    return f"waiting, {place.jobs_before} before it{soon}"


def events(job_id: str, *, staff: bool) -> Iterator[str]:
    """Server-sent events: what the grader tells the student; for staff, all that it prints. Then the event ``end``."""
    decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in ("stdout", "stderr")]
    try:
        with manager.follow(job_id, timeout_s=STILL_HERE_S) as live:
            while True:
                try:
                    output = next(live, None)
                except JobTimeout:
                    yield ": still here\n\n"
                    continue
                if output is None:
                    break
                if output.starts_again:
                    yield "event: again\ndata:\n\n"
                text = decoders[output.stderr].decode(output.data) if staff else output.to_submitter
                if text:
                    yield f"data: {json.dumps(text)}\n\n"
    except UnknownJob:
        pass  # it has ended
    yield "event: end\ndata:\n\n"


# --- for staff: put all of it behind your log-in --------------------------------------------------------------------


@app.get("/staff")
def staff() -> str:
    running, waiting = manager.get_job_queue_snapshot()
    latest = rows("ORDER BY number DESC LIMIT 100")
    numbers = {submission["job_id"]: submission["number"] for submission in rows("WHERE outcome IS NULL")}
    return render_template(
        "staff.html", hosts=manager.hosts(), running=running, waiting=waiting, numbers=numbers, latest=latest, state=state
    )


@app.get("/staff/submissions/<int:number>")
def show_staff(number: int) -> str:
    submission = found(number)
    result = JobResult.from_json(submission["result"]) if submission["result"] else None
    return render_template("submission.html", submission=submission, state=state(submission), staff=True, result=result)


@app.get("/staff/submissions/<int:number>/events")
def show_staff_events(number: int) -> Response:
    return Response(events(found(number)["job_id"], staff=True), mimetype="text/event-stream")


@app.post("/staff/submissions/<int:number>/kill")
def kill(number: int) -> AnyResponse:
    manager.kill_job(found(number)["job_id"])
    return redirect(url_for("show_staff", number=number), code=303)


@app.post("/staff/regrade")
@app.post("/staff/submissions/<int:number>/regrade")
def regrade(number: int | None = None) -> AnyResponse:
    """A new job for one submission, or for all. An older job that has not ended is killed, and its result finds no row."""
    for submission in rows("ORDER BY number") if number is None else [found(number)]:
        with database() as connection:
            again = "job_id = ?, outcome = NULL, text = NULL, grade = NULL, result = NULL"
            connection.execute(f"UPDATE submissions SET {again} WHERE number = ?", (uuid.uuid4().hex, submission["number"]))
        manager.kill_job(submission["job_id"])
        hand_over(found(submission["number"]), priority=LATER)
    return redirect(url_for("staff"), code=303)
