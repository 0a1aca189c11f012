"""Grade a folder of submissions for a small exercise: read how many numbers follow, then the numbers; print their sum.

    python examples/demo.py [--environment NAME] [HOST_URL ...]

A submission is compiled once, and runs once per test until a test fails: all in one container, in which no test finds anything
of the one before. It gets only the test's input: the expected answers never enter its container. The first line of a submission
states its expected outcome, for example `# expect: failed, wrong answer`. The exit code is 0 if every submission ended as
expected, 1 if not, 2 if nothing could run.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from jobmanager import Case, DockerHost, HookManager, JobManager, JobManagerError, JobResult, Limits, Outcome, Task, Tokens
from jobmanager.events import CaseEnded

SUBMISSIONS = Path(__file__).parent / "submissions"
LIMITS = Limits(cpu_time_s=1, wall_time_s=8, memory_mib=128, processes=32, workspace_mib=16, output_kib=64)
LANGUAGES = {  # by suffix: the file's name, how to compile it, and the command in the container
    ".py": ("main.py", None, ["python3", "main.py"]),
    ".c": ("main.c", ["gcc", "-O2", "-fdiagnostics-plain-output", "-o", "main", "main.c"], ["./main"]),
}
STYLES = {Outcome.SUCCESS: "green", Outcome.FAILED: "red", Outcome.TIMEOUT: "yellow", Outcome.OVERFLOW: "magenta"}
ANSWERS = {"3\n1 2 3\n": "6", "4\n-7 0 7 5\n": "5", "2\n2000000000 2000000000\n": "4000000000"}
TESTS = [Case(stdin, expected=answer, check=Tokens()) for stdin, answer in ANSWERS.items()]


@dataclass
class Submission:
    """A submitted program, and what became of it so far."""

    path: Path
    tests_ended: int = 0
    result: JobResult | None = None

    @property
    def verdict(self) -> tuple[Outcome, str]:
        assert self.result is not None, "it has been graded"
        return judged(self.result)

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


def judged(result: JobResult) -> tuple[Outcome, str]:
    """A job's outcome, and the reason: for a wrong answer with the right one, which only we know."""
    if result.outcome is Outcome.SUCCESS:
        return result.outcome, f"all {len(TESTS)} tests passed"
    for answer, case in zip(ANSWERS.values(), result.cases, strict=True):
        if case.correct is False:
            return result.outcome, plain(f"wrong answer: {result.stdout_text.strip()!r} instead of {answer}")
    complaint = result.stderr_text.strip().rpartition("\n")[2] if result.outcome is Outcome.FAILED else ""
    return result.outcome, plain(f"{result.text}: {complaint}" if complaint else result.text)


def plain(text: str) -> str:
    """Untrusted text for a terminal: one line without control characters."""
    return "".join(character if character.isprintable() else " " for character in text[:160])


def task(path: Path, environment: str) -> Task:
    filename, build, command = LANGUAGES[path.suffix]
    return Task(
        environment,
        build=build,
        command=command,
        files={filename: path},
        cases=TESTS,
        stop_at_first_failure=True,
        limits=LIMITS,
        name=path.name,
    )


def grade(
    manager: JobManager, news: SimpleQueue[CaseEnded | JobResult], environment: str, submissions: Sequence[Submission]
) -> Iterator[Submission]:
    """Run all submissions at once; yields one each time a test of it has ended, and when it is graded."""
    running = {
        manager.new_job(task(submission.path, environment), callback=news.put, launcher_name="demo"): submission
        for submission in submissions
    }
    while running:
        told = news.get()
        submission = running.get(told.job_id)
        if submission is None:
            continue  # a hook has a thread of its own, and may come after the result
        if isinstance(told, JobResult):
            submission.result = told
            del running[told.job_id]
        else:
            submission.tests_ended = told.number
        yield submission


def table(submissions: Sequence[Submission]) -> Table:
    """The results so far; the figures are the highest of a submission's tests."""
    view = Table("submission", "outcome", "text")
    for name in ("CPU s", "memory MiB", "wall s"):
        view.add_column(name, justify="right")
    view.add_column("host")
    for submission in submissions:
        result = submission.result
        if result is not None:
            outcome, text = submission.verdict
            shown = Text(outcome.value, STYLES.get(outcome, "blue"))
        else:
            shown, text = Text("..."), f"{submission.tests_ended} of {len(TESTS)} tests passed"
        runs = [] if result is None else [case.run for case in result.cases if case.run is not None]
        view.add_row(
            submission.path.name,
            shown,
            Text(text),
            highest([run.cpu_time_s for run in runs], digits=2),
            highest([run.peak_memory_mib for run in runs], digits=0),
            highest([run.wall_time_s for run in runs], digits=2),
            (result.host if result is not None else None) or "",
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

    hooks, news = HookManager(), SimpleQueue[CaseEnded | JobResult]()
    hooks.add(CaseEnded, news.put)
    live = Live(console=console, auto_refresh=False, transient=True)
    with JobManager(hosts or None, hook_manager=hooks) as manager, live:
        for submission in grade(manager, news, options.environment, submissions):
            if console.is_terminal:
                live.update(table(submissions), refresh=True)
            elif submission.result is not None:
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
