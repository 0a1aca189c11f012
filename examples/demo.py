"""Grade a folder of submissions for a small exercise: read how many numbers follow, then the numbers; print their sum.

    python examples/demo.py [--environment NAME] [HOST_URL ...]

A submission runs once per test until a test fails, each time in a new container. It gets only the test's input:
the expected answers never leave this process. The first line of a submission states its expected outcome,
for example `# expect: failed, wrong answer`. The exit code is 0 if every submission ended as expected, 1 if not, 2 if
nothing could run.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from jobmanager import DockerHost, JobInput, JobManager, JobManagerError, JobResult, Limits, Outcome, Task

SUBMISSIONS = Path(__file__).parent / "submissions"
LIMITS = Limits(cpu_time_s=1, wall_time_s=8, memory_mib=128, processes=32, workspace_mib=16, output_kib=64)
LANGUAGES = {  # by suffix: the file's name and the command in the container
    ".py": ("main.py", "exec python3 main.py"),
    ".c": ("main.c", "gcc -O2 -fdiagnostics-plain-output -o main main.c && exec ./main"),
}
STYLES = {Outcome.SUCCESS: "green", Outcome.FAILED: "red", Outcome.TIMEOUT: "yellow", Outcome.OVERFLOW: "magenta"}


@dataclass(frozen=True)
class Test:
    stdin: str
    answer: str


TESTS = (Test("3\n1 2 3\n", "6"), Test("4\n-7 0 7 5\n", "5"), Test("2\n2000000000 2000000000\n", "4000000000"))


@dataclass
class Submission:
    """A submitted program, and the results of its jobs so far."""

    path: Path
    results: list[JobResult] = field(default_factory=list)  # one a test, in the order of the tests

    @property
    def graded(self) -> bool:
        """Whether no more jobs are needed: the first test that fails decides."""
        return len(self.results) == len(TESTS) or (bool(self.results) and self.verdict[0] is not Outcome.SUCCESS)

    @property
    def verdict(self) -> tuple[Outcome, str]:
        return judged(TESTS[len(self.results) - 1], self.results[-1])

    @property
    def surprise(self) -> str:
        """The difference from the expectation in its first line; empty if there is none."""
        with self.path.open() as source:
            expected = re.match(r"\S+ expect: (\w+)(?:, (.+))?$", source.readline())
        if expected is None:
            return "its first line does not say what to expect"
        outcome, text = self.verdict
        if outcome == expected[1] and (expected[2] or "") in text:
            return ""
        return f"expected {expected[0].split(': ', 1)[1]}; got {outcome}, {text}"


def judged(test: Test, result: JobResult) -> tuple[Outcome, str]:
    """A job's outcome, or `failed` when the program ended well and its answer is wrong."""
    if result.outcome is Outcome.SUCCESS and result.stdout_text.split() != test.answer.split():
        return Outcome.FAILED, plain(f"wrong answer: {result.stdout_text.strip()!r} instead of {test.answer}")
    if result.outcome is Outcome.SUCCESS:
        return Outcome.SUCCESS, f"all {len(TESTS)} tests passed"
    complaint = result.stderr_text.strip().rpartition("\n")[2] if result.outcome is Outcome.FAILED else ""
    return result.outcome, plain(f"{result.text}: {complaint}" if complaint else result.text)


def plain(text: str) -> str:
    """Untrusted text for a terminal: one line without control characters."""
    return "".join(character if character.isprintable() else " " for character in text[:160])


def grade(manager: JobManager, environment: str, submissions: Sequence[Submission]) -> Iterator[Submission]:
    """Run all submissions at once, each test by test; yields a submission each time one of its jobs has ended."""
    ended: SimpleQueue[JobResult] = SimpleQueue()

    def start(submission: Submission) -> str:
        filename, command = LANGUAGES[submission.path.suffix]
        task = Task(environment, command=command, files={filename: submission.path}, limits=LIMITS, name=submission.path.name)
        test = TESTS[len(submission.results)]
        return manager.new_job(task, JobInput(stdin=test.stdin), ended.put, launcher_name="demo")

    running = {start(submission): submission for submission in submissions}
    while running:
        result = ended.get()
        submission = running.pop(result.job_id)
        submission.results.append(result)
        if not submission.graded:
            running[start(submission)] = submission
        yield submission


def table(submissions: Sequence[Submission]) -> Table:
    """The results so far; the figures are the highest of a submission's jobs."""
    view = Table("submission", "outcome", "text")
    for name in ("CPU s", "memory MiB", "wall s"):
        view.add_column(name, justify="right")
    view.add_column("host")
    for submission in submissions:
        results = submission.results
        if submission.graded:
            outcome, text = submission.verdict
            shown = Text(outcome.value, STYLES.get(outcome, "blue"))
        else:
            shown, text = Text("..."), f"{len(results)} of {len(TESTS)} tests passed"
        view.add_row(
            submission.path.name,
            shown,
            Text(text),
            highest([result.cpu_time_s for result in results], digits=2),
            highest([result.peak_memory_mib for result in results], digits=0),
            highest([result.wall_time_s for result in results], digits=2),
            ", ".join(sorted({result.host for result in results if result.host})),
        )
    return view


def highest(values: Sequence[float | None], *, digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{max(known):.{digits}f}" if known else "-"


def main() -> int:
    parser = argparse.ArgumentParser(description="Grade the submissions in examples/submissions.")
    parser.add_argument("hosts", nargs="*", metavar="HOST_URL", help="Docker hosts (default: DOCKER_HOST, or the default socket)")
    parser.add_argument("--environment", default="python3", help="an environment with Python and gcc (default: %(default)s)")
    options = parser.parse_args()
    hosts = [DockerHost(url, name=f"docker-{number}") for number, url in enumerate(options.hosts, start=1)]
    submissions = [Submission(path) for path in sorted(SUBMISSIONS.iterdir()) if path.suffix in LANGUAGES]
    console = Console() if sys.stdout.isatty() else Console(width=160)
    where = ", ".join(f"{host.name} ({host.url})" for host in hosts) or "the default Docker host"
    print(f"grading {len(submissions)} submissions with up to {len(TESTS)} tests each on {where}", flush=True)

    with JobManager(hosts or None) as manager, Live(console=console, auto_refresh=False, transient=True) as live:
        for submission in grade(manager, options.environment, submissions):
            if console.is_terminal:
                live.update(table(submissions), refresh=True)
            elif submission.graded:
                print(submission.path.name, *submission.verdict, flush=True)
    console.print(table(submissions))

    surprises = [f"{submission.path.name}: {submission.surprise}" for submission in submissions if submission.surprise]
    print("\n".join(surprises) or "every submission ended as expected")
    return 1 if surprises else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except JobManagerError as problem:
        print(f"demo: {problem}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        sys.exit(130)
