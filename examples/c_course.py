"""Grade the submissions to a small C course in four containers each: clone, build, test, report.

    python examples/c_course.py [--image IMAGE] [--host HOST_URL]

What may reach a network never runs the submission, and what runs the submission can reach nothing. The example starts a git
server and a server for reports on the Docker host, each on a network of its own, and removes them at the end. A submission in
examples/c_course/submissions states its expected outcome: `# expect: failed, phase 'build'`. The exit code is 0 if every
submission ended as expected, 1 if not, 2 if nothing could run.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import secrets
import signal
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import docker
from docker.errors import DockerException
from docker.models.containers import Container
from rich.console import Console
from rich.text import Text

from jobmanager import (
    DockerHost,
    Grader,
    JobInput,
    JobManager,
    JobManagerError,
    JobResult,
    Limits,
    Outcome,
    Phase,
    Pipeline,
    Task,
    Volume,
)

COURSE = Path(__file__).parent / "c_course"
SUBMISSIONS = COURSE / "submissions"
LABEL = "c-course"
LIMITS = Limits(cpu_time_s=5, wall_time_s=10, memory_mib=128, processes=32, workspace_mib=16, output_kib=64)
STYLES = {Outcome.SUCCESS: "green", Outcome.FAILED: "red", Outcome.TIMEOUT: "yellow", Outcome.OVERFLOW: "magenta"}
BAR_WIDTH = 60


def pipeline(image: str, git_network: str, reports_network: str) -> Pipeline:
    """The four phases. A job's standard input is the name of a submission."""

    def file(name: str) -> dict[str, Path]:
        return {name: COURSE / name}

    clone = Task(
        image,
        command='read name && git clone --quiet --depth 1 "git://git/$name.git" /volumes/source',
        network=git_network,
        limits=LIMITS,
    )
    build = Task(image, command="cp -r /volumes/source/. . && make && cp uniq /volumes/program", limits=LIMITS)
    test = Task(image, grader=Grader(run=["python3", "grader.py"]), files=file("grader.py"), limits=LIMITS)
    report = Task(image, command=["python3", "report.py"], files=file("report.py"), network=reports_network, limits=LIMITS)
    return Pipeline(
        [
            Phase("clone", clone, writes=["source"], blame="course"),
            Phase("build", build, reads=["source"], writes=["program"]),
            Phase("test", test, reads=["program"], writes=["report"], tests=["/volumes/report/*.json"]),
            Phase("report", report, reads=["report"], inputs=True, secrets=["report-token"], when="always"),
        ],
        volumes={"source": Volume(16), "program": Volume(16), "report": Volume(1)},
        name="uniq",
    )


def surprise(name: str, result: JobResult) -> str:
    """The difference from the expectation in one of its files; empty if there is none."""
    sources = "".join(path.read_text() for path in (SUBMISSIONS / name).iterdir())
    expected = re.search(r"(?m)^\S+ expect: (\w+), (.+)$", sources)
    if expected is None:
        return f"{name}: no file of it says what to expect"
    if result.outcome == expected[1] and expected[2] in result.text:
        return ""
    return f"{name}: expected {expected[1]}, {expected[2]}; got {result.outcome}, {plain(result.text)}"


def plain(text: str) -> str:
    """Untrusted text for a terminal: one line without control characters."""
    return "".join(character if character.isprintable() else " " for character in text[:160])


def timeline(name: str, result: JobResult) -> Iterator[Text]:
    """A line for the job, and one for each phase with a bar at its place in the job's time."""
    seconds = [sum(phase.timings.get(step, 0.0) for step in ("send", "run", "collect")) for phase in result.phases]
    yield Text.assemble(f"{name:<14} ", (f"{result.outcome:<8}", STYLES.get(result.outcome, "blue")), f" {plain(result.text)}")
    for number, phase in enumerate(result.phases):
        if phase.outcome is None:
            yield Text(f"    {phase.name:<10} not run")
            continue
        begun, end = (round(BAR_WIDTH * sum(seconds[:count]) / (sum(seconds) or 1)) for count in (number, number + 1))
        bar = (" " * begun + "━" * max(end - begun, 1), STYLES.get(phase.outcome, "blue"))
        yield Text.assemble(f"    {phase.name:<10} {phase.outcome:<8} {seconds[number]:5.1f} s  ", bar)


