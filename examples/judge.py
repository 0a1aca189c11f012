"""A contest judge: each submission is compiled once, and run on all cases in one container; a checker or an interactor judges.

    python examples/judge.py [HOST_URL ...]
"""

import sys
from pathlib import Path

from rich.live import Live
from rich.table import Table

from jobmanager import Case, Checker, DockerHost, HookManager, Interactor, JobManager, JobResult, Limits, Outcome, Task
from jobmanager.events import CaseEnded

PROBLEMS = Path(__file__).parent / "problems"
LIMITS = Limits(cpu_time_s=1, wall_time_s=3, memory_mib=64, workspace_mib=16)
COMPILER = Limits(cpu_time_s=20, memory_mib=512, workspace_mib=16)
LANGUAGES = {  # by suffix: how to compile, and how to run
    ".c": (["gcc", "-O2", "-w", "-o", "main", "main.c"], ["./main"]),
    ".cpp": (["g++", "-O2", "-w", "-o", "main", "main.cpp"], ["./main"]),
    ".py": (["python3", "-m", "py_compile", "main.py"], ["python3", "main.py"]),
}
NAMES = {"cpu": "time limit", "wall": "time limit", "memory": "memory limit", "output": "output limit"}


def cases(problem: Path) -> list[Case]:
    """A problem's cases. It has a program that judges what was printed, or one that talks with the submission."""
    kind = Interactor if (problem / "interactor.py").exists() else Checker
    program = problem / f"{kind.__name__.lower()}.py"
    judges = Task("python3", command=["python3", "judges.py"], files={"judges.py": program}, limits=LIMITS)
    return [Case(path, name=path.stem, check=kind(judges)) for path in sorted((problem / "cases").glob("*.in"))]


def task(path: Path, cases: list[Case]) -> Task:
    build, command = LANGUAGES[path.suffix]
    files = {f"main{path.suffix}": path}
    return Task("python3", build=build, build_limits=COMPILER, command=command, files=files, cases=cases, limits=LIMITS)


def verdict(result: JobResult) -> str:
    if result.build is not None and result.build.outcome is not Outcome.SUCCESS:
        return "compile error"
    case = next((case for case in result.cases if case.outcome is not Outcome.SUCCESS), None)
    if case is None or case.run is None:
        return "accepted" if result.outcome is Outcome.SUCCESS else str(result.outcome)
    return "wrong answer" if case.correct is False else NAMES.get(case.run.limit or "", "run-time error")


def main() -> int:
    paths = {f"{path.parts[-3]}/{path.name}": path for path in sorted(PROBLEMS.glob("*/submissions/*"))}
    tasks = {name: task(path, cases(path.parents[1])) for name, path in paths.items()}
    expected = {name: path.read_text().split("expect: ", 1)[1].split("\n", 1)[0] for name, path in paths.items()}
    ended, said = dict.fromkeys(paths, 0), dict.fromkeys(paths, "...")
    hooks = HookManager()
    hooks.add(CaseEnded, lambda event: ended.update({event.job_id: ended[event.job_id] + 1}))

    def table() -> Table:
        view = Table("submission", "cases", "verdict", "expected")
        for name in paths:
            view.add_row(name, f"{ended[name]} of {len(tasks[name].cases)}", said[name], expected[name])
        return view

    with JobManager([DockerHost(url) for url in sys.argv[1:]] or None, hook_manager=hooks) as manager:
        jobs = {name: manager.submit(task, job_id=name) for name, task in tasks.items()}
        with Live(get_renderable=table, refresh_per_second=10):
            for name, job in jobs.items():
                said[name] = verdict(job.result())
    return 0 if said == expected else 1


if __name__ == "__main__":
    sys.exit(main())
