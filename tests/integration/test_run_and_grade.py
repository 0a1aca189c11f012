"""``jobmanager run`` and ``jobmanager grade`` as a person uses them: real processes, on a real engine."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from jobmanager import JobResult, Outcome
from jobmanager.command_line.run import CODES, OWN_CODE_IS_TAKEN
from tests.conftest import SLOWNESS, eventually, our_containers

pytestmark = pytest.mark.engine

PYTHON = "python3"
COURSE = Path(__file__).resolve().parents[2] / "examples" / "course"
TIMEOUT_S = 100 * SLOWNESS
PROGRAMS = {
    "ask.py": "import sys\nprint('got', sys.stdin.read(), flush=True)\nprint('no', file=sys.stderr)\nsys.exit(3)\n",
    "bytes.py": "import os\nos.write(1, bytes(range(256)))\nos.write(2, b'\\x1b[31m\\xff')\n",
    "segfault.py": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
    "greedy.py": "kept = bytearray(10**9)\n",
    "slow.py": "import time\ntime.sleep(1000)\n",
    "busy.py": "while True: pass\n",
    "loud.py": "while True: print('x' * 1000)\n",
    "taken.py": "raise SystemExit(124)\n",
    "env.py": "import os\nprint(os.environ['GREETING'], os.path.exists('env.py'))\nopen('made.txt', 'w').write('made')\n",
}


@pytest.fixture
def start(engine_url: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the command in a process and a folder of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(
        *arguments: object, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "jobmanager", *map(str, arguments)]
        environment = os.environ | {"DOCKER_HOST": engine_url, "PYTHONPATH": str(COURSE.parents[1]), "TERM": "xterm"}
        started.append(
            subprocess.Popen(
                words,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=environment,
                cwd=tmp_path,
                start_new_session=True,
            )
        )
        return started[-1]

    yield begin
    for each in started:
        if each.poll() is None:
            each.send_signal(signal.SIGINT)
        each.communicate(timeout=TIMEOUT_S)


@pytest.fixture
def ask(start: Callable[..., subprocess.Popen[bytes]]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command to its end: exit code, standard output, standard error."""

    def asked(*arguments: object, stdin: bytes | None = None) -> tuple[int, str, str]:
        process = start(*arguments, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE)
        out, err = process.communicate(stdin, timeout=TIMEOUT_S)
        return process.returncode, out.decode("utf-8", "backslashreplace"), err.decode("utf-8", "backslashreplace")

    return asked


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    return made(tmp_path, PROGRAMS)


Ask = Callable[..., tuple[int, str, str]]
Start = Callable[..., "subprocess.Popen[bytes]"]


def made(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def seen_on(terminal: int) -> str:
    """All that comes to a terminal, until nobody has its other end."""
    shown = b""
    with open(terminal, "rb", buffering=0) as ours:
        while True:
            try:
                shown += ours.read(4096)
            except OSError:  # EIO: the other end is closed
                return shown.decode()


# ---- run


def test_a_program_gets_its_files_and_input_and_gives_its_output_and_exit_code(ask: Ask, programs: Path) -> None:
    (programs / "in.txt").write_text("the input")
    options = ["--file", "ask.py", "--memory", "128"]

    of_a_file = ask("run", PYTHON, *options, "--stdin", "in.txt", "--", "python3", "ask.py")
    of_a_pipe = ask("run", PYTHON, *options, "--stdin", "-", "--", "python3", "ask.py", stdin=b"of a pipe")

    assert of_a_file[:2] == (3, "got the input\n")
    assert of_a_pipe[:2] == (3, "got of a pipe\n")
    said, verdict = of_a_file[2].splitlines()
    assert said == "no"
    assert verdict.startswith("jobmanager: failed: exit code 3 (")


def test_the_first_line_is_seen_while_the_program_still_runs(start: Start, engine_url: str, programs: Path) -> None:
    made(programs, {"live.py": "import time\nprint('first', flush=True)\ntime.sleep(1000)\n"})

    process = start("run", PYTHON, "--file", "live.py", "--", "python3", "live.py")
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"
    assert process.poll() is None
    assert our_containers(engine_url)

    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out, err) == (130, b"", b"\njobmanager: interrupted\n")
    assert our_containers(engine_url) == []
    assert family
    assert not any(child.is_running() for child in family)


