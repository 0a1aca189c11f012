"""Every example, run as a user runs it: in a process of its own. The web apps are in ``test_web_apps.py``."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import docker
import psutil
import pytest
import yaml

from jobmanager import cli
from tests.conftest import BUSYBOX, eventually, our_containers

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MARK_VARIABLE = "JOBMANAGER_TEST_EXAMPLE"
PATIENCE_S = 60.0

pytestmark = pytest.mark.engine


@pytest.fixture
def engines(engine_urls: list[str]) -> list[str]:
    """The urls of the engines to test on; one that lacks the demo's image is a failure."""
    for url in engine_urls:
        with engine(url) as client:
            if not client.images.list(filters={"label": "jobmanager.environment=python3"}):
                pytest.fail(f"{url} has no image with the label jobmanager.environment=python3: run python3 -m dev.machine up")
    return engine_urls


@pytest.fixture
def environment(engines: list[str]) -> Iterator[dict[str, str]]:
    """Environment variables for an example; afterwards none of its processes may be left."""
    mark = uuid.uuid4().hex
    yield os.environ | {MARK_VARIABLE: mark, "PYTHONUNBUFFERED": "1"}
    eventually(lambda: not marked_processes(mark), what="the example's processes have ended")


@contextmanager
def engine(url: str) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=url, timeout=30)
    try:
        yield client
    finally:
        client.close()


