"""``RemoteClient`` in other people's programs: killed, forked, interrupted, at the end of the interpreter, under gunicorn."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from jobmanager import JobResult, Outcome, Task
from jobmanager.remote import RemoteClient
from tests.conftest import eventually
from tests.support.bound_process import start_bound
from tests.support.cluster import SHORT
from tests.support.redis_server import RedisServer
from tests.support.scripted_peer import ScriptedPeer, Taken, succeeds

KEY = secrets.token_hex(32)
PATIENCE_S = 60.0

PROGRAM = """\
import json, os, sys
from jobmanager import ClientSync, Task
from jobmanager.remote import ClusterTimeouts, RemoteClient

client = RemoteClient(
    namespace="test", client_id=os.environ.get("CLIENT_ID"), timeouts=ClusterTimeouts(**json.loads(os.environ["TIMEOUTS"]))
)
client.start()


def hello(client=client):
    result = ClientSync(client).new_job(Task("busybox", command="echo hello"), None, timeout_s=30)
    print(result.outcome.value, result.stdout_text.strip(), result.text, flush=True)


"""


def runs_all_but_sleepers(taken: Taken) -> JobResult | None:
    return None if str(taken.command).startswith("sleep") else succeeds(taken)


@pytest.fixture
def peer(redis_server: RedisServer) -> Iterator[ScriptedPeer]:
    """A node on which jobs echo their words at once, and sleepers never end."""
    with ScriptedPeer(redis_server.url, KEY, timeouts=SHORT, run=runs_all_but_sleepers) as peer:
        yield peer


@pytest.fixture
def environment(redis_server: RedisServer, peer: ScriptedPeer) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "JOBMANAGER_REDIS_URL": redis_server.url,
        "JOBMANAGER_KEY": KEY,
        "TIMEOUTS": json.dumps(asdict(SHORT)),
    }


def run(environment: dict[str, str], text: str) -> str:
    """What a program prints; it must end well and without a word on standard error."""
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", PROGRAM + textwrap.dedent(text)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts a program that is going to be killed; what it prints goes to the file ``said``."""

    def started(text: str, **more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", PROGRAM + textwrap.dedent(text)]
        with (tmp_path / "said").open("ab") as said:
            return start_bound(command, output=said, environment=environment | more, folder=tmp_path)

    return started


def is_claimed(peer: ScriptedPeer) -> bool:
    return bool(list(peer.redis.scan_iter(match=f"{peer.keys.prefix}client:*:owner")))


# ---- ends


@pytest.mark.parametrize("end", ["client.close()", ""], ids=["closed", "not closed"])
def test_a_script(environment: dict[str, str], peer: ScriptedPeer, end: str) -> None:
    assert run(environment, f"hello()\n{end}\n") == "success hello \n"
    assert not is_claimed(peer)


def test_the_end_of_the_interpreter_kills_its_jobs(environment: dict[str, str], peer: ScriptedPeer) -> None:
    text = """
        sleeper = Task("busybox", command="sleep 100")
        client.new_job(sleeper, None, lambda result: print(result.outcome.value, result.text, flush=True))
        hello()
        """

    assert run(environment, text) == "success hello \nkilled killed: close\n"
    assert [command.command for command in peer.commands] == ["kill"]


def test_the_end_of_the_interpreter_does_not_wait_for_a_redis_that_is_gone(
    environment: dict[str, str], peer: ScriptedPeer, redis_server: RedisServer
) -> None:
    text = """
        import signal
        client.new_job(Task("busybox", command="sleep 100"), None, lambda result: print(result.outcome.value, flush=True))
        os.kill(int(os.environ["REDIS"]), signal.SIGKILL)
        import logging
        logging.getLogger("jobmanager").setLevel(logging.CRITICAL)
        """

    assert run(environment | {"REDIS": str(redis_server.pid)}, text) == "killed\n"


def test_ctrl_c_kills_its_jobs(environment: dict[str, str], peer: ScriptedPeer) -> None:
    text = """\
caught = 0
try:
    with client:
        future = client.submit(Task("busybox", command="sleep 300"))
        ClientSync(client).new_job(Task("busybox", command="sleep 300"), None)
except KeyboardInterrupt:
    caught += 1
print(caught, future.result(0).outcome.value)
sys.exit(130)
"""
    command = [sys.executable, "-c", PROGRAM + text]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        eventually(lambda: len(peer.taken) == 2, what="both jobs run")
        program.send_signal(signal.SIGINT)
        said, complaints = program.communicate(timeout=PATIENCE_S)

    assert (program.returncode, complaints, said) == (130, "", "1 killed\n")


# ---- kill -9 of a client with an id of its own

SUBMITS = """
for number in range(4):
    command = f"echo {number}" if number < 2 else f"sleep {number}"
    client.new_job(Task("busybox", command=command), None, lambda result: print(result.job_id, flush=True), job_id=str(number))
import time
time.sleep(1000)
"""


@pytest.fixture
def start_client(redis_server: RedisServer) -> Iterator[Callable[..., RemoteClient]]:
    with ExitStack() as stack:

        def started(**options: Any) -> RemoteClient:
            client = RemoteClient(redis_server.url, key=KEY, namespace="test", timeouts=SHORT, **options)
            stack.callback(client.close, kill=True)
            client.start()
            return client

        yield started


def test_the_next_process_gets_what_came_meanwhile_and_what_is_open(
    start: Callable[..., subprocess.Popen[bytes]], peer: ScriptedPeer, start_client: Callable[..., RemoteClient], tmp_path: Path
) -> None:
    program = start(SUBMITS, CLIENT_ID="web")
    eventually(lambda: sorted((tmp_path / "said").read_text().split()) == ["0", "1"], what="two have been called back")
    eventually(lambda: {"2", "3"} <= peer.taken.keys() and len(peer.store.open_jobs("web")) == 2, what="two are open")
    program.kill()
    program.wait()
    peer.finish(peer.taken["2"], succeeds(peer.taken["2"]))

    client, results = start_client(client_id="web"), list[JobResult]()
    assert client.resume(results.append) == {"2", "3"}
    eventually(lambda: [result.job_id for result in results] == ["2"])
    assert client.kill_job("3")
    eventually(lambda: len(results) == 2)
    assert (results[1].job_id, results[1].outcome) == ("3", Outcome.KILLED)
    assert client.resume(results.append) == set()
    client.close()
    assert len(results) == 2
    assert not peer.redis.exists(peer.keys.client("web", "open")) and not peer.redis.xlen(peer.keys.client("web", "results"))


def test_what_nobody_resumes_is_neither_lost_nor_killed(
    start: Callable[..., subprocess.Popen[bytes]], peer: ScriptedPeer, start_client: Callable[..., RemoteClient]
) -> None:
    program = start(SUBMITS, CLIENT_ID="web")
    eventually(lambda: {"2", "3"} <= peer.taken.keys() and len(peer.store.open_jobs("web")) == 2, what="two are open")
    program.kill()
    program.wait()

    with start_client(client_id="web") as between:
        peer.finish(peer.taken["2"], succeeds(peer.taken["2"]))
        assert between.submit(Task("busybox", command="echo hello")).result(PATIENCE_S).stdout == b"hello\n"
    client, results = start_client(client_id="web"), list[JobResult]()
    assert client.resume(results.append) == {"2", "3"}
    eventually(lambda: [result.job_id for result in results] == ["2"])
    assert [command.command for command in peer.commands] == []


# ---- forks


@pytest.mark.parametrize("leave", ["sys.exit(0)", "os._exit(0)", "client.close(); sys.exit(0)"])
def test_a_forked_child_is_a_client_of_its_own_and_the_parent_s_goes_on(
    environment: dict[str, str], peer: ScriptedPeer, leave: str
) -> None:
    text = f"""
        future = client.submit(Task("busybox", command="sleep 1"))
        hello()
        child = os.fork()
        if child == 0:
            assert client.get_job_queue_info(future.job_id) is None
            assert not client.kill_job(future.job_id)
            hello()
            {leave}
        assert os.waitpid(child, 0)[1] == 0
        hello()
        assert future.cancel()
        client.close()
        """

    assert run(environment, text) == "success hello \n" * 3
    clients = {taken.header.client for taken in peer.taken.values() if taken.command == "echo hello"}
    assert len(clients) == 2


def test_a_forked_child_that_never_uses_the_client_starts_nothing(environment: dict[str, str], peer: ScriptedPeer) -> None:
    text = """
        import threading
        hello()
        child = os.fork()
        if child == 0:
            assert threading.active_count() == 1
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        hello()
        client.close()
        """

    assert run(environment, text) == "success hello \n" * 2


def test_a_forked_child_with_the_same_id_is_refused(environment: dict[str, str], peer: ScriptedPeer) -> None:
    text = """
        child = os.fork()
        if child == 0:
            try:
                hello()
            except ValueError as error:
                print(str(os.getppid()) in str(error), flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        hello()
        client.close()
        """

    assert run(environment | {"CLIENT_ID": "web"}, text) == "True\nsuccess hello \n"


APP = (
    PROGRAM
    + """
from flask import Flask, jsonify

results = {}
app = Flask(__name__)


def keep(result):
    results[result.job_id] = result.stdout_text


@app.post("/jobs")
def new_job():
    job_id = client.new_job(Task("busybox", command="echo hello"), None, keep)
    return jsonify(worker=os.getpid(), job=job_id)


@app.get("/jobs/<job_id>")
def job(job_id):
    return jsonify(worker=os.getpid(), printed=results.get(job_id))
"""
)


class Gunicorn:
    """An app under gunicorn with two workers."""

    def __init__(self, environment: dict[str, str], folder: Path, app: str, *options: str) -> None:
        (folder / "app.py").write_text(app)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._address = f"127.0.0.1:{free.getsockname()[1]}"
        command = ["-m", "gunicorn", "--workers", "2", "--bind", self._address, "--chdir", str(folder), *options, "app:app"]
        self.log = folder / "log"
        with self.log.open("wb") as written:
            self._process = start_bound([sys.executable, *command], output=written, environment=environment)
        eventually(lambda: self.log.read_text().count("Booting worker") >= 2, within_s=PATIENCE_S, what="the workers are started")

    def call(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(f"http://{self._address}{path}", method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def end(self) -> int:
        self._process.terminate()
        return self._process.wait(45)


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["each worker imports", "preloaded"])
def test_each_gunicorn_worker_serves_jobs(
    environment: dict[str, str], peer: ScriptedPeer, tmp_path: Path, options: tuple[str, ...]
) -> None:
    gunicorn = Gunicorn(environment, tmp_path, APP, *options)

    jobs: dict[int, str] = {}

    def both() -> bool:
        answer = gunicorn.call("/jobs", "POST")
        jobs[answer["worker"]] = answer["job"]
        return len(jobs) == 2

    eventually(both, within_s=PATIENCE_S, what="both workers have taken a job")
    for worker, job_id in jobs.items():
        has_it = lambda w=worker, j=job_id: gunicorn.call(f"/jobs/{j}") == {"worker": w, "printed": "hello\n"}  # noqa: E731
        eventually(has_it, what=f"worker {worker} has its result")

    assert gunicorn.end() == 0
    assert [line for line in gunicorn.log.read_text().splitlines() if "[INFO]" not in line] == []
    assert not is_claimed(peer)


NUMBERED = (
    PROGRAM.replace('os.environ.get("CLIENT_ID")', "f\"web-{os.environ['WORKER']}\"")
    + """
from flask import Flask, jsonify

app = Flask(__name__)
resumed = client.resume(print)


@app.post("/jobs")
def new_job():
    job_id = client.new_job(Task("busybox", command="sleep 60"), None, print)
    return jsonify(worker=os.getpid(), job=job_id, number=os.environ["WORKER"])


@app.get("/")
def about():
    return jsonify(worker=os.getpid(), number=os.environ["WORKER"], resumed=sorted(resumed))
"""
)


def test_a_gunicorn_worker_resumes_the_jobs_of_the_one_that_was_killed_in_its_place(
    environment: dict[str, str], peer: ScriptedPeer, tmp_path: Path
) -> None:
    document = (Path(__file__).parents[2] / "docs/web-apps.md").read_text()
    (tmp_path / "gunicorn.conf.py").write_text(document.partition("<!-- gunicorn -->\n```python\n")[2].partition("```")[0])
    gunicorn = Gunicorn(environment, tmp_path, NUMBERED, "-c", str(tmp_path / "gunicorn.conf.py"))

    before = gunicorn.call("/jobs", "POST")
    os.kill(before["worker"], signal.SIGKILL)

    def next_one() -> Any:
        answer = gunicorn.call("/")
        return answer if answer["number"] == before["number"] and answer["worker"] != before["worker"] else None

    assert eventually(next_one, within_s=PATIENCE_S, what="there is another worker of that number")["resumed"] == [before["job"]]
    assert gunicorn.end() == 0
