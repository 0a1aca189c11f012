"""Grade the submissions for a small course: five task folders, whose graders run the submissions in student containers.

    python examples/course.py [--environment NAME] [--task NAME ...] [HOST_URL ...]

The tasks are in examples/course/tasks: `squares` calls a function, `tail` fills in a template, `dice` has random inputs, `report`
sends a file back, `bisect_c` compiles C. The first lines of a submission state its expected outcome and further answers:
`# expect: failed, 2 of 5`, `# answer growth: 1`, `# archive: report.csv`. The exit code is 0 if every submission ended as expected,
1 if not, 2 if nothing could run.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue

from jobmanager import Code, DockerHost, File, JobManager, JobManagerError, JobResult, Task

COURSE = Path(__file__).parent / "course"
RANDOM = [0.9, 0.4]  # the numbers that the submitter saw, for tasks with random inputs; a real front end stores them
HEADER = f"{'submission':<30} {'outcome':<8} {'grade':>5}  text"


class Submission:
    """A submitted file, its answers and its expected outcome."""

    def __init__(self, path: Path, task: Task) -> None:
        self.name = f"{path.parent.name}/{path.name}"
        self.source = path.read_text()
        self.answers = {"@random": RANDOM, **self.noted("answer")}
        for key, problem in (task.problems or {}).items():
            if isinstance(problem, File):
                self.answers[key] = {"filename": path.name, "value": self.source}
            elif isinstance(problem, Code):
                self.answers[key] = self.source.splitlines()[-1] if problem.single_line else self.source

    def noted(self, word: str) -> dict[str, object]:
        """The values in its comments: `# word: value` or `# word key: value`."""
        return dict(re.findall(rf"(?m)^(?://|#) {word} ?(\w*): (.+)$", self.source))

    def surprise(self, result: JobResult) -> str:
        """The difference from the expectation; empty if there is none."""
        outcome, _, text = str(self.noted("expect").get("", "")).partition(", ")
        if result.outcome != outcome or not any(text in told for told in told_in(result)):
            return f"expected {outcome}, {text}; got {result.outcome}, {plain(' / '.join(told_in(result)))}"
        if archived(result.archive) != list(self.noted("archive").values()):
            return f"expected {self.noted('archive')} in the archive; got {archived(result.archive)}"
        return ""


def told_in(result: JobResult) -> list[str]:
    return [result.text, *(problem.text for problem in result.problems.values())]


def archived(archive: bytes | None) -> list[str]:
    """The names in an archive. It is untrusted, so nothing is unpacked."""
    if archive is None:
        return []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return [member.name for member in tar if member.isfile()]


def plain(text: str) -> str:
    """Untrusted text for a terminal: one line without control characters."""
    return "".join(character if character.isprintable() else " " for character in text[:160])


def grade(manager: JobManager, course: Mapping[str, Task]) -> list[str]:
    """Grade all submissions at once and print a line for each as it ends; returns the surprises."""
    ended: SimpleQueue[JobResult] = SimpleQueue()
    running = {}
    for name, task in course.items():
        for path in sorted((COURSE / "submissions" / name).iterdir()):
            submission = Submission(path, task)
            running[manager.new_job(task, submission.answers, ended.put, launcher_name="course")] = submission
    print(f"{len(running)} submissions to {len(course)} tasks\n{HEADER}", flush=True)
    surprises = []
    while running:
        result = ended.get()
        submission = running.pop(result.job_id)
        print(f"{submission.name:<30} {result.outcome:<8} {result.grade:>5.0f}  {plain(result.text)}", flush=True)
        if submission.surprise(result):
            surprises.append(f"{submission.name}: {submission.surprise(result)}")
    return surprises


def main() -> int:
    parser = argparse.ArgumentParser(description="Grade the submissions in examples/course.")
    parser.add_argument("hosts", nargs="*", metavar="HOST_URL", help="Docker hosts (default: DOCKER_HOST, or the default socket)")
    parser.add_argument("--environment", help="an environment with Python and gcc (default: what each task.yaml says)")
    names = sorted(folder.name for folder in (COURSE / "tasks").iterdir())
    parser.add_argument("--task", action="append", choices=names, help="a task to grade, instead of all; may be given again")
    options = parser.parse_args()
    folders = [COURSE / "tasks" / name for name in options.task or names]
    course = {folder.name: Task.from_directory(folder, environment=options.environment) for folder in folders}

    with JobManager([DockerHost(url) for url in options.hosts] or None) as manager:
        surprises = grade(manager, course)
    print("\n".join(surprises) or "every submission ended as expected")
    return 1 if surprises else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except JobManagerError as problem:
        print(f"course: {problem}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("course: interrupted", file=sys.stderr)
        sys.exit(130)
