"""The README and the documents do what they say: their programs run as a reader runs them, in an empty folder.

A block runs when a mark stands before it: ``<!-- runs: readme -->`` and ``engine`` with a real engine, ``alone`` without,
``shell`` as commands; ``cluster`` with a Redis, a real engine, and what ``worker`` starts. A ``text`` block after it is what it
prints. The programs use the environment ``python3``, which ``dev.machine`` puts on every engine of the tests, and ``make demo`` on
every engine of a reader without a registry.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from jobmanager import JobManager, Task
from tests.conftest import eventually
from tests.support.bound_process import start_bound
from tests.support.daemons import PrivateDaemon
from tests.support.redis_server import RedisServer

TOP = Path(__file__).resolve().parents[2]
PATIENCE_S = 100


@dataclass(frozen=True)
class Block:
    """A block that runs."""

    document: str
    mark: str
    code: str
    prints: str | None

    def __str__(self) -> str:
        return f"{self.document}: {self.code.splitlines()[0]}"


def blocks(*marks: str) -> list[Block]:
    found = []
    for path in (TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))):
        for match in re.finditer(r"(?ms)^<!-- runs: (\w+) -->\n```\w+\n(.*?)^```$", path.read_text()):
            after = re.match(r"(?m)\n(?:\nIt prints.*:\n)?\n```text\n([\s\S]*?)^```$", path.read_text()[match.end() :])
            if match[1] in marks:
                found.append(Block(path.name, match[1], match[2], after[1] if after else None))
    return found


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that somebody has pasted into a file."""
    (folder / "first.py").write_text(code)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "JOBMANAGER_", "PYTHON"))}
    command = [sys.executable, "first.py"]
    return subprocess.run(
        command, cwd=folder, env=inherited | environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def complaints(done: subprocess.CompletedProcess[str]) -> str:
    """Standard error, without the warning that a busy machine's engine took longer than a second to answer."""
    return re.sub(r"(?m)^host .+ is down: has not answered yet\n", "", done.stderr)


@pytest.fixture
def engine(engine_url: str) -> str:
    """The url of an engine with the environment ``python3``."""
    client = docker.DockerClient(base_url=engine_url, timeout=30)
    try:
        if not client.images.list(filters={"label": "jobmanager.environment=python3"}):
            pytest.fail(f"{engine_url} has no image with the label jobmanager.environment=python3: run python3 -m dev.machine up")
    finally:
        client.close()
    return engine_url


def told(printed: str) -> list[str]:
    """What the README's program printed of each job, whatever their order and their CPU time."""
    return sorted(re.findall(r"\S+: .*\n    stdout .*", re.sub(r"CPU [\d.]+ s", "CPU ... s", printed)))


def readme() -> Block:
    (block,) = blocks("readme")
    return block


@pytest.mark.engine
def test_the_readmes_program_prints_what_it_says(engine: str, tmp_path: Path) -> None:
    block = readme()
    assert block.prints is not None

    done = run(block.code, tmp_path, DOCKER_HOST=engine)

    assert (done.returncode, complaints(done)) == (0, "")
    assert len(told(done.stdout)) == 4
    assert told(done.stdout) == told(block.prints)


def test_the_readmes_program_says_that_no_engine_is_there(tmp_path: Path) -> None:
    done = run(readme().code, tmp_path, DOCKER_HOST="unix:///no/such/docker.sock")

    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("jobmanager.errors.EngineUnavailable: no Docker host answers (unix:///no/such/docker.sock: ")
    assert "DOCKER_HOST" in last


@pytest.mark.engine
def test_the_readmes_program_says_why_its_image_is_not_there_or_fetches_it(private_engine: PrivateDaemon, tmp_path: Path) -> None:
    block = readme()

    done = run(block.code, tmp_path, DOCKER_HOST=private_engine.url)

    assert (done.returncode, complaints(done)) == (0, "")
    jobs = told(done.stdout)
    assert len(jobs) == 4
    if jobs != told(block.prints or ""):  # no registry answers
        for job in jobs:
            assert re.match(rf"\w+: crash no host could start it \({re.escape(private_engine.url)}: .+\)\n", job)
            assert job.endswith("proof ['no_host']")


@pytest.mark.engine
@pytest.mark.parametrize("block", blocks("engine"), ids=str)
def test_a_program_of_the_documents_prints_what_it_says(block: Block, engine: str, tmp_path: Path) -> None:
    done = run(block.code, tmp_path, DOCKER_HOST=engine)

    assert (done.returncode, complaints(done), done.stdout) == (0, "", block.prints)


@pytest.mark.parametrize("block", blocks("alone"), ids=str)
def test_a_program_of_the_documents_that_needs_no_engine_prints_what_it_says(block: Block, tmp_path: Path) -> None:
    done = run(block.code, tmp_path, DOCKER_HOST="unix:///no/such/docker.sock")

    assert (done.returncode, complaints(done), done.stdout) == (0, "", block.prints)


@pytest.mark.engine
@pytest.mark.cluster
def test_a_program_for_many_machines_prints_what_it_says(engine: str, tmp_path: Path) -> None:
    (worker,), (program,) = blocks("worker"), blocks("cluster")
    with RedisServer(tcp=True) as redis, (tmp_path / "log").open("wb") as log:
        commands = worker.code.replace("redis://localhost:6379/0", redis.url)
        assert commands != worker.code
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {"DOCKER_HOST": engine, "PATH": path, "PWD": str(tmp_path)}
        # the last command takes the shell's place, so that its end is the worker's
        commands = re.sub(r"(?m)^jobmanager worker$", "exec jobmanager worker", commands)
        node = start_bound(["bash", "-euc", commands], output=log, environment=environment, folder=tmp_path)
        try:
            eventually(lambda: node.poll() is not None or has_a_node(redis), within_s=60, what="the worker is up")
            where = {"JOBMANAGER_REDIS_URL": redis.url, "JOBMANAGER_KEY_FILE": "jobmanager.key"}
            done = run(program.code, tmp_path, **where)
        finally:
            node.terminate()
            node.wait(30)

    assert (done.returncode, done.stderr, done.stdout) == (0, "", program.prints), (tmp_path / "log").read_text()
    assert node.returncode == 0, (tmp_path / "log").read_text()


def has_a_node(redis: RedisServer) -> bool:
    with redis.client() as client:
        return any(client.hget(f"jm:default:node:{name}", "beats") for name in client.smembers("jm:default:nodes"))


@pytest.mark.engine
def test_the_image_of_a_shell_is_made_by_the_commands_that_are_given(private_engine: PrivateDaemon, tmp_path: Path) -> None:
    (block,) = blocks("shell")
    download, rest = block.code.split("\n", 1)
    if shutil.which("apt-get") is None or subprocess.run(download, shell=True, cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("no Debian package mirror is at hand")

    environment = os.environ | {"DOCKER_HOST": private_engine.url}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", rest], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    with JobManager(private_engine.url) as manager:
        eventually(lambda: "shell" in manager.get_available_environments()["docker"], what="the image is noticed")
        result = manager.submit(Task("shell", command="echo hello")).result(PATIENCE_S)
    assert result.stdout == b"hello\n"
