"""The library in other people's programs: each is run in a process of its own, as a user would run it.

Every program is told the engine's url by JM_URL and must say nothing on standard error, end in good time, and leave
no process, container or volume behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobmanager import JobManager
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.support.daemons import PrivateDaemon

pytestmark = [pytest.mark.engine, pytest.mark.daemon]

PATIENCE_S = 60.0
GONE_S = 5.0  # what the library promises for its processes after their parent's sudden end
MARK_VARIABLE = "JM_TEST_MARK"
SCRIPTS = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

Environment = dict[str, str]


@pytest.fixture
def environment(private_engine: PrivateDaemon) -> Iterator[Environment]:
    """For a program; afterwards it must have left nothing."""
    mark = uuid.uuid4().hex
    yield {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
        "JM_URL": private_engine.url,
        MARK_VARIABLE: mark,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    eventually(lambda: not marked(mark), within_s=GONE_S, what=f"its processes have ended: {marked(mark)}")
    eventually(lambda: not our_containers(private_engine.url), what="its containers are gone")
    eventually(lambda: not our_volumes(private_engine.url), what="its volumes are gone")


def marked(mark: str) -> list[str]:
    """Processes that a program has started, whoever their parent is now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK_VARIABLE) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:100]}")
        except psutil.Error:
            continue
    return found


# A user's program: it starts a manager at its top level and prints what a job printed.
PROGRAM = f"""\
import os
from jobmanager import ClientSync, JobManager, Task

manager = JobManager(os.environ["JM_URL"])
manager.start()


def hello(manager=manager):
    result = ClientSync(manager).new_job(Task("{BUSYBOX}", command="echo hello"), None, timeout_s=30)
    print(result.outcome.value, result.stdout_text.strip(), result.text, flush=True)


"""
RUN_IT = "hello()\n"
CLOSE_IT = "manager.close()\n"


def run(environment: Environment, *arguments: str, stdin: str = "", cwd: Path | None = None) -> str:
    """What a Python program prints; it must end well and without a word on standard error."""
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, input=stdin, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, cwd=cwd, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def script(folder: Path, text: str) -> str:
    path = folder / "program.py"
    path.write_text(text)
    return str(path)


# ---- ways to run a program


@pytest.mark.case(33)
@pytest.mark.parametrize("end", [CLOSE_IT, ""], ids=["closed", "not closed"])
def test_a_script_without_a_guard(environment: Environment, tmp_path: Path, end: str) -> None:
    assert run(environment, script(tmp_path, PROGRAM + RUN_IT + end)) == "success hello \n"


def test_a_script_with_warnings_as_errors(environment: Environment, tmp_path: Path) -> None:
    """No ResourceWarning, no DeprecationWarning, neither here nor in the library's processes."""
    strict = environment | {"PYTHONWARNINGS": "error"}

    assert run(strict, "-X", "dev", "-W", "error", script(tmp_path, PROGRAM + RUN_IT + CLOSE_IT)) == "success hello \n"


@pytest.mark.case(33)
def test_python_c(environment: Environment) -> None:
    assert run(environment, "-c", PROGRAM + RUN_IT + CLOSE_IT) == "success hello \n"


@pytest.mark.case(33)
def test_a_script_on_standard_input(environment: Environment) -> None:
    assert run(environment, "-", stdin=PROGRAM + RUN_IT + CLOSE_IT) == "success hello \n"


def test_python_m(environment: Environment, tmp_path: Path) -> None:
    script(tmp_path, PROGRAM + RUN_IT + CLOSE_IT)

    assert run(environment, "-m", "program", cwd=tmp_path) == "success hello \n"


def test_isolated_python(environment: Environment, tmp_path: Path) -> None:
    """-I ignores PYTHONPATH and the user's site; the library's processes have the path that the caller has."""
    text = f"import sys\nsys.path.insert(0, {environment['PYTHONPATH']!r})\n"

    assert run(environment, "-I", script(tmp_path, text + PROGRAM + RUN_IT + CLOSE_IT)) == "success hello \n"


