"""The web apps of ``examples/``, as a user runs them: under gunicorn and uvicorn, over HTTP, on a real engine."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from jobmanager import JobResult
from tests.conftest import SLOWNESS, eventually

pytestmark = pytest.mark.engine

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MARK_VARIABLE = "JOBMANAGER_TEST_EXAMPLE"
PATIENCE_S = 60.0 * SLOWNESS
RIGHT = "a, b = map(int, input().split())\nprint(a + b)\n"
WRONG = "print(3)\n"
LASTING = "import time\nimport jobmanager_grading as grading\ngrading.tell_submitter('begun')\ntime.sleep(600)\n"  # a grader

FLASK = [
    "gunicorn",
    "--workers",
    "1",
    "--threads",
    "16",
    "--graceful-timeout",
    "600",
    "--bind",
    "127.0.0.1:0",
    "--chdir",
    str(EXAMPLES / "webapp"),
    "app:app",
]
FASTAPI = ["uvicorn", "--port", "0", "--app-dir", str(EXAMPLES / "webapp_fastapi"), "app:app"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """A server-sent event."""

    name: str
    data: str


@dataclass(frozen=True, kw_only=True)
class WebApp:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    url: str
    database: Path
    log: Path
    takes_json: bool

    def get(self, path: str) -> tuple[int, str]:
        return self._answer(urllib.request.Request(self.url + path))

    def post(self, path: str, **fields: str) -> tuple[int, str]:
        if self.takes_json:
            body, kind = json.dumps(fields), "application/json"
        else:
            body, kind = urllib.parse.urlencode(fields), "application/x-www-form-urlencoded"
        return self._answer(urllib.request.Request(self.url + path, body.encode(), {"Content-Type": kind}, method="POST"))

    def submit(self, program: str, student: str = "ann") -> int:
        """The number of the submission."""
        status, answer = self.post("/submissions", student=student, program=program)
        assert status in (200, 201), answer
        return int(json.loads(answer)["number"] if self.takes_json else re.findall(r"<h1>Submission (\d+)</h1>", answer)[0])

    def row(self, number: int) -> sqlite3.Row:
        connection = sqlite3.connect(self.database, timeout=10)
        connection.row_factory = sqlite3.Row
        try:
            row: sqlite3.Row = connection.execute("SELECT * FROM submissions WHERE number = ?", (number,)).fetchone()
            return row
        finally:
            connection.close()

    def graded(self, number: int) -> sqlite3.Row:
        eventually(lambda: self.row(number)["outcome"], what=f"submission {number} is graded", within_s=PATIENCE_S)
        return self.row(number)

    @contextmanager
    def live(self, number: int, *, staff: bool = False) -> Iterator[Iterator[Event]]:
        """The live output of a submission, as a browser reads it."""
        path = f"{'/staff' if staff else ''}/submissions/{number}/events"
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE_S) as stream:
            yield _events(line.decode().rstrip("\n") for line in stream)

    @staticmethod
    def _answer(request: urllib.request.Request) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read().decode()


def _events(lines: Iterator[str]) -> Iterator[Event]:
    name, data = "message", ""
    for line in lines:
        key, _, value = line.partition(":")
        if key == "event":
            name = value.strip()
        elif key == "data":
            data = value.strip()
        elif not line:
            if name != "message" or data:
                yield Event(name=name, data=json.loads(data) if data else "")
            name, data = "message", ""


class Serve:
    """Starts servers on one database, one after the other; all have ended when the test has."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path, stack: ExitStack) -> None:
        self._command = command
        self._environment = environment
        self._folder = folder
        self._stack = stack
        self._starts = 0

    def __call__(self, **environment: str) -> WebApp:
        self._starts += 1
        log = self._folder / f"server-{self._starts}.log"
        database = self._folder / "submissions.sqlite"
        with log.open("w") as written:
            process = subprocess.Popen(
                [sys.executable, "-m", *self._command],
                env=self._environment | {"WEBAPP_DATABASE": str(database)} | environment,
                stdout=written,
                stderr=written,
                start_new_session=True,
            )
        self._stack.callback(_end, process)
        found = r"(?:Listening at:|running on) (http://[0-9.]+:[0-9]+)"
        eventually(lambda: process.poll() is not None or re.search(found, log.read_text()), what="it listens", within_s=PATIENCE_S)
        address = re.search(found, log.read_text())
        assert address, log.read_text()
        return WebApp(process=process, url=address[1], database=database, log=log, takes_json=self._command[0] == FASTAPI[0])


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def kill(app: WebApp) -> None:
    """As a power cut would: gunicorn's worker, too."""
    os.killpg(app.process.pid, signal.SIGKILL)
    app.process.wait(PATIENCE_S)