def marked_processes(mark: str) -> list[int]:
    """Processes that an example started, whoever their parent is now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK_VARIABLE) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def run(environment: dict[str, str], script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    done.stderr = without_slow_hosts(done.stderr)
    return done


def without_slow_hosts(complaints: str) -> str:
    """The manager waits one second for all hosts, and then warns: a busy machine is no failure here."""
    return re.sub(r"(?m)^host .+ is down: has not answered yet\n", "", complaints)


# --- the scripts ----------------------------------------------------------------------------------------------------


def test_the_blocking_script_prints_its_job_s_result(engines: list[str], environment: dict[str, str]) -> None:
    done = run(environment, EXAMPLES / "blocking.py", engines[0])

    assert (done.returncode, done.stderr) == (0, "")
    assert "failed (exit code 3)" in done.stdout
    assert r"'Hello, world!\nThis file came along with the task.\n'" in done.stdout


def test_a_script_without_urls_runs_on_the_engine_that_docker_host_names(engines: list[str], environment: dict[str, str]) -> None:
    done = run(environment | {"DOCKER_HOST": engines[0]}, EXAMPLES / "blocking.py", "--environment", BUSYBOX)

    assert (done.returncode, done.stderr) == (0, "")
    assert "failed (exit code 3)" in done.stdout


def test_the_polling_script_prints_every_result(engines: list[str], environment: dict[str, str]) -> None:
    done = run(environment, EXAMPLES / "polling.py", *engines)

    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == [
        "asked to sleep 0 s: success slept 0 s",
        "asked to sleep 1 s: success slept 1 s",
        "asked to sleep 9 s: timeout wall clock limit of 5 s reached",
    ]


# --- the course -----------------------------------------------------------------------------------------------------


def test_a_part_of_the_course_is_graded_as_expected(engines: list[str], environment: dict[str, str]) -> None:
    """All of it is, in tests/stress."""
    done = run(environment, EXAMPLES / "course.py", "--task", "dice", "--task", "report", *engines)

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.startswith("6 submissions to 2 tasks\n")
    assert done.stdout.endswith("every submission ended as expected\n")


def test_the_course_s_status_tells_that_a_submission_surprised(
    engines: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    shutil.copy(EXAMPLES / "course.py", tmp_path)
    shutil.copytree(EXAMPLES / "course" / "tasks" / "dice", tmp_path / "course" / "tasks" / "dice")
    (tmp_path / "course" / "submissions" / "dice").mkdir(parents=True)
    (tmp_path / "course" / "submissions" / "dice" / "quick.py").write_text("# expect: timeout\nprint(6, 6)\n")

    done = run(environment, tmp_path / "course.py", *engines)

    assert (done.returncode, done.stderr) == (1, "")
    assert "dice/quick.py: expected timeout, ; got failed, these are not your sides" in done.stdout


# --- the course in C ------------------------------------------------------------------------------------------------


def of_the_c_course(url: str) -> list[str]:
    """The containers and networks that it has started."""
    with engine(url) as client:
        found = [*client.containers.list(all=True), *client.networks.list()]
    return [each.name for each in found if each.name.startswith("c-course-")]


def c_course_with(folder: Path, *submissions: str) -> Path:
    """The course with these submissions only."""
    submissions_of_all = shutil.ignore_patterns("submissions")
    shutil.copytree(EXAMPLES / "c_course", folder / "c_course", ignore=submissions_of_all)
    for name in submissions:
        shutil.copytree(EXAMPLES / "c_course" / "submissions" / name, folder / "c_course" / "submissions" / name)
    return Path(shutil.copy(EXAMPLES / "c_course.py", folder))


def test_each_submission_to_the_course_in_c_ends_as_expected_and_its_report_arrives(
    engines: list[str], environment: dict[str, str]
) -> None:
    done = run(environment, EXAMPLES / "c_course.py", "--host", engines[0])

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.endswith("every submission ended as expected\n")
    assert "\x1b" not in done.stdout
    for submission in (EXAMPLES / "c_course" / "submissions").iterdir():
        assert done.stdout.count(f'accepted {{"submission": "{submission.name}", ') == 1
    forged = '"tests": {"repeated lines": false, "lines apart": false, "counts": false}}'
    assert f'accepted {{"submission": "forges_report", {forged}\n' in done.stdout
    assert re.search(r"right +success  3 of 3 tests passed\n(    \w+ +success +\d+\.\d s +━+\n){4}", done.stdout)
    assert re.search(r"    build +overflow .*\n    test +not run\n    report +success ", done.stdout)
    assert of_the_c_course(engines[0]) == []


def test_a_course_in_c_that_lets_the_build_reach_the_git_server_tells_that_a_submission_surprised(
    engines: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    course = c_course_with(tmp_path, "right", "phones_home")
    (tmp_path / "c_course" / "submissions" / "phones_home" / "Makefile").write_text(
        "# expect: failed, phase 'test': 0 of 3 tests passed\n"
        "uniq:\n\tgit clone --quiet git://git/right.git copied && $(CC) -o uniq copied/uniq.c\n"
    )
    closed, opened = "build = Task(image, ", "build = Task(image, network=git_network, "
    assert closed in course.read_text()
    course.write_text(course.read_text().replace(closed, opened))

    done = run(environment, course, "--host", engines[0])

    assert (done.returncode, done.stderr) == (1, ""), done.stdout
    expected = "phones_home: expected failed, phase 'test': 0 of 3 tests passed; got success, 3 of 3 tests passed\n"
    assert done.stdout.endswith(expected)


@pytest.mark.parametrize("moment", [of_the_c_course, our_containers], ids=["while it starts its servers", "while jobs run"])
def test_the_course_in_c_removes_its_servers_on_ctrl_c(
    engines: list[str], environment: dict[str, str], moment: Callable[[str], list[str]]
) -> None:
    command = [sys.executable, str(EXAMPLES / "c_course.py"), "--host", engines[0]]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as course:
        eventually(lambda: bool(moment(engines[0])), what="it has made what it makes first", within_s=PATIENCE_S)
        os.killpg(course.pid, signal.SIGINT)
        _, complaints = course.communicate(timeout=60)

    assert (course.returncode, without_slow_hosts(complaints)) == (130, "c_course: interrupted\n")
    assert of_the_c_course(engines[0]) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["--host", "unix:///no/such/docker.sock"], "server API version"), (["--image", "no-such-image:1"], "No such image")],
    ids=["no engine", "no image"],
)
def test_the_course_in_c_says_in_one_line_what_keeps_it_from_running(
    engines: list[str], environment: dict[str, str], arguments: list[str], reason: str
) -> None:
    done = run(environment | {"DOCKER_HOST": engines[0]}, EXAMPLES / "c_course.py", *arguments)

    assert done.returncode == 2
    assert re.fullmatch(rf"c_course: .*{reason}.*\n", done.stderr)
    assert of_the_c_course(engines[0]) == []


# --- the demo -------------------------------------------------------------------------------------------------------


def test_the_demo_grades_every_submission_as_expected_on_all_engines(engines: list[str], environment: dict[str, str]) -> None:
    done = run(environment, EXAMPLES / "demo.py", *engines)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("every submission ended as expected\n")
    assert "\x1b" not in done.stdout
    for submission in (EXAMPLES / "submissions").iterdir():
        assert done.stdout.count(f"{submission.name} ") == 2, "a line when it was graded, and one in the table"
    for number in range(1, len(engines) + 1):
        assert re.search(rf"docker-{number}\b", done.stdout.partition("\n")[2])


def test_the_demo_shows_its_progress_on_a_terminal(engines: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    demo = demo_with(tmp_path, EXAMPLES / "submissions" / "right.py", EXAMPLES / "submissions" / "wrong.py")

    shown, status = run_on_terminal(environment | {"TERM": "xterm-256color", "COLUMNS": "150", "LINES": "50"}, demo, engines)

    assert status == 0
    assert "1 of 3 tests passed" in shown
    assert "every submission ended as expected" in shown


def test_the_judge_tells_all_verdicts_apart(engines: list[str], environment: dict[str, str]) -> None:
    done = run(environment | {"COLUMNS": "120"}, EXAMPLES / "judge.py", *engines)

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    for submission in (EXAMPLES / "problems").glob("*/submissions/*"):
        assert f"{submission.parts[-3]}/{submission.name}" in done.stdout
    verdicts = ("accepted", "wrong answer", "time limit", "run-time error", "memory limit", "compile error")
    assert all(done.stdout.count(verdict) >= 2 for verdict in verdicts), "as it came, and as it was expected"


def test_hidden_tests_give_points_to_what_is_right_and_to_nothing_else(engines: list[str], environment: dict[str, str]) -> None:
    done = run(environment | {"DOCKER_HOST": engines[0]}, EXAMPLES / "hidden_tests.py")

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert re.findall(r"(?m)^(\S.*): (\w+), grade (\d+)$", done.stdout) == [
        ("right", "success", "100"),
        ("does not sort", "failed", "40"),
        ("exits", "failed", "0"),
        ("loops", "failed", "0"),
        ("answers with an object that is equal to everything", "failed", "0"),
    ]


def demo_with(folder: Path, *submissions: Path) -> Path:
    """The demo over these submissions only."""
    (folder / "submissions").mkdir()
    for submission in submissions:
        shutil.copy(submission, folder / "submissions")
    return Path(shutil.copy(EXAMPLES / "demo.py", folder))


def run_on_terminal(environment: dict[str, str], demo: Path, engines: Sequence[str]) -> tuple[str, int]:
    """What the demo writes to a terminal, and its status."""
    ours, theirs = pty.openpty()
    command = [sys.executable, str(demo), *engines]
    with subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as running:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # so a terminal says that nobody has it open any more
            pass
        finally:
            os.close(ours)
        return shown.decode(), running.wait(30)


def test_the_demo_s_status_tells_that_a_submission_surprised(
    engines: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    demo = demo_with(tmp_path)
    (tmp_path / "submissions" / "quick.py").write_text("# expect: timeout\nprint(5)\n")

    done = run(environment, demo, *engines)

    assert (done.returncode, done.stderr) == (1, "")
    assert "quick.py: expected timeout; got failed, wrong answer: '5' instead of 6" in done.stdout


def test_the_demo_ends_quietly_on_ctrl_c(engines: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, str(EXAMPLES / "demo.py"), *engines]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as demo:
        eventually(lambda: any(our_containers(url) for url in engines), what="the demo's first container is there")
        os.killpg(demo.pid, signal.SIGINT)  # as a terminal does: to the children too
        _, complaints = demo.communicate(timeout=30)

    assert (demo.returncode, without_slow_hosts(complaints)) == (130, "demo: interrupted\n")


@pytest.mark.parametrize(
    "arguments",
    [["unix:///no/such/docker.sock"], ["nonsense"], ["--environment", "no-such-environment"]],
    ids=["no engine", "no url", "no environment"],
)
def test_the_demo_says_in_one_line_what_keeps_it_from_running(
    engines: list[str], environment: dict[str, str], arguments: list[str]
) -> None:
    done = run(environment | {"DOCKER_HOST": engines[0]}, EXAMPLES / "demo.py", *arguments)

    assert done.returncode == 2
    assert re.fullmatch(r"(host .+ is down: .+\n)?demo: .+\n", done.stderr)


# --- the demo of a cluster ------------------------------------------------------------------------------------------

CLUSTER_DEMO = EXAMPLES / "cluster" / "demo.py"


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for all that the demo and its processes make; its path is short, for sockets."""
    with tempfile.TemporaryDirectory(prefix="jm-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.cluster
def test_the_demo_of_a_cluster_loses_and_doubles_nothing(
    engines: list[str], environment: dict[str, str], temporary: Path
) -> None:
    done = run(environment | {"TMPDIR": str(temporary)}, CLUSTER_DEMO, "--submissions", "20", *engines)

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.endswith("nothing was lost or doubled\n")
    assert "\x1b" not in done.stdout
    for broken in ("node-2 was killed", "the dispatcher, a process of node-", "Redis was killed", "node-2 was started again"):
        assert re.search(rf"(?m)^after \d+ results: {broken}", done.stdout), broken
    assert list(temporary.iterdir()) == []
    for url in engines:
        assert our_containers(url) == []


@pytest.mark.cluster
def test_the_demo_of_a_cluster_leaves_nothing_on_ctrl_c(
    engines: list[str], environment: dict[str, str], temporary: Path
) -> None:
    """Also what a node has left that was killed."""
    command = [sys.executable, str(CLUSTER_DEMO), "--submissions", "60", *engines]
    own = environment | {"TMPDIR": str(temporary)}
    with subprocess.Popen(
        command, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as demo:
        assert demo.stdout is not None
        assert any("node-2 was killed" in line for line in demo.stdout)
        os.killpg(demo.pid, signal.SIGINT)
        _, complaints = demo.communicate(timeout=90)

    assert (demo.returncode, complaints) == (130, "demo: interrupted\n")
    assert list(temporary.iterdir()) == []


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("arguments", "more", "said"),
    [
        (["unix:///no/such/docker.sock"], {}, "no/such/docker.sock|No such file"),
        ([], {"PATH": "/nowhere"}, "there is no redis-server: run `make demo-cluster`"),
    ],
    ids=["no engine", "no redis-server"],
)
def test_the_demo_of_a_cluster_says_in_one_line_what_keeps_it_from_running(
    engines: list[str], environment: dict[str, str], arguments: list[str], more: dict[str, str], said: str
) -> None:
    done = run(environment | more, CLUSTER_DEMO, *(arguments or engines))

    assert done.returncode == 2
    assert re.fullmatch(rf"demo: .*({said}).*\n", done.stderr), done.stderr


def test_what_starts_a_node_as_a_service_gives_it_options_that_it_has() -> None:
    worker = cli.commands.get_command(click.Context(cli.commands), "worker")
    assert worker is not None
    options = {name for parameter in worker.params for name in parameter.opts}
    for file in ("jobmanager-worker.service", "compose.yaml"):
        (line,) = re.findall(r"(?m)^(?:ExecStart=\S+|    command:) worker (.*)$", (EXAMPLES / "cluster" / file).read_text())
        assert {word for word in line.split() if word.startswith("--")} <= options, file
    services = yaml.safe_load((EXAMPLES / "cluster" / "compose.yaml").read_text())["services"]
    assert {name for service in services.values() for name in service["secrets"]} == {"key", "redis-url", "users.acl"}
    assert services["redis"]["volumes"][0].startswith("./redis.conf:") and (EXAMPLES / "cluster" / "redis.conf").exists()