def test_bytes_go_through_as_they_are(start: Start, programs: Path) -> None:
    process = start("run", PYTHON, "--quiet", "--file", "bytes.py", "--", "python3", "bytes.py")

    assert process.communicate(timeout=TIMEOUT_S) == (bytes(range(256)), b"\x1b[31m\xff")
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("program", "options", "code", "said"),
    [
        ("segfault.py", [], 128 + signal.SIGSEGV, "failed: killed by SIGSEGV"),
        ("greedy.py", ["--memory", "64"], CODES[Outcome.OVERFLOW], "overflow: memory limit of 64 MiB reached"),
        ("loud.py", ["--output", "10"], CODES[Outcome.OVERFLOW], "overflow: output limit of 10 KiB reached"),
        ("slow.py", ["--wall-time", "1"], CODES[Outcome.TIMEOUT], "timeout: wall clock limit of 1 s reached"),
        ("busy.py", ["--cpu-time", "0.5", "--wall-time", "60"], CODES[Outcome.TIMEOUT], "timeout: CPU time limit of 0.5 s reached"),
        ("taken.py", [], OWN_CODE_IS_TAKEN, "failed: exit code 124"),
        ("nothing.py", [], 2, "failed: exit code 2"),
    ],
)
def test_each_kind_of_end_has_its_code(ask: Ask, programs: Path, program: str, options: list[str], code: int, said: str) -> None:
    answer = ask("run", PYTHON, "--file", ".=" + str(programs), *options, "--", "python3", program)

    assert answer[0] == code, answer[2]
    assert f"jobmanager: {said}" in answer[2]


def test_a_program_that_is_not_there_is_a_crash_and_an_image_that_is_not_there_was_not_run(ask: Ask) -> None:
    crash = ask("run", PYTHON, "--", "no-such-program")
    not_run = ask("run", "no-such-image:1", "--", "true")

    assert (crash[0], "there is no 'no-such-program'" in crash[2]) == (CODES[Outcome.CRASH], True)
    assert (not_run[0], "no host has the environment or image 'no-such-image:1'" in not_run[2]) == (125, True)


def test_variables_go_in_and_files_come_back(ask: Ask, programs: Path, tmp_path: Path) -> None:
    code, out, err = ask(
        *("run", PYTHON, "--file", "env.py", "--env", "GREETING=good day", "--collect", "*.txt", "--archive-to", "back"),
        *("--", "python3", "env.py"),
    )

    assert (code, out) == (0, "good day True\n"), err
    assert (tmp_path / "back" / "made.txt").read_text() == "made"


def test_the_result_as_json_is_what_the_library_gives(ask: Ask, programs: Path) -> None:
    code, out, err = ask("run", PYTHON, "--json", "--file", "ask.py", "--", "python3", "ask.py")

    result = JobResult.from_json(out)
    assert (code, err) == (3, "")
    assert (result.outcome, result.exit_code, result.stdout, result.stderr) == (Outcome.FAILED, 3, b"got \n", b"no\n")
    assert result.peak_memory_mib is not None


def test_a_slow_reader_of_a_long_output_gets_all_of_it(start: Start, engine_url: str, programs: Path) -> None:
    """Far more than a manager keeps for a slow reader, and than a pipe holds."""
    made(programs, {"long.py": "import os\nfor n in range(200):\n    os.write(1, b'%099d\\n' % n * 1000)\nprint(flush=True)\n"})
    process = start("run", PYTHON, "--output", "30000", "--file", "long.py", "--", "python3", "long.py")
    assert process.stderr is not None
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 1) == b"0"
    eventually(lambda: not our_containers(engine_url), within_s=60, what="the program has ended, and nobody has read on")

    rest, err = process.communicate(timeout=TIMEOUT_S)

    assert len(rest) + 1 == 200 * 1000 * 100 + 1
    assert b"missing" not in err
    assert process.returncode == 0