@pytest.fixture
def environment(engine_url: str) -> Iterator[dict[str, str]]:
    """Of the servers; afterwards none of their processes may be left."""
    mark = uuid.uuid4().hex
    yield os.environ | {MARK_VARIABLE: mark, "PYTHONUNBUFFERED": "1", "WEBAPP_HOSTS": engine_url}
    eventually(lambda: not marked_processes(mark), what="the servers' processes have ended")


def marked_processes(mark: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK_VARIABLE) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture(params=[FLASK, FASTAPI], ids=["flask", "fastapi"])
def serve(request: pytest.FixtureRequest, environment: dict[str, str], tmp_path: Path) -> Iterator[Serve]:
    with ExitStack() as stack:
        yield Serve(request.param, environment, tmp_path, stack)


@pytest.fixture
def serve_flask(environment: dict[str, str], tmp_path: Path) -> Iterator[Serve]:
    with ExitStack() as stack:
        yield Serve(FLASK, environment, tmp_path, stack)


@pytest.fixture
def lasting_task(tmp_path: Path) -> str:
    """A folder of a task whose grader goes on for ten minutes."""
    (tmp_path / "lasting").mkdir()
    (tmp_path / "lasting" / "run.py").write_text(LASTING)
    return str(tmp_path / "lasting")