@pytest.mark.case(33)
def test_an_exec_in_a_namespace_as_notebooks_do(environment: Environment, tmp_path: Path) -> None:
    cells = [PROGRAM, RUN_IT, RUN_IT, CLOSE_IT]
    text = f"namespace = {{'__name__': '__main__'}}\nfor cell in {cells!r}:\n    exec(compile(cell, '<cell>', 'exec'), namespace)\n"

    assert run(environment, script(tmp_path, text)) == "success hello \n" * 2


@pytest.mark.case(33)
def test_an_interactive_console(environment: Environment, tmp_path: Path) -> None:
    """What a prompt does: each statement is compiled alone, and the main module has no file."""
    text = f"""
        import code
        console = code.InteractiveConsole()
        for line in {(PROGRAM + RUN_IT + CLOSE_IT).splitlines()!r}:
            console.push(line)
        """

    assert run(environment, "-c", textwrap.dedent(text)) == "success hello \n"


def test_inside_a_function_of_a_module_that_is_imported(environment: Environment, tmp_path: Path) -> None:
    """The way in which web apps start a manager: while the import of a module is under way, its lock held."""
    (tmp_path / "app.py").write_text(PROGRAM + RUN_IT)

    assert run(environment, script(tmp_path, "import app\napp.hello()\napp.manager.close()\n")) == "success hello \n" * 2


def test_with_threads_running_that_hold_locks(environment: Environment, tmp_path: Path) -> None:
    """A plain fork would copy the locks in their held state."""
    text = """
        import io, logging, threading
        lock, stop = threading.Lock(), threading.Event()
        log = logging.getLogger("busy")
        log.addHandler(logging.StreamHandler(io.StringIO()))
        def busy():
            while not stop.is_set():
                with lock:
                    log.warning("busy")
        threads = [threading.Thread(target=busy) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            hello()
            manager.close()
        finally:
            stop.set()
        """

    assert run(environment, script(tmp_path, PROGRAM + textwrap.dedent(text))) == "success hello \n"


def test_started_in_a_thread_that_has_ended_since(environment: Environment, tmp_path: Path) -> None:
    """The library's processes belong to the process, not to the thread that happened to start them."""
    in_thread = "import threading\nstarter = threading.Thread(target=manager.start)\nstarter.start()\nstarter.join()"
    text = PROGRAM.replace("manager.start()", in_thread)

    assert run(environment, script(tmp_path, text + RUN_IT + RUN_IT + CLOSE_IT)) == "success hello \n" * 2


def test_the_current_folder_s_modules_are_not_the_library_s(environment: Environment, tmp_path: Path) -> None:
    """A grader may stand in a folder of submissions: none of them is run outside a container."""
    submissions = tmp_path / "submissions"
    submissions.mkdir()
    for name in ("json", "logging", "multiprocessing", "docker", "sitecustomize"):
        (submissions / f"{name}.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w').close()\nraise SystemExit(name)\n")

    assert run(environment, script(tmp_path, PROGRAM + RUN_IT + CLOSE_IT), cwd=submissions) == "success hello \n"
    assert not (tmp_path / "was_run").exists()


@pytest.mark.case(33)
@pytest.mark.parametrize("name", ["docker", "requests", "urllib3", "certifi", "http", "email"])
def test_a_script_with_the_name_of_a_module_that_the_library_s_processes_import(
    environment: Environment, tmp_path: Path, name: str
) -> None:
    """Without a guard, and with the library on PYTHONPATH; a folder and a helper beside it have such names as well."""
    path = tmp_path / f"{name}.py"
    path.write_text(PROGRAM + RUN_IT + CLOSE_IT)
    for other in {"docker", "urllib3"} - {name}:
        (tmp_path / other).mkdir()
        (tmp_path / other / "__init__.py").write_text("raise SystemExit('the caller's own')")

    assert run(environment, str(path)) == "success hello \n"


@pytest.mark.parametrize("name", ["docker", "psutil", "logging", "json"])
def test_modules_on_pythonpath_that_the_caller_does_not_use_are_not_used_by_the_library_s_processes(
    environment: Environment, tmp_path: Path, name: str
) -> None:
    """The caller has imported the right ones before it put its own folder first."""
    (tmp_path / f"{name}.py").write_text("raise SystemExit('the caller's own')")
    shadows = f"import jobmanager.doctor, os, sys\nsys.path.insert(0, {str(tmp_path)!r})\nos.environ['PYTHONPATH'] = sys.path[0]\n"

    assert run(environment, "-c", shadows + PROGRAM + RUN_IT + CLOSE_IT) == "success hello \n"


