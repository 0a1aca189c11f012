"""One client of the demo's cluster: hands in programs of a class, and prints a JSON line for everything that it hears of them.

    JOBMANAGER_REDIS_URL=... JOBMANAGER_KEY_FILE=... python examples/cluster/hand_in.py --client lab-a --count 100

Each program is run on three tests in one container. The expected answers never leave this process. The first line of a
program states its expected outcome, for example `# expect: failed, wrong answer`.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import threading
from pathlib import Path

from jobmanager import HookManager, JobManagerError, JobResult, Limits, Outcome, Task
from jobmanager.events import JobPlaced
from jobmanager.remote import ClusterTimeouts, RemoteClient

SUBMISSIONS = Path(__file__).parent.parent / "submissions"
LIMITS = Limits(cpu_time_s=2, wall_time_s=20, memory_mib=128, processes=32, workspace_mib=16, output_kib=64)
TESTS = (("3\n1 2 3\n", "6"), ("4\n-7 0 7 5\n", "5"), ("2\n2000000000 2000000000\n", "4000000000"))
ON_EACH_TEST = "for test in 1 2 3; do {} < $test.in || exit; done"
LANGUAGES = {  # by suffix: the file's name and the command in the container
    ".py": ("main.py", ON_EACH_TEST.format("python3 main.py")),
    ".c": ("main.c", "gcc -O2 -fdiagnostics-plain-output -o main main.c && " + ON_EACH_TEST.format("./main")),
}
OFTEN = {"right.py": 20, "right.c": 8, "wrong.py": 8, "wrong.c": 3, "exit_code.py": 3}  # for one of each other one
_printing = threading.Lock()


def say(what: str, **more: object) -> None:
    """A line for whoever has started this."""
    with _printing:
        print(json.dumps({"what": what, **more}), flush=True)


def tasks(environment: str) -> dict[str, Task]:
    """One for each program; a job's result may come from a second run, should the first one's node be lost."""
    inputs = {f"{number}.in": stdin for number, (stdin, _) in enumerate(TESTS, start=1)}
    found = {}
    for path in sorted(SUBMISSIONS.iterdir()):
        filename, command = LANGUAGES[path.suffix]
        files = {filename: path, **inputs}
        found[path.name] = Task(environment, command=command, files=files, limits=LIMITS, name=path.name, retries=2)
    return found


def judged(result: JobResult) -> tuple[Outcome, str]:
    """A job's outcome, or `failed` when the program ended well and an answer is wrong."""
    if result.outcome is Outcome.SUCCESS and result.stdout_text.split() != [answer for _, answer in TESTS]:
        return Outcome.FAILED, "wrong answer"
    complaint = result.stderr_text.strip().rpartition("\n")[2] if result.outcome is Outcome.FAILED else ""
    return result.outcome, f"{result.text}: {complaint}"


def surprise(program: str, result: JobResult) -> str:
    """The difference from the expectation in the program's first line; empty if there is none."""
    with (SUBMISSIONS / program).open() as source:
        expected = re.match(r"\S+ expect: (\w+)(?:, (.+))?$", source.readline())
    outcome, text = judged(result)
    if expected is None or (outcome == expected[1] and (expected[2] or "") in text):
        return ""
    return f"{program} must be {expected[0].split(': ', 1)[1]}; it is {outcome}, {text}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Hand in programs of a class.")
    parser.add_argument("--client", required=True, help="a name: results wait for it, should this process die")
    parser.add_argument("--count", type=int, default=100, help="how many programs (default: %(default)s)")
    parser.add_argument("--environment", default="python3", help="an environment with Python and gcc (default: %(default)s)")
    parser.add_argument("--timeouts", type=json.loads, default={}, help="fields of ClusterTimeouts, as JSON")
    options = parser.parse_args()
    programs = tasks(options.environment)
    chosen = random.Random(options.client).choices(list(programs), [OFTEN.get(name, 1) for name in programs], k=options.count)

    def ended(result: JobResult) -> None:
        program = chosen[int(result.job_id.rpartition("-")[2]) - 1]
        difference = surprise(program, result)
        say("ended", job=result.job_id, outcome=result.outcome.value, host=result.host, surprise=difference)

    hooks = HookManager()
    hooks.add(JobPlaced, lambda placed: say("placed", job=placed.job_id, host=placed.host))
    timeouts = ClusterTimeouts(**options.timeouts)
    with RemoteClient(client_id=options.client, hook_manager=hooks, timeouts=timeouts) as client:
        for number, program in enumerate(chosen, start=1):
            job_id = f"{options.client}-{number}"
            client.new_job(programs[program], None, ended, job_id=job_id, launcher_name=options.client)
            say("accepted", job=job_id)
    say("left")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except JobManagerError as problem:
        print(f"{problem}", file=sys.stderr)
        sys.exit(2)