@pytest.fixture
def later_engine(engine_url: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """The url of an engine that is down, and what brings it up."""
    with tempfile.TemporaryDirectory(prefix="jm-", dir="/tmp") as folder:
        socket = Path(folder) / "docker.sock"
        yield f"unix://{socket}", lambda: socket.symlink_to(engine_url.removeprefix("unix://"))


# --- both -----------------------------------------------------------------------------------------------------------


def test_a_submission_is_graded_and_the_student_sees_what_the_grader_tells_while_it_runs(serve: Serve) -> None:
    app = serve()

    right = app.submit(RIGHT)
    with app.live(right) as events:
        seen = list(events)

    said = [f"test {number} of 3: passed" for number in (1, 2, 3)]
    assert [event.data for event in seen if event.name == "message"] == said
    assert seen[-1].name == "end"
    row = app.graded(right)
    assert (row["outcome"], row["text"], row["grade"]) == ("success", "3 of 3 tests passed", 100.0)
    assert JobResult.from_json(row["result"]).job_id == row["job_id"]
    wrong = app.graded(app.submit(WRONG))
    assert (wrong["outcome"], wrong["text"]) == ("failed", "1 of 3 tests passed")


def test_the_live_output_of_a_submission_that_was_graded_long_ago_ends_at_once(serve: Serve) -> None:
    app = serve()
    number = app.submit(RIGHT)
    app.graded(number)

    def ends() -> bool:  # the callback may not have returned yet
        with app.live(number) as events:
            return [event.name for event in events] == ["end"]

    eventually(ends, what="its live output is its end", within_s=PATIENCE_S)


def test_a_server_that_is_told_to_end_does_not_wait_for_the_job_that_a_browser_follows_and_grades_it_after_the_next_start(
    serve: Serve, lasting_task: str
) -> None:
    app = serve(WEBAPP_TASK=lasting_task)
    number = app.submit(RIGHT)
    before = app.row(number)["job_id"]
    with app.live(number) as events:
        assert next(events).data == "begun"

        app.process.terminate()
        assert app.process.wait(PATIENCE_S) in (0, -signal.SIGTERM)

        rest = list(events)
    assert [event.name for event in rest] in ([], ["end"])
    assert app.row(number)["outcome"] is None, "the server did not wait for the job's end, which would be its time limit"

    after = serve().graded(number)
    assert (after["outcome"], after["job_id"]) == ("success", before)


def test_after_a_power_cut_each_submission_without_a_result_is_graded_under_its_old_id(serve: Serve, lasting_task: str) -> None:
    app = serve(WEBAPP_TASK=lasting_task)
    numbers = [app.submit(RIGHT), app.submit(WRONG), app.submit(RIGHT)]
    before = [app.row(number)["job_id"] for number in numbers]
    with app.live(numbers[0]) as events:
        assert next(events).data == "begun"
        kill(app)

    app = serve()

    after = [app.graded(number) for number in numbers]
    assert [row["job_id"] for row in after] == before
    assert [row["outcome"] for row in after] == ["success", "failed", "success"]


def test_an_app_whose_engine_is_down_starts_says_so_and_grades_when_it_is_up(
    later_engine: tuple[str, Callable[[], None]],
    serve: Serve,  # in this order: servers end before it is away
) -> None:
    url, bring_up = later_engine
    app = serve(WEBAPP_HOSTS=url)

    def shown() -> str:
        return app.get("/hosts" if app.takes_json else "/staff")[1]

    eventually(lambda: "No such file" in shown(), what="the host is shown with its reason", within_s=PATIENCE_S)
    number = app.submit(RIGHT)
    with app.live(number) as events:
        first: list[Event] = []
        reader = threading.Thread(target=lambda: first.extend(events))
        reader.start()

        bring_up()

        reader.join(PATIENCE_S)
        assert not reader.is_alive()
    assert first[0].data == "test 1 of 3: passed"
    assert app.graded(number)["outcome"] == "success"
    assert "No such file" not in shown()


def test_a_server_that_is_told_to_end_does_not_wait_for_a_submission_that_waits_for_its_engine(
    later_engine: tuple[str, Callable[[], None]],
    serve: Serve,  # in this order: servers end before it is away
) -> None:
    url, bring_up = later_engine
    app = serve(WEBAPP_HOSTS=url)
    number = app.submit(RIGHT)
    with app.live(number) as events:
        app.process.terminate()
        assert app.process.wait(PATIENCE_S) in (0, -signal.SIGTERM)
        assert [event.name for event in events] in ([], ["end"])
    assert app.row(number)["outcome"] is None

    bring_up()
    assert serve(WEBAPP_HOSTS=url).graded(number)["outcome"] == "success"


# --- the one with pages ---------------------------------------------------------------------------------------------


def test_staff_see_what_the_grader_prints_and_students_do_not(serve_flask: Serve) -> None:
    app = serve_flask()
    number = app.submit(WRONG)
    with app.live(number) as told, app.live(number, staff=True) as printed:
        to_student = "".join(event.data for event in told)
        to_staff = "".join(event.data for event in printed)

    app.graded(number)
    hidden = "test 3: '123456789 987654321' gave b'3\\n', expected '1111111110' (success)"
    assert hidden in to_staff and "not passed" not in to_staff
    assert "test 3 of 3: not passed" in to_student and "987654321" not in to_student
    assert "987654321" not in app.get(f"/submissions/{number}")[1]
    assert "987654321" in app.get(f"/staff/submissions/{number}")[1]


def test_pages_show_what_they_are_given_as_text(serve_flask: Serve) -> None:
    app = serve_flask()
    number = app.submit("print('<script>1</script>')", student="<b>bold</b>")
    app.graded(number)

    pages = [app.get(path)[1] for path in (f"/submissions/{number}", f"/staff/submissions/{number}", "/staff")]
    pages.append(app.get(f"/students/{urllib.parse.quote('<b>bold</b>', safe='')}")[1])

    assert not any("<script>1" in page or "<b>" in page for page in pages)
    assert "&lt;b&gt;bold&lt;/b&gt;" in pages[0] and "&lt;script&gt;1" in pages[1]
    assert f"Submission {number}</a>: failed" in pages[3]


def test_the_queue_page_shows_what_runs_and_what_waits(serve_flask: Serve, lasting_task: str) -> None:
    app = serve_flask(WEBAPP_TASK=lasting_task)
    numbers = [app.submit(RIGHT, student=f"student-{number}") for number in range(12)]

    def has_both() -> bool:
        found = re.search(r"<h2>(\d+) running, (\d+) waiting</h2>", app.get("/staff")[1])
        return found is not None and int(found[1]) > 0 and int(found[2]) > 0 and int(found[1]) + int(found[2]) == 12

    eventually(has_both, what="some run and some wait", within_s=PATIENCE_S)
    page = app.get("/staff")[1]
    assert all(f"Submission {number}</a>\n    of student-" in page for number in numbers)
    assert "<td>up<td>" in page
    assert "waiting, " in app.get(f"/submissions/{numbers[-1]}")[1]


def test_a_submission_can_be_stopped_and_graded_again_and_so_can_all(serve_flask: Serve, lasting_task: str) -> None:
    app = serve_flask(WEBAPP_TASK=lasting_task)
    first, second = app.submit(RIGHT), app.submit(WRONG)
    app.post(f"/staff/submissions/{first}/kill")
    assert app.graded(first)["outcome"] == "killed"
    kill(app)
    app = serve_flask()
    app.graded(second)
    before = [app.row(number)["job_id"] for number in (first, second)]

    assert app.post(f"/staff/submissions/{first}/regrade")[0] == 200
    assert app.graded(first)["outcome"] == "success"
    assert app.row(second)["job_id"] == before[1]
    assert app.post("/staff/regrade")[0] == 200

    after = [app.graded(number) for number in (first, second)]
    assert [row["outcome"] for row in after] == ["success", "failed"]
    assert not {row["job_id"] for row in after} & set(before)


def test_what_cannot_be_run_is_refused_and_stays_in_the_form(serve_flask: Serve) -> None:
    app = serve_flask(WEBAPP_ENVIRONMENT="no-such-environment")
    eventually(lambda: "<td>up<td>" in app.get("/staff")[1], what="the engine has answered", within_s=PATIENCE_S)
    refused = {
        ("", RIGHT): (400, "Give your name"),
        ("ann", "  "): (400, "Give your name"),
        ("ann", "#" * 65537): (400, "at most 65536 bytes"),
        ("ann", "print('kept in the form')"): (503, "no-such-environment"),
    }
    for (student, program), (status, message) in refused.items():
        answer, page = app.post("/submissions", student=student, program=program)

        assert answer == status
        assert re.search(rf'<p role="alert">.*{message}.*</p>', page)
    assert "kept in the form" in page
    assert "None yet." in app.get("/students/ann")[1]
    assert app.get("/submissions/1")[0] == 404


def test_a_second_worker_refuses_to_start(environment: dict[str, str], tmp_path: Path) -> None:
    two = ["2" if word == "1" else word for word in FLASK]
    with ExitStack() as stack:
        app = Serve(two, environment, tmp_path, stack)()

        assert app.process.wait(PATIENCE_S) == 3, "gunicorn's code for a worker that does not boot"

    assert "use one worker (gunicorn --workers 1)" in app.log.read_text()


# --- the recipe -----------------------------------------------------------------------------------------------------


def test_the_web_app_of_the_recipes_grades_and_goes_on_where_it_was_killed(
    engine_url: str, environment: dict[str, str], tmp_path: Path
) -> None:
    recipes = (Path(__file__).resolve().parents[2] / "docs" / "recipes.md").read_text()
    (code,) = re.findall(r"(?ms)^<!-- runs: web -->\n```python\n(.*?)^```$", recipes)
    (tmp_path / "app.py").write_text(code)
    command = ["gunicorn", "--workers", "1", "--threads", "8", "--bind", "127.0.0.1:0", "--chdir", str(tmp_path), "app:app"]
    with ExitStack() as stack:
        serve = Serve(command, environment | {"DOCKER_HOST": engine_url}, tmp_path, stack)
        app = serve()
        right, wrong = (_handed_in(app, program) for program in ("print(sum(map(int, input().split())))", "print(3)"))
        results = [_result(app, job_id) for job_id in (right, wrong)]
        assert [(result["outcome"], result["grade"]) for result in results] == [("success", 100.0), ("failed", 50.0)]
        with pytest.raises(urllib.error.HTTPError, match="413"):
            _handed_in(app, " " * 70_000)
        assert app.get("/unknown") == (200, '{"done":false,"jobs_before":null}\n')
        slow = _handed_in(app, "import time; time.sleep(3); print(sum(map(int, input().split())))")
        kill(app)
        assert _result(serve(), slow)["outcome"] == "success"


def _handed_in(app: WebApp, program: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(app.url, program.encode(), method="POST"), timeout=PATIENCE_S) as answer:
        return str(json.loads(answer.read())["id"])


def _result(app: WebApp, job_id: str) -> dict[str, object]:
    def answered() -> dict[str, object] | None:
        answer = json.loads(app.get(f"/{job_id}")[1])
        return answer if "outcome" in answer else None

    found = eventually(answered, what="it is graded", within_s=PATIENCE_S)
    assert found is not None
    return found