def grade(manager: JobManager, course: Pipeline, names: Sequence[str], console: Console) -> dict[str, JobResult]:
    """Run all submissions at once, and show each when it has ended."""
    ended: SimpleQueue[JobResult] = SimpleQueue()
    running = {manager.new_job(course, JobInput(stdin=f"{name}\n"), ended.put, launcher_name="c_course"): name for name in names}
    results = {}
    while running:
        result = ended.get()
        name = running.pop(result.job_id)
        results[name] = result
        for line in timeline(name, result):
            console.print(line, no_wrap=True, overflow="crop")
    return results


@contextmanager
def server(client: docker.DockerClient, image: str, name: str, command: Sequence[str], **env: str) -> Iterator[Container]:
    """A container with the files of the course that is called `name` on a network of its own. Both have one name outside."""
    unique = f"{LABEL}-{name}-{secrets.token_hex(4)}"
    try:
        with not_interrupted():
            client.networks.create(unique, internal=True)
            container = client.containers.create(
                image,
                list(command),
                name=unique,
                working_dir="/c_course",
                environment=env,
                network=unique,
                networking_config={unique: client.api.create_endpoint_config(aliases=[name])},
            )
        container.put_archive("/", packed(COURSE))
        container.start()
        print(f"started the container {unique}, on a network of this name", flush=True)
        wait_until_ready(container)
        yield container
    finally:
        with not_interrupted():
            for made in client.containers.list(all=True, filters={"name": unique}, ignore_removed=True):
                made.remove(force=True, v=True)
            for network in client.networks.list(names=[unique]):
                network.remove()


@contextmanager
def not_interrupted() -> Iterator[None]:
    """Heed ctrl-C at the end only: the engine carries out a request whose sender has gone, and nobody would know."""
    heard = []
    handler = signal.signal(signal.SIGINT, lambda *_: heard.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if heard:
        raise KeyboardInterrupt


def packed(folder: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.add(folder, arcname=folder.name)
    return content.getvalue()


def wait_until_ready(container: Container) -> None:
    output = container.logs(stream=True, follow=True)
    if not any(b"Ready" in line for line in output):  # it has ended
        raise DockerException(f"{container.name} has ended: {container.logs().decode(errors='replace')}")
    output.close()


def report_of(name: str, result: JobResult) -> str:
    """What the report server prints for a submission with this result."""
    tests: Mapping[str, Any] = result.tests
    passed = {test: tests[test]["passed"] for test in tests}
    return f"accepted {json.dumps({'submission': name, 'tests': passed})}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Grade the submissions in examples/c_course.")
    parser.add_argument("--host", metavar="HOST_URL", help="the Docker host (default: DOCKER_HOST, or the default socket)")
    parser.add_argument("--image", default="jobmanager-python:4", help="one with Python, gcc, make and git (default: %(default)s)")
    options = parser.parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=160)
    names = sorted(path.name for path in SUBMISSIONS.iterdir())
    token = secrets.token_hex()

    with (
        closing(docker.DockerClient(base_url=options.host) if options.host else docker.from_env()) as client,
        server(client, options.image, "git", ["sh", "git_server.sh"]) as git,
        server(client, options.image, "reports", ["python3", "report_server.py"], TOKEN=token) as report_server,
        JobManager(DockerHost(options.host) if options.host else None, secrets={"report-token": token}) as manager,
    ):
        results = grade(manager, pipeline(options.image, git.name, report_server.name), names, console)
        arrived = report_server.logs(stderr=False).decode(errors="replace").splitlines()[1:]

    print("the report server printed:", *map(plain, arrived), sep="\n    ")
    surprises = [found for name in names if (found := surprise(name, results[name]))]
    if sorted(arrived) != sorted(report_of(name, results[name]) for name in names):
        surprises.append("the report server did not get the report of each submission, and nothing else")
    print("\n".join(surprises) or "every submission ended as expected")
    return 1 if surprises else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (JobManagerError, DockerException) as problem:
        print(f"c_course: {problem}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("c_course: interrupted", file=sys.stderr)
        sys.exit(130)