def test_in_a_folder_that_was_removed(environment: Environment, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    leaves = "import os\nos.rmdir(os.getcwd())\n"

    assert run(environment, "-c", leaves + PROGRAM + RUN_IT + CLOSE_IT, cwd=gone) == "success hello \n"


def test_path_entries_that_are_no_strings_are_passed_over(environment: Environment, tmp_path: Path) -> None:
    text = "import pathlib, sys\nsys.path.append(pathlib.Path('/some/where'))\n"

    assert run(environment, script(tmp_path, text + PROGRAM + RUN_IT + CLOSE_IT)) == "success hello \n"


def test_closed_standard_streams(environment: Environment, tmp_path: Path) -> None:
    """As under some daemons: descriptors 0 to 2 are free, and the library's pipes must not land there for its children."""
    text = PROGRAM.replace("print(", "print(file=open('out', 'a'), *(").replace(", flush=True)", "))")
    command = [sys.executable, script(tmp_path, text + RUN_IT + CLOSE_IT)]
    closed = subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], env=environment, cwd=tmp_path)

    assert closed.wait(PATIENCE_S) == 0
    assert (tmp_path / "out").read_text() == "success hello \n"


# ---- forks, and multiprocessing


@pytest.mark.parametrize("leave", ["sys.exit(0)", "os._exit(0)", "manager.close(); sys.exit(0)"])
def test_a_forked_child_starts_its_own_processes_and_the_parent_s_go_on(
    environment: Environment, tmp_path: Path, leave: str
) -> None:
    text = f"""
        import sys, psutil
        def ours():
            return {{child.pid for child in psutil.Process().children()}}
        hello()
        before = ours()
        child = os.fork()
        if child == 0:
            assert not ours()
            hello()
            assert ours() and not ours() & before
            {leave}
        assert os.waitpid(child, 0)[1] == 0
        hello()
        assert before <= ours()
        manager.close()
        assert not ours()
        """

    program = script(tmp_path, PROGRAM + textwrap.dedent(text))
    assert run(environment, "-W", "error::ResourceWarning", program) == "success hello \n" * 3


def test_a_forked_child_that_never_uses_the_manager_starts_nothing_and_disturbs_nothing(
    environment: Environment, tmp_path: Path
) -> None:
    text = """
        import sys, psutil
        hello()
        child = os.fork()
        if child == 0:
            assert not psutil.Process().children()
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        hello()
        manager.close()
        """

    assert run(environment, script(tmp_path, PROGRAM + textwrap.dedent(text))) == "success hello \n" * 2


def test_a_job_of_the_parent_is_unknown_in_a_forked_child_and_goes_on(environment: Environment, tmp_path: Path) -> None:
    text = f"""
        import sys
        future = manager.submit(Task("{BUSYBOX}", command="sleep 2; echo done"))
        child = os.fork()
        if child == 0:
            assert manager.get_job_queue_info(future.job_id) is None
            assert not manager.kill_job(future.job_id)
            manager.close(kill=True)
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(future.result(30).outcome.value, future.result().stdout_text, end="")
        manager.close()
        """

    assert run(environment, script(tmp_path, PROGRAM + textwrap.dedent(text))) == "success done\n"


@pytest.mark.case(34)
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_multiprocessing_child_may_have_a_manager_of_its_own(environment: Environment, tmp_path: Path, method: str) -> None:
    """A daemonic one too: that those may have no children, as multiprocessing says, holds for its own children only."""
    text = f"""\
import multiprocessing, os
from jobmanager import ClientSync, JobManager, Task

def hello():
    with JobManager(os.environ["JM_URL"]) as manager:
        result = ClientSync(manager).new_job(Task("{BUSYBOX}", command="echo hello"), None, timeout_s=30)
        print(result.outcome.value, result.stdout_text.strip(), flush=True)

if __name__ == "__main__":
    multiprocessing.set_start_method("{method}")
    with JobManager(os.environ["JM_URL"]) as manager:
        for daemon in (False, True):
            child = multiprocessing.Process(target=hello, daemon=daemon)
            child.start()
            child.join()
            assert child.exitcode == 0, child.exitcode
    hello()
"""

    assert run(environment, script(tmp_path, text)) == "success hello\n" * 3


