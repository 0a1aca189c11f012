"""Students: a program in a student container of its own, and in one that is kept, both in one grading job; and the job itself.

Then hidden tests, each with one call of the submission: a job with one of them, and what each further one adds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from benchmarks.figures import Figure, median
from benchmarks.overhead import wait_until_free
from benchmarks.place import by_version
from jobmanager import ClientSync, DockerHost, Grader, JobInput, JobManager, JobResult, Limits, Outcome, Task

ENVIRONMENT = "python3"
ROUNDS = 8
PROGRAMS = 5  # of each kind in a job
_MOST_OF_A_CONTAINER = 0.2
_LIMITS = Limits(memory_mib=64, cpu_time_s=60, wall_time_s=600)
_TAKES_TURNS = f"""
import time
import jobmanager_grading as grading

def taken(run):
    began = time.perf_counter()
    assert run(["true"]).exit_code == 0
    return time.perf_counter() - began

own, kept = [], []
with grading.open_submission(memory_mib=32) as submission:
    submission.run(["true"])
    for _ in range({PROGRAMS}):
        own.append(taken(lambda command: grading.run_student(command, memory_mib=32)))
        kept.append(taken(submission.run))
grading.set_custom("own", own)
grading.set_custom("kept", kept)
grading.set_result("success")
"""
_TESTS = 11
_TEST = "def test_{}(submission):\n    assert submission.call('same', 1) == 1\n"
_SUBMISSION = JobInput(files={"student/solution.py": "def same(given):\n    return given\n"})
_DOES_NOTHING = "import jobmanager_grading as grading\ngrading.set_result('success')\n"


def measure(urls: Sequence[str]) -> Iterator[Figure]:
    """For each version of the engine."""
    for version, url in by_version(urls):
        yield from _of_engine(version, url)


def _of_engine(version: str, url: str) -> Iterator[Figure]:
    own: list[float] = []
    kept: list[float] = []
    took_s: dict[str, list[float]] = {"job": [], "grading": []}
    sides = {"job": Task(ENVIRONMENT, command=["true"], limits=_LIMITS), "grading": _grading(_DOES_NOTHING)}
    with JobManager([DockerHost(url, name="host")]) as manager:
        for task in sides.values():
            _run(manager, task)
        for _ in range(ROUNDS):
            for name, task in sides.items():
                began = time.perf_counter()
                _run(manager, task)
                took_s[name].append(time.perf_counter() - began)
                wait_until_free(manager)
            custom = _run(manager, _grading(_TAKES_TURNS)).custom
            own += custom["own"]  # type: ignore[arg-type]
            kept += custom["kept"]  # type: ignore[arg-type]
            wait_until_free(manager)
        alone, more = _hidden_tests(manager)
    ratios = [cheap / dear for cheap, dear in zip(kept, own, strict=True)]
    yield median(f"a program in a student container of its own; {version}", own, "s")
    yield median(f"a program in one that is kept; {version}", [each * 1000 for each in kept], "ms")
    yield median(f"kept to its own, pair by pair; {version}", ratios, at_most=_MOST_OF_A_CONTAINER)
    yield median(f"a grading job without students; {version}", took_s["grading"], "s")
    yield median(f"a job that does nothing; {version}", took_s["job"], "s")
    for mode, each_s in alone.items():
        yield median(f"a job with one hidden test, {mode}; {version}", each_s, "s")
        yield median(f"a further hidden test, {mode}; {version}", [each * 1000 for each in more[mode]], "ms")


def _hidden_tests(manager: JobManager) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of a job with one test, and seconds that each further test adds, by how the tests call the submission."""
    alone: dict[str, list[float]] = {}
    more: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for mode, one_process in (("a fresh process each", False), ("one process", True)):
            took_s = []
            for tests in (1, _TESTS):
                grader = Grader.pytest(one_process=one_process, student_cpu_time_s=60)
                files = {"test_it.py": "\n".join(_TEST.format(number) for number in range(tests))}
                began = time.perf_counter()
                _run(manager, Task(ENVIRONMENT, grader=grader, files=files, limits=_LIMITS), _SUBMISSION)
                took_s.append(time.perf_counter() - began)
                wait_until_free(manager)
            alone.setdefault(mode, []).append(took_s[0])
            more.setdefault(mode, []).append((took_s[1] - took_s[0]) / (_TESTS - 1))
    return alone, more


def _grading(script: str) -> Task:
    grader = Grader(student_memory_mib=2 * _LIMITS.memory_mib, most_students=2)
    return Task(ENVIRONMENT, grader=grader, files={"run.py": script}, limits=_LIMITS)


def _run(manager: JobManager, task: Task, given: JobInput | None = None) -> JobResult:
    result = ClientSync(manager).new_job(task, given)
    if result.outcome is not Outcome.SUCCESS:
        raise RuntimeError(f"a job did not succeed: {result}")
    return result