def test_who_reads_no_more_ends_the_program_and_nothing_is_left(start: Start, engine_url: str, programs: Path) -> None:
    made(programs, {"drip.py": "import time\nwhile True: print('x' * 5000, flush=True); time.sleep(0.1)\n"})
    reading, writing = os.pipe()
    process = start("run", PYTHON, "--file", "drip.py", "--", "python3", "drip.py", stdout=writing)
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    os.close(reading)

    assert process.wait(TIMEOUT_S) == 128 + signal.SIGPIPE
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert our_containers(engine_url) == []


def test_a_terminal_is_not_obeyed_and_the_verdict_has_a_line_of_its_own(start: Start, programs: Path) -> None:
    made(programs, {"evil.py": "import os\nos.write(1, b'\\x1b]0;owned\\x07 and no end of the line')\n"})
    ours, theirs = pty.openpty()
    process = start("run", PYTHON, "--file", "evil.py", "--", "python3", "evil.py", stdout=theirs, stderr=theirs)
    os.close(theirs)
    printed, verdict = seen_on(ours).splitlines()

    assert process.wait(TIMEOUT_S) == 0
    assert printed == "\\x1b]0;owned\\x07 and no end of the line"
    assert "success" in verdict
    assert "\x1b[32m" in verdict, "in colour"


# ---- grade

TASK = """\
name: Twice
environment_id: python3
environment_parameters:
    limits: {time: 2, hard_time: 20, memory: 64}
problems:
    program: {type: code}
    hint: {type: code_single_line, optional: true}
"""
RUN = """\
#!/usr/bin/env python3
import jobmanager_grading as grading

with open("student/program.py", "w") as program:
    program.write(grading.get_input("program"))
end = grading.run_student("python3 student/program.py", stdin=b"21", cpu_time_s=1)
grading.set_test("twice", end.stdout.strip() == b"42")
grading.set_result("success" if end.stdout.strip() == b"42" else "failed")
grading.set_result("success" if end.stdout.strip() == b"42" else "failed", "program")
grading.set_feedback("You said: " + end.stdout.decode("utf-8", "replace"), "program")
"""
EVIL = "print('\\x1b]0;owned\\x07\\x1b[2J=1+1 <failure>]]>\\0', flush=True)\nwhile True: pass\n"


@pytest.fixture
def twice(tmp_path: Path) -> Path:
    return made(tmp_path / "twice", {"task.yaml": TASK, "run.py": RUN})


def test_a_folder_of_submissions_is_graded_the_hostile_and_the_broken_one_included(ask: Ask, twice: Path, tmp_path: Path) -> None:
    subs = made(
        tmp_path / "subs",
        {
            "ann/program.py": "print(2 * int(input()))\n",
            "bob/program.py": "print(input())\n",
            "eve/program.py": EVIL,
            "zoe/essay.txt": "not a program\n",
        },
    )
    (tmp_path / "subs" / "ian").mkdir()
    (tmp_path / "subs" / "ian" / "program.py").symlink_to("/etc/passwd")
    files = ["--csv", "out.csv", "--json", "out.json", "--junit", "out.xml"]

    code, out, err = ask("grade", "twice", "--submissions", "subs", *files)

    assert (code, err) == (1, "")
    assert "\x1b" not in out
    assert "5 submissions: 1 success, 2 failed, 2 refused" in out
    rows = {row["submission"]: row for row in csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text()))}
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "ann": "success",
        "bob": "failed",
        "eve": "failed",
        "ian": "refused",
        "zoe": "refused",
    }
    assert (rows["ann"]["grade"], rows["ann"]["tests passed"], rows["bob"]["tests failed"]) == ("100", "1", "twice")
    assert "You said: 42" in rows["ann"]["program: text"]
    assert "for no problem: the task has program, hint" in rows["zoe"]["text"]
    assert "is a link, which is not followed" in rows["ian"]["text"]
    said = json.loads((tmp_path / "out.json").read_text())
    assert JobResult.from_dict(said["submissions"][0]["result"]).tests == {"twice": True}
    suites = ElementTree.parse(tmp_path / "out.xml").getroot().findall("testsuite")
    assert [(suite.get("name"), suite.get("failures"), suite.get("errors")) for suite in suites] == [
        ("ann", "0", "0"),
        ("bob", "3", "0"),
        ("eve", "3", "0"),
        ("ian", "0", "1"),
        ("zoe", "0", "1"),
    ]
    assert "<failure>]]>" in ElementTree.tostring(suites[2], method="text", encoding="unicode")
    assert subs.is_dir()