@pytest.mark.case(34)
def test_a_forking_pool_of_multiprocessing_uses_the_manager_of_its_parent(environment: Environment, tmp_path: Path) -> None:
    """Its workers are daemonic and leave by os._exit: nothing of theirs may stay."""
    text = """
        import multiprocessing
        def work(number):
            result = ClientSync(manager).new_job(Task(IMAGE, command=f"echo {number}"), None, timeout_s=30)
            return result.stdout_text.strip()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(sorted(pool.map(work, range(6), chunksize=1)))
        hello()
        manager.close()
        """.replace("IMAGE", repr(BUSYBOX))

    assert run(environment, script(tmp_path, PROGRAM + textwrap.dedent(text))) == f"{[str(n) for n in range(6)]}\nsuccess hello \n"


def test_futures_in_a_process_pool_executor(environment: Environment, tmp_path: Path) -> None:
    text = f"""\
import os
from concurrent.futures import ProcessPoolExecutor
from jobmanager import ClientSync, JobManager, Task

def work(number):
    with JobManager(os.environ["JM_URL"]) as manager:
        return ClientSync(manager).new_job(Task("{BUSYBOX}", command=f"echo {{number}}"), None, timeout_s=30).stdout_text

if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        print(list(pool.map(work, range(4))))
"""

    assert run(environment, script(tmp_path, text)) == "['0\\n', '1\\n', '2\\n', '3\\n']\n"


# ---- what the library's processes have of ours


def test_no_descriptor_of_the_caller_s_leaks_into_the_library_s_processes(environment: Environment, tmp_path: Path) -> None:
    text = """
        import json, socket, psutil, sys
        secret = open("secret", "w")
        os.set_inheritable(secret.fileno(), True)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.set_inheritable(True)
        late = JobManager(os.environ["JM_URL"], pool_size=3)
        late.start()
        hello(late)
        found = {}
        for child in psutil.Process().children():
            folder = f"/proc/{child.pid}/fd"
            found[" ".join(child.cmdline())] = {fd: os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)}
        print(json.dumps(found))
        late.close()
        manager.close()
        """
    _, _, listed = run(environment, script(tmp_path, PROGRAM + textwrap.dedent(text)), cwd=tmp_path).partition("\n")
    children: dict[str, dict[str, str]] = json.loads(listed)

    assert sum("_pool_worker" in line for line in children) >= 2 and sum("_waiter" in line for line in children) == 2
    holders = defaultdict(set)
    for line, descriptors in children.items():
        assert descriptors["0"] == descriptors["1"] == "/dev/null", "they read and print nothing"
        for number, target in descriptors.items():
            assert "secret" not in target
            if int(number) > 2 and target.startswith(("socket:", "pipe:")):
                holders[target].add(line)
    assert all(len(lines) == 1 for lines in holders.values()), "no child holds another one's pipe, nor the caller's socket"