def test_an_answer_of_a_file_and_one_of_a_text_are_graded(ask: Ask, tmp_path: Path) -> None:
    right = COURSE / "submissions" / "squares" / "right.py"
    squares = COURSE / "tasks" / "squares"

    good = ask("grade", squares, "--answer", f"program=@{right}", "--answer", "growth=1")
    bad = ask("grade", squares, "--answer", f"program=@{right}", "--answer", "growth=0")

    assert (good[0], good[2]) == (0, "")
    assert "growth: success" in good[1]
    assert "large: passed" in good[1]
    assert (bad[0], "A longer list takes longer." in bad[1]) == (1, True)


def test_the_course_is_graded_as_its_example_says(ask: Ask) -> None:
    """An upload with a name, code, random inputs that are given, and a file for each submission."""
    for task in ("report", "tail"):
        folder = COURSE / "submissions" / task
        expected = {path.name: path.read_text().partition("expect: ")[2].partition(",")[0].split()[0] for path in folder.iterdir()}

        code, out, err = ask("grade", COURSE / "tasks" / task, "--submissions", folder, "--json", "-")

        assert (code, err) == (1, "")
        outcomes = {each["submission"]: each["result"]["outcome"] for each in json.loads(out)["submissions"]}
        assert outcomes == expected
    mine = "sides=print(*[int(number * 6) + 1 for number in mine])"
    code, out, err = ask("grade", COURSE / "tasks" / "dice", "--answer", mine, "--answer", "@random=0.9,0.4")
    assert (code, "these are your sides" in out, err) == (0, True, "")


def test_a_change_is_graded_again_a_mistake_is_told_and_ctrl_c_leaves_nothing(
    start: Start, engine_url: str, twice: Path, tmp_path: Path
) -> None:
    (tmp_path / "answer.py").write_text("print(input())\n")
    watching = start("grade", "twice", "--answer", "program=@answer.py", "--watch", "--json", "out.json")

    def written() -> str:
        out = tmp_path / "out.json"
        return out.read_text() if out.exists() else ""

    def outcome() -> str | None:
        said = written()
        return json.loads(said)["submissions"][0]["result"]["outcome"] if said else None

    eventually(lambda: outcome() == "failed", within_s=60, what="the wrong answer is graded")
    (tmp_path / "answer.py").write_text("print(2 * int(input()))\n")
    eventually(lambda: outcome() == "success", within_s=60, what="the right answer is graded")

    (twice / "task.yaml").write_text(TASK.replace("{time: 2,", "{time: never,"))
    assert watching.stderr is not None
    assert b"task.yaml:4: environment_parameters.limits.time must be a number" in watching.stderr.readline()
    (twice / "task.yaml").write_text(TASK)
    (tmp_path / "out.json").unlink()
    eventually(lambda: outcome() == "success", within_s=60, what="the mended task is used")
    assert watching.poll() is None

    os.killpg(watching.pid, signal.SIGINT)
    out, err = watching.communicate(timeout=TIMEOUT_S)
    assert (watching.returncode, err) == (130, b"\njobmanager: interrupted\n")
    assert out.count(b"1 submission: ") == 3
    assert our_containers(engine_url) == []