def test_ctrl_c_reaches_the_caller_only_and_ends_its_jobs(
    environment: Environment, private_engine: PrivateDaemon, tmp_path: Path
) -> None:
    """To the whole process group, as a terminal sends it."""
    text = f"""\
import os, sys
from jobmanager import ClientSync, JobManager, Task
caught = 0
try:
    with JobManager(os.environ["JM_URL"]) as manager:
        futures = [manager.submit(Task("{BUSYBOX}", command="sleep 300")) for _ in range(4)]
        ClientSync(manager).new_job(Task("{BUSYBOX}", command="sleep 300"), None)
except KeyboardInterrupt:
    caught += 1
print(caught, [future.result(0).outcome.value for future in futures])
sys.exit(130)
"""
    program = subprocess.Popen(
        [sys.executable, script(tmp_path, text)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with program:
        eventually(lambda: len(our_containers(private_engine.url)) >= 2, what="jobs run")
        os.killpg(program.pid, signal.SIGINT)
        said, complaints = program.communicate(timeout=PATIENCE_S)

    assert (program.returncode, complaints, said) == (130, "", f"1 {['killed'] * 4}\n")


# ---- a Flask app under gunicorn

APP = f"""
import os
from flask import Flask, jsonify
from jobmanager import JobManager, Task

manager = JobManager(os.environ["JM_URL"])
manager.start()  # at import: in each worker, or in the master that they are forked from
results = {{}}
app = Flask(__name__)


def keep(result):
    results[result.job_id] = result.stdout_text


@app.post("/jobs/<int:seconds>")
def new_job(seconds):
    job_id = manager.new_job(Task("{BUSYBOX}", command=f"sleep {{seconds}}; echo hello"), None, keep)
    return jsonify(worker=os.getpid(), job=job_id)


@app.get("/jobs/<job_id>")
def job(job_id):
    known = job_id in results or manager.get_job_queue_info(job_id) is not None
    return jsonify(worker=os.getpid(), known=known, printed=results.get(job_id))
"""


@dataclass(frozen=True)
class App:
    url: str
    gunicorn: psutil.Process

    def call(self, path: str, method: str = "GET") -> dict[str, Any]:
        request = urllib.request.Request(self.url + path, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return dict(json.loads(answer.read()))

    def new_job(self, seconds: int = 0) -> tuple[int, str]:
        """The worker that took it, and its id."""
        answer = self.call(f"/jobs/{seconds}", "POST")
        return answer["worker"], answer["job"]

    def jobs_of_both_workers(self, seconds: int = 0) -> dict[int, str]:
        """A job for each worker: which one answers is the kernel's choice."""
        found: dict[int, str] = {}

        def both() -> bool:
            worker, job_id = self.new_job(seconds)
            found[worker] = job_id
            return len(found) == 2

        eventually(both, within_s=PATIENCE_S, what="both workers have taken a job")
        return found

    def asked(self, job_id: str, worker: int) -> dict[str, Any]:
        """What one worker says of a job."""

        def answer() -> dict[str, Any] | None:
            said = self.call(f"/jobs/{job_id}")
            return said if said["worker"] == worker else None

        return eventually(answer, what=f"worker {worker} answers")  # type: ignore[return-value]


@contextmanager
def served(environment: Environment, folder: Path, *options: str, expected: str = "", status: int = 0) -> Iterator[App]:
    """The app under gunicorn with two workers; gunicorn must end with that status, and log no error that is not expected."""
    (folder / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["-m", "gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{port}", "--chdir", str(folder), *options, "app:app"]
    log = folder / "gunicorn.log"
    with log.open("w") as written:
        gunicorn = subprocess.Popen([sys.executable, *command], env=environment, stderr=written)
    try:
        eventually(lambda: log.read_text().count("Booting worker") >= 2, what="gunicorn has started its workers")
        yield App(f"http://127.0.0.1:{port}", psutil.Process(gunicorn.pid))
    finally:
        gunicorn.terminate()
        try:
            ended = gunicorn.wait(45)
        except subprocess.TimeoutExpired:
            gunicorn.kill()
            gunicorn.wait()
            raise
    assert ended == status
    unexpected = [line for line in log.read_text().splitlines() if "[INFO]" not in line and not (expected and expected in line)]
    assert not unexpected, log.read_text()


PRELOAD = pytest.mark.parametrize("options", [(), ("--preload",)], ids=["each worker imports", "preloaded"])


@pytest.mark.case(32)
@PRELOAD
def test_each_gunicorn_worker_serves_jobs_knows_its_own_only_and_ends_with_jobs_running(
    environment: Environment, private_engine: PrivateDaemon, tmp_path: Path, options: Sequence[str]
) -> None:
    with served(environment, tmp_path, *options) as app:
        jobs = app.jobs_of_both_workers()

        for worker, job_id in jobs.items():
            eventually(lambda w=worker, j=job_id: app.asked(j, w)["printed"] == "hello\n", what="its worker has the result")
            for other in jobs.keys() - {worker}:
                assert app.asked(job_id, other) == {"worker": other, "known": False, "printed": None}

        app.jobs_of_both_workers(300)
        eventually(lambda: len(our_containers(private_engine.url)) >= 2, what="containers run")


@pytest.mark.case(32)
@PRELOAD
def test_a_gunicorn_worker_that_is_recycled_leaves_nothing(
    environment: Environment, private_engine: PrivateDaemon, tmp_path: Path, options: Sequence[str]
) -> None:
    with served(environment, tmp_path, "--max-requests", "3", *options) as app:
        seen: set[int] = set()

        def several() -> bool:
            worker, _ = app.new_job(300)
            seen.add(worker)
            return len(seen) >= 4

        eventually(several, within_s=PATIENCE_S, what="four workers have come and gone")
        eventually(lambda: gone(seen), what="the first workers have ended, their containers too")


def gone(workers: set[int]) -> bool:
    return sum(not psutil.pid_exists(worker) for worker in workers) >= 2


@pytest.mark.case(32)
@PRELOAD
def test_a_gunicorn_worker_that_is_killed_leaves_nothing_and_is_replaced(
    environment: Environment, private_engine: PrivateDaemon, tmp_path: Path, options: Sequence[str]
) -> None:
    with served(environment, tmp_path, *options, expected="was sent SIGKILL") as app:
        first, second = app.jobs_of_both_workers(300)
        eventually(lambda: len(our_containers(private_engine.url)) >= 2, what="containers run")
        theirs = psutil.Process(first).children()
        assert theirs
        psutil.Process(first).kill()

        eventually(lambda: not any(child.is_running() for child in theirs), within_s=GONE_S, what="its children are gone")
        eventually(lambda: len({app.new_job()[0] for _ in range(4)} - {first, second}) == 1, what="a new worker serves jobs")
    sweep(private_engine.url)


def test_gunicorn_that_is_killed_leaves_nothing(environment: Environment, private_engine: PrivateDaemon, tmp_path: Path) -> None:
    """Its workers notice that their master has gone, within half of gunicorn's time limit, and end."""
    with served(environment, tmp_path, "--preload", "--timeout", "4", status=-signal.SIGKILL) as app:
        app.jobs_of_both_workers(300)
        eventually(lambda: len(our_containers(private_engine.url)) >= 2, what="containers run")
        app.gunicorn.kill()
    eventually(lambda: not marked(environment[MARK_VARIABLE]), what="the workers have ended")
    sweep(private_engine.url)


def sweep(url: str) -> None:
    """The next start: what was being started when its manager was killed may be there until then."""
    with JobManager(url):
        eventually(lambda: not our_containers(url), what="containers of dead managers are swept")


# ---- the same app under uWSGI


@pytest.mark.case(32)
@pytest.mark.skipif(not shutil.which("uwsgi", path=SCRIPTS), reason="uWSGI is not installed: pip install uwsgi (it is compiled)")
def test_each_uwsgi_worker_serves_jobs_and_knows_its_own_only(environment: Environment, tmp_path: Path) -> None:
    """``sys.executable`` is uWSGI there. Its forks wait for no thread, so each worker imports the app itself."""
    (tmp_path / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        *("uwsgi", "--http-socket", address, "--master", "--processes", "2", "--enable-threads", "--need-app", "--die-on-term"),
        *("--virtualenv", sys.prefix, "--chdir", str(tmp_path), "--wsgi-file", "app.py", "--callable", "app", "--lazy-apps"),
    ]
    log = tmp_path / "uwsgi.log"
    with log.open("w") as written:
        uwsgi = subprocess.Popen(command, env=environment | {"PATH": SCRIPTS}, stdout=written, stderr=written)
    try:
        eventually(lambda: log.read_text().count("WSGI app 0") >= 2, what=f"uWSGI is ready; see {log}")
        app = App(f"http://{address}", psutil.Process(uwsgi.pid))
        jobs = app.jobs_of_both_workers()
        for worker, job_id in jobs.items():
            eventually(lambda w=worker, j=job_id: app.asked(j, w)["printed"] == "hello\n", what="its worker has the result")
            for other in jobs.keys() - {worker}:
                assert app.asked(job_id, other)["known"] is False
    finally:
        uwsgi.terminate()
        uwsgi.wait(45)
    assert "Traceback" not in log.read_text(), log.read_text()