def test_ctrl_c_while_submissions_are_graded_leaves_nothing(start: Start, engine_url: str, twice: Path, tmp_path: Path) -> None:
    made(tmp_path / "subs", {f"s{number}/program.py": "import time\ntime.sleep(1000)\n" for number in range(6)})
    grading = start("grade", "twice", "--submissions", "subs")
    eventually(lambda: len(our_containers(engine_url)) >= 2, within_s=60, what="jobs run")

    os.killpg(grading.pid, signal.SIGINT)
    out, err = grading.communicate(timeout=TIMEOUT_S)

    assert (grading.returncode, out, err) == (130, b"", b"\njobmanager: interrupted\n")
    assert our_containers(engine_url) == []


def test_a_terminal_shows_how_many_are_graded(start: Start, twice: Path, tmp_path: Path) -> None:
    made(tmp_path / "subs", {"ann.py": "print(42)\n", "bob/program": "print(42)\n"})
    made(twice, {"task.yaml": TASK.replace("    hint: {type: code_single_line, optional: true}\n", "")})
    ours, theirs = pty.openpty()
    grading = start("grade", "twice", "--submissions", "subs", "--json", "-", stderr=theirs)
    os.close(theirs)

    shown = seen_on(ours)

    assert grading.stdout is not None
    assert [each["result"]["outcome"] for each in json.loads(grading.stdout.read())["submissions"]] == ["success", "success"]
    assert "Twice" in shown
    assert "2/2" in shown


# ---- folders with cases, an interactor, hidden tests

CONTEST = COURSE.parent / "contest"
SUBMISSIONS = {
    "sum": {
        "right.c": "#include <stdio.h>\nint main(void) { long a, b; scanf(\"%ld %ld\", &a, &b); printf(\"%ld\\n\", a + b); }",
        "small.c": "#include <stdio.h>\nint main(void) { int a, b; scanf(\"%d %d\", &a, &b); printf(\"%d\\n\", a + b); }",
        "broken.c": "int main(void) { return x; }",
        "thief.c": "#include <stdlib.h>\nint main(void) { return system(\"cat cases/*.ans /task/cases/*.ans\"); }",
    },
    "guess": {
        "right.py": "low, high = 1, 100\nwhile True:\n    middle = (low + high) // 2\n    print(middle)\n    said = input()\n"
        "    if said == 'right': break\n    low, high = (middle + 1, high) if said == 'low' else (low, middle - 1)\n",
        "slow.py": "for number in range(1, 101):\n    print(number)\n    if input() == 'right': break\n",
        "mute.py": "import time\ntime.sleep(100)\n",
    },
    "median": {
        "right.py": "def median(n):\n    n = sorted(n); h = len(n) // 2\n"
        "    return n[h] if len(n) % 2 else (n[h - 1] + n[h]) / 2\n",
        "half.py": "def median(n):\n    return sorted(n)[len(n) // 2]\n",
        "leaves.py": "import os\nos._exit(0)\n",
    },
}
VERDICTS = {
    "sum": {"right.c": ("success", 100), "small.c": ("failed", 66.6667), "broken.c": ("failed", 0), "thief.c": ("failed", 0)},
    "guess": {"right.py": ("success", 100), "slow.py": ("failed", 25), "mute.py": ("timeout", 0)},
    "median": {"right.py": ("success", 100), "half.py": ("failed", 25), "leaves.py": ("failed", 0)},
}


@pytest.mark.parametrize("task", SUBMISSIONS)
def test_a_folder_with_cases_or_hidden_tests_grades_without_a_line_of_python(ask: Ask, tmp_path: Path, task: str) -> None:
    made(tmp_path / "handed-in", SUBMISSIONS[task])

    code, out, err = ask("grade", CONTEST / task, "--submissions", tmp_path / "handed-in", "--json", "-", "--junit", "out.xml")

    assert code == 1, err
    graded = {each["submission"]: each["result"] for each in json.loads(out)["submissions"]}
    assert {name: (each["outcome"], each["grade"]) for name, each in graded.items()} == VERDICTS[task], graded
    suites = {suite.get("name"): suite for suite in ElementTree.parse(tmp_path / "out.xml").getroot()}
    tests = {test.get("name"): [each.tag for each in test] for test in next(s for n, s in suites.items() if n and "right" in n)}
    assert len(tests) >= 3 and not {"failure", "error"}.intersection(*tests.values())
