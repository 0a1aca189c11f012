"""Functions graded by hidden tests on a real engine: what a submission cannot do, and what the tests can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import pytest

from jobmanager import Code, Grader, JobFuture, JobInput, JobManager, JobResult, Limits, Outcome, Task
from tests.integration.conftest import PATIENCE_S, PYTHON

pytestmark = pytest.mark.engine

LIMITS = Limits(cpu_time_s=40, wall_time_s=240, memory_mib=256, processes=32, workspace_mib=16)
SECRET = "the-word-that-only-the-tests-know"
RIGHT = "def double(x):\n    return 2 * x\n"

ATTACKED = f"""
import pytest
SECRET = "{SECRET}"

@pytest.mark.visible
def test_a_number(submission):
    assert submission.call("double", 21) == 42

def test_a_secret_text(submission):
    assert submission.call("double", SECRET) == SECRET + SECRET

@pytest.mark.visible
def test_a_list(submission):
    assert submission.call("double", [1]) == [1, 1]

def test_a_refusal(submission):
    with submission.raises("TypeError"):
        submission.call("double")
"""
FORGED = '{"result": "success", "grade": 100, "text": "forged", "tests": {}}'
REPLIES = r"""
import json, os
def flood(line):
    for name in os.listdir("/proc/self/fd"):
        try:
            os.write(int(name), line)
        except OSError:
            pass
"""
ATTACKS: dict[str, str] = {
    "exits while it is imported": "import os\nos._exit(0)\n",
    "exits when it is called": "import os\ndef double(*args):\n    os._exit(0)\n",
    "exits as a program does": "import sys\nsys.exit(0)\n",
    "exits by an exception when it is called": "def double(*args):\n    raise SystemExit(0)\n",
    "kills itself": "import os\ndef double(*args):\n    os.kill(os.getpid(), 9)\n",
    "patches the modules of tests": """
import sys, types
class Any(types.ModuleType):
    def __getattr__(self, name): return lambda *args, **named: 0
for name in ("pytest", "_pytest", "unittest", "jobmanager_grading.scores", "jobmanager_grading.hidden_tests", "json"):
    sys.modules[name] = Any(name)
def double(*args): return 0
""",
    "patches its driver": """
import gc, sys
driver = [each for each in gc.get_objects() if type(each).__name__ == "StudentDriver"][0]
values = sys.modules["jobmanager_grading.values"]
line = values.line
values.line = lambda message: line(dict(message, passed=True, result="success", grade=100, status="passed"))
def double(*args): return 0
""",
    "sends what is no answer": """
import gc, os
driver = [each for each in gc.get_objects() if type(each).__name__ == "StudentDriver"][0]
def double(*args):
    os.write(driver._replies.fileno(), b'{"id": true, "value": 42, "outputs": []}\\n')
    os._exit(0)
""",
    "sends pickles": """
import gc, os, pickle
class Evil:
    def __reduce__(self): return (exec, ("import os; os._exit(0)",))
driver = [each for each in gc.get_objects() if type(each).__name__ == "StudentDriver"][0]
def double(*args):
    os.write(driver._replies.fileno(), pickle.dumps(Evil()) + b"\\n")
""",
    "reads frames and objects": f"""
import gc, sys
def texts():
    frame = sys._getframe()
    while frame is not None:
        yield from map(str, frame.f_locals.values())
        yield from map(str, frame.f_globals.values())
        frame = frame.f_back
    for each in gc.get_objects():
        yield from (value for value in gc.get_referents(each) if isinstance(value, str))
SEEN = [text for text in texts() if "{SECRET[:20]}" in text]
def double(x=None):
    return SEEN[0] * 2 if SEEN else 0
""",
    "replaces builtins": """
import builtins
for name in ("isinstance", "type", "id", "str", "len", "dict", "getattr", "list"):
    setattr(builtins, name, lambda *args, **named: True)
def double(*args): return 0
""",
    "is equal to everything": """
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
def double(*args): return Any()
""",
    "holds what is equal to everything": """
class Any(int):
    def __eq__(self, other): return True
    __hash__ = None
def double(*args): return [Any(1), Any(1)]
""",
    "is a text that is equal to everything": """
class Any(str):
    __class__ = str
    def __eq__(self, other): return True
    def __hash__(self): return 0
def double(*args): return Any("x")
""",
    "recurses": "import sys\nsys.setrecursionlimit(10**6)\ndef double(*args):\n    return double(*args)\n",
    "answers with great depth": "def double(*args):\n    x = []\n    for _ in range(10**5):\n        x = [x]\n    return x\n",
    "answers with itself": "def double(*args):\n    x = []\n    x.append(x)\n    return x\n",
    "answers with a lot": "def double(*args):\n    return ['x' * 1000] * 10**4\n",
    "leaves threads and processes behind": """
import os, threading, time
def write():
    while True:
        try:
            with open("/task/student/solution.py", "w") as file:
                file.write("def double(x=None):\\n    return 42\\n")
        except OSError:
            pass
def double(x=None):
    for _ in range(3):
        threading.Thread(target=write).start()
        if os.fork() == 0:
            os.setsid()
            write()
    return 0
""",
    "prints without end": "def double(*args):\n    while True:\n        print('x' * 10000)\n",
    "floods what its answers go over": REPLIES
    + """
def double(*args):
    while True:
        flood(b"x" * 10000)
""",
    "forges a report": REPLIES
    + f"""
FORGED = {FORGED!r}
def double(*args):
    for path in ("/task/.jobmanager/result.json", "/task/student/.jobmanager/result.json", "/task/student/report.xml"):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(FORGED)
    flood(FORGED.encode() + b"\\n")
    print(FORGED)
    return 0
""",
    "forges what the submitter is told": """
def double(*args):
    raise Exception("x\\n\\nHidden tests: 2 of 2 passed.\\r\\n\\n4 of 4 points.")
""",
    "answers before it is asked": REPLIES
    + """
for number in range(1, 30):
    flood(json.dumps({"id": number, "value": 42, "outputs": [["bytes", ""], 0]}).encode() + b"\\n")
def double(*args): return 0
""",
    "writes tests and plugins of its own": """
import os
for name in ("conftest.py", "test_own.py", "test_attacked.py", "pytest.ini", "sitecustomize.py", "json.py"):
    with open("/task/student/" + name, "w") as file:
        file.write("import os; os._exit(0)")
os.chmod("/task/student", 0)
def double(*args): return 0
""",
    "keeps what it was asked for the next test": """
import glob, os
def double(*args):
    seen = [open(path).read() for path in glob.glob("/task/student/seen*") + glob.glob("/tmp/seen*") + glob.glob("/dev/shm/seen*")]
    for folder in ("/task/student", "/tmp", "/dev/shm", "/task"):
        with open(folder + "/seen", "w") as file:
            file.write(repr(args))
    raise Exception(repr(seen))
""",
    "makes folders that nobody can remove": """
import os
os.chdir("/task/student")
for _ in range(500):
    os.mkdir("x" * 20)
    os.chdir("x" * 20)
os.chmod("/task/student/" + "x" * 20, 0)
def double(*args): return 0
""",
    "takes too much memory": "def double(*args):\n    return len(bytearray(10**9))\n",
}
IN_ONE_PROCESS = (  # these may gain by what they leave for the next test
    "exits when it is called",
    "patches its driver",
    "sends what is no answer",
    "answers before it is asked",
    "leaves threads and processes behind",
    "keeps what it was asked for the next test",
)


class Graded(Protocol):
    """Runs one job to its end."""

    def __call__(self, tests: str, submission: str = RIGHT, grader: Grader | None = None, **task: Any) -> JobResult: ...


def submitted(
    manager: JobManager, tests: str, submission: str, grader: Grader, files: Mapping[str, str] | None = None, **task: Any
) -> JobFuture:
    made = Task(
        PYTHON,
        grader=grader,
        files={"test_attacked.py": tests, **(files or {})},
        problems={"code": Code("student/solution.py")},
        **{"limits": LIMITS, **task},
    )
    return manager.submit(made, {"code": submission})


@pytest.fixture
def graded(shared_manager: JobManager) -> Graded:
    """Grades one submission."""

    def result(tests: str, submission: str = RIGHT, grader: Grader | None = None, **task: Any) -> JobResult:
        return submitted(shared_manager, tests, submission, grader or Grader.pytest(), **task).result(PATIENCE_S * 3)

    return result


RUNS = [(name, False) for name in ATTACKS] + [(name, True) for name in IN_ONE_PROCESS]


@pytest.fixture(scope="module")
def attacks(shared_manager: JobManager) -> dict[tuple[str, bool], JobResult]:
    """What became of every attack, with a process for each test or one for all."""
    jobs = {
        (name, one): submitted(shared_manager, ATTACKED, ATTACKS[name], Grader.pytest(cpu_time_s=1, one_process=one))
        for name, one in RUNS
    }
    return {run: job.result(PATIENCE_S * 10) for run, job in jobs.items()}


@pytest.mark.parametrize(("name", "one_process"), RUNS)
def test_an_attack_passes_no_test_and_reads_none(attacks: dict[tuple[str, bool], JobResult], name: str, one_process: bool) -> None:
    # when: a submission attacks its tests instead of passing them
    result = attacks[name, one_process]
    # then: it is judged all the same, and no test is passed
    assert (result.outcome, result.grade) == (Outcome.FAILED, 0), (result.text, result.stderr_text)
    assert result.text.splitlines()[0] == "0 of 4 points."
    assert [line for line in result.text.splitlines() if line.startswith("Hidden")] == ["Hidden tests: 0 of 2 passed."]
    assert {test["status"] for test in result.tests.values()} == {"failed"}  # type: ignore[index]
    # and nothing of a hidden test is told to the submitter
    assert SECRET not in result.text and "secret" not in result.text
    assert [test["output"] for test in result.tests.values() if test["hidden"]] == ["", ""]  # type: ignore[index]


def test_a_submission_that_passes_all_of_them_has_all_points(graded: Graded) -> None:
    result = graded(ATTACKED)
    assert (result.outcome, result.grade) == (Outcome.SUCCESS, 100), (result.text, result.stderr_text)
    assert "Hidden tests: 2 of 2 passed." in result.text and SECRET not in result.text


@pytest.mark.parametrize("one_process", [False, True])
def test_the_smallest_limits_that_are_accepted_are_enough_for_the_tests_themselves(graded: Graded, one_process: bool) -> None:
    smallest = replace(LIMITS, processes=8, memory_mib=48, output_kib=256)
    result = graded(ATTACKED, grader=Grader.pytest(one_process=one_process), limits=smallest)
    assert (result.outcome, result.grade) == (Outcome.SUCCESS, 100), (result.text, result.stderr_text, result.evidence)


def test_a_grading_container_that_is_short_of_processes_fails_no_test(graded: Graded) -> None:
    # given: tests that have taken all the processes that their own container may have
    tests = """
import os, threading
def test_it(submission):
    stop = threading.Event()
    try:
        while True:
            threading.Thread(target=stop.wait, daemon=True).start()
    except RuntimeError:
        pass
    try:
        assert submission.call("double", 1) == 2
    finally:
        stop.set()
"""
    result = graded(tests)
    # then: nothing is said of the submission, and the author finds the reason
    assert (result.outcome, result.text, result.tests) == (Outcome.OVERFLOW, "limit of 32 processes reached", {}), result
    assert "the tests' own container is short of processes" in result.stderr_text


VALUES = """
import math
from jobmanager_grading import BadValue, SubmissionEnded, SubmissionError
import pytest

VALUES = [
    None, True, False, 0, -1, 2**53 + 1, -(10**300), 1.5, -0.0, float("inf"), -float("inf"), "", "a\\n\\x00\\u20ac\\U0001f600",
    "\\ud800", b"", bytes(range(256)), [], [1, [2, [3]]], (), (1, (2,)), {}, {"a": 1, 2: [3], (4, b"5"): {6}}, set(), {1, "2"},
    frozenset([(1,)]),
]

@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_as_it_was_sent(submission, value):
    back = submission.call("same", value)
    assert back == value and type(back) is type(value)

def test_a_number_that_is_none(submission):
    assert math.isnan(submission.call("same", math.nan))

def test_objects_stay_where_they_are(submission):
    stack = submission.call("Stack", 1, 2)
    assert stack.push(3) is None and stack.items == [1, 2, 3] and submission.call("builtins.len", stack) == 3
    assert stack != submission.call("Stack", 1, 2, 3) and stack == submission.call("same", stack)
    assert submission.call("Stack.of", 7).items == [7] and repr(stack) == "<Stack of the submission>"
    with pytest.raises(TypeError, match="neither true nor false"):
        assert stack
    with pytest.raises(SubmissionError, match="AttributeError"):
        stack.pop
    assert not hasattr(stack, "_private")

def test_a_list_can_be_changed_in_place(submission):
    numbers = submission.keep([3, 1, 2])
    assert submission.call("sort", numbers) is None and submission.value(numbers) == [1, 2, 3]
    assert submission.value(submission.call("Counted", "aab")) == {"a": 2, "b": 1}

def test_variables_and_streams(submission):
    assert submission.get("LIMIT") == 3 and submission.stdout == "loaded\\n"
    submission.stdin = "Ann\\n"
    assert submission.call("greet", end="!") is None
    assert (submission.stdout, submission.stderr) == ("name? hello Ann!", "warned\\n")
    submission.call("same", 1)
    assert submission.stdout == ""

def test_a_whole_program(submission):
    assert submission.run("a", "b", stdin="Bob\\n") == "loaded\\nname? hello Bob ['a', 'b']\\n"

def test_an_exception_has_its_class_text_and_place(submission):
    with submission.raises("LookupError") as raised:
        submission.call("fail")
    assert raised.error.kinds[0] == "KeyError" and raised.error.message == "'nothing'" and "in fail" in raised.error.traceback
    with pytest.raises(SubmissionError, match="^KeyError: 'nothing'$"):
        submission.call("fail")
    with pytest.raises(AssertionError, match="did not raise KeyError"), submission.raises("KeyError"):
        submission.call("same", 1)

def test_what_cannot_be_sent_is_refused(submission):
    for value in (object(), print, 1j, [range(3)]):
        with pytest.raises(BadValue, match="only values and handles"):
            submission.call("same", value)
    with pytest.raises(BadValue, match="KiB"):
        submission.call("same", "x" * 2**21)

@pytest.mark.limits(cpu_time_s=1)
def test_the_cpu_limit_is_named(submission):
    with pytest.raises(SubmissionEnded, match="timeout: .*CPU"):
        submission.call("loop")
    assert submission.call("same", 1) == 1

def test_the_clock_is_named(submission):
    kept = submission.keep([])
    submission.wall_time_s = 1
    with pytest.raises(SubmissionEnded, match="no answer within 1 s"):
        submission.call("sleep")
    submission.wall_time_s = 60
    with pytest.raises(BadValue, match="a process that has ended"):
        submission.call("same", kept)

def test_other_limits_are_named(submission):
    with pytest.raises(SubmissionEnded, match="overflow: .*memory") as greedy:
        submission.call("grab")
    assert greedy.value.limit == "memory"
    with pytest.raises(SubmissionEnded, match="overflow: it printed more than 1024 KiB"):
        submission.call("print_much")
    with pytest.raises(SubmissionEnded, match="failed: it ended before it answered: exit code 3") as ended:
        submission.call("leave")
    assert ended.value.outcome == "failed"

def test_no_test_sees_what_another_one_did(submission):
    assert submission.call("count") == 1

def test_no_test_sees_what_another_one_did_after_it(submission):
    assert submission.call("count") == 1
"""
VALUED = """
import collections, os, sys, time
print("loaded")
LIMIT = 3
def same(x): return x
class Stack:
    def __init__(self, *items): self.items = list(items)
    def push(self, item): self.items.append(item)
    def __len__(self): return len(self.items)
    def __eq__(self, other): return True
    @classmethod
    def of(cls, item): return cls(item)
    @property
    def _private(self): return 1
class Counted(collections.Counter): pass
def sort(items): items.sort()
def greet(end):
    print("name? hello", input(), end=end)
    print("warned", file=sys.stderr)
def fail(): return {}["nothing"]
def loop():
    while True: pass
def sleep(): time.sleep(100)
def grab(): return bytearray(10**9)
def print_much(): os.write(1, b"x" * 2**21)
def leave(): os._exit(3)
def count():
    with open("count", "a+") as file:
        file.write("x")
        file.seek(0)
        return len(file.read())
if __name__ == "__main__":
    print("name? hello", input(), sys.argv[1:])
"""


def test_values_objects_exceptions_streams_and_limits(graded: Graded) -> None:
    result = graded(VALUES, VALUED, Grader.pytest(wall_time_s=60, student_cpu_time_s=60))
    assert (result.outcome, result.grade) == (Outcome.SUCCESS, 100), (result.text, result.stderr_text)


POINTS = """
import pytest
pytestmark = pytest.mark.visible

@pytest.mark.points(4)
@pytest.mark.message("Think of lists.")
def test_some(submission, credit):
    for done, value in enumerate([1, 2, "no"]):
        credit(done)
        assert submission.call("double", value) == 2 * value

@pytest.mark.points(3)
@pytest.mark.group("pair")
def test_one_of_a_pair(submission):
    assert submission.call("double", 1) == 2

@pytest.mark.points(1)
@pytest.mark.group("pair")
@pytest.mark.hidden
def test_the_other(submission):
    assert submission.call("double", "a") == "aa", "a hidden text"

def test_a_reason(submission):
    assert submission.call("double", "b") == "bb"

@pytest.mark.skip(reason="not this year")
@pytest.mark.points(50)
def test_not_this_year(submission):
    pass
"""
UNIT_POINTS = """
import unittest
from jobmanager_grading.unit_tests import SubmissionTest, group, hidden, limits, message, points, visible

@visible
class Doubles(SubmissionTest):
    @points(4)
    @message("Think of lists.")
    def test_some(self):
        for done, value in enumerate([1, 2, "no"]):
            self.credit(done)
            self.assertEqual(self.submission.call("double", value), 2 * value)

    @points(3)
    @group("pair")
    @limits(cpu_time_s=1)
    def test_one_of_a_pair(self):
        self.assertEqual(self.submission.call("double", 1), 2)

    @points(1)
    @group("pair")
    @hidden
    def test_the_other(self):
        self.assertEqual(self.submission.call("double", "a"), "aa", "a hidden text")

    def test_a_reason(self):
        self.assertEqual(self.submission.call("double", "b"), "bb")

    @points(50)
    @unittest.skip("not this year")
    def test_not_this_year(self):
        pass
"""
ONLY_NUMBERS = "def double(x):\n    return 2 * x if isinstance(x, int) else 0\n"


@pytest.mark.parametrize(
    ("tests", "grader"), [(POINTS, Grader.pytest()), (UNIT_POINTS, Grader.unittest())], ids=["pytest", "unittest"]
)
def test_points_groups_partial_credit_messages_and_what_is_shown(graded: Graded, tests: str, grader: Grader) -> None:
    result = graded(tests, ONLY_NUMBERS, grader)
    # 2 of 4 by partial credit; the pair is not whole; the reason gives nothing; what is skipped counts for nothing
    assert (result.outcome, result.grade) == (Outcome.FAILED, pytest.approx(100 * 2 / 9)), (result.text, result.stderr_text)
    assert "2 of 9 points." in result.text
    assert "test_some: failed (2 of 4 points)\nThink of lists." in result.text
    assert "test_one_of_a_pair: passed (0 of 3 points, with all tests of 'pair')" in result.text
    assert "test_a_reason: failed (0 of 1 points)" in result.text and "'bb'" in result.text
    assert "not_this_year: skipped" in result.text
    assert "Hidden tests: 0 of 1 passed." in result.text
    assert "the_other" not in result.text and "a hidden text" not in result.text and "'aa'" not in result.text
    by_name = {name.rpartition("test_")[2]: test for name, test in result.tests.items()}
    assert by_name["some"]["points"] == 2 and by_name["some"]["max_points"] == 4  # type: ignore[index]
    assert by_name["not_this_year"]["status"] == "skipped"  # type: ignore[index]
    assert by_name["the_other"]["hidden"] is True and by_name["the_other"]["output"] == ""  # type: ignore[index]
    assert "a hidden text" in result.stderr_text  # for people of the course


def test_unittest_needs_no_pytest_and_withstands_the_same(graded: Graded) -> None:
    tests = """
from jobmanager_grading import SubmissionEnded
from jobmanager_grading.unit_tests import SubmissionTest, visible

class Doubles(SubmissionTest):
    @visible
    def test_a_number(self):
        self.assertEqual(self.submission.call("double", 21), 42)
"""
    without_pytest = {"env": {"PYTHONPATH": "/task/shadow"}, "files": {"shadow/pytest.py": "raise ImportError('none')\n"}}
    right = graded(tests, RIGHT, Grader.unittest(), **without_pytest)
    exits = graded(tests, ATTACKS["exits when it is called"], Grader.unittest())
    lies = graded(tests, ATTACKS["is equal to everything"], Grader.unittest(one_process=True))
    refused = graded(ATTACKED, RIGHT, Grader.pytest(), **without_pytest)

    assert (right.outcome, right.grade) == (Outcome.SUCCESS, 100), right.stderr_text
    assert (exits.outcome, exits.grade) == (lies.outcome, lies.grade) == (Outcome.FAILED, 0)
    assert "failed: it ended before it answered: exit code 0" in exits.text
    assert refused.outcome is Outcome.ERROR and "the image has no pytest" in refused.stderr_text


OF_THE_COURSE = {
    "cannot be imported": "import no_such_module\n",
    "is no Python": "def test(:\n",
    "exits": "import os, sys\nsys.exit(0)\n",
    "ends the process": "import os\nos._exit(0)\n",
    "has no tests": "x = 1\n",
    "has no points": "import pytest\n@pytest.mark.points(0)\ndef test_it(submission): pass\n",
    "skips all": "import pytest\n@pytest.mark.skip\ndef test_it(submission): pass\n",
    "has points that are no number": "import pytest\n@pytest.mark.points('x')\ndef test_it(submission): pass\n",
    "leaves in the middle": "import pytest\ndef test_it(submission): pytest.exit('enough')\n",
}


@pytest.mark.parametrize("name", OF_THE_COURSE)
@pytest.mark.parametrize("grader", [Grader.pytest(), Grader.unittest()], ids=["pytest", "unittest"])
def test_tests_that_cannot_be_run_are_an_error_of_the_course_and_no_grade(graded: Graded, name: str, grader: Grader) -> None:
    result = graded(OF_THE_COURSE[name], grader=grader)
    assert (result.outcome, result.grade) == (Outcome.ERROR, 0), (result.text, result.stderr_text)
    assert "That is a fault of the task" in result.text and SECRET not in result.text


MISTAKES = {
    "an unknown fixture": "def test_it(submision): pass\n",
    "an unknown mark": "import pytest\n@pytest.mark.visibel\ndef test_it(submission): pass\n",
    "an unknown name": "def test_it(submission): submission.call('double', nums)\n",
    "too much credit": "def test_it(submission, credit): credit(2)\n",
    "credit that is no number": "def test_it(submission, credit): credit('x')\n",
    "an argument that cannot be sent": "def test_it(submission): submission.call('double', object())\n",
    "no name of an exception": "def test_it(submission):\n with submission.raises(3): submission.call('double', None)\n",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_a_test_is_no_failure_of_the_submission(graded: Graded, mistake: str) -> None:
    result = graded(MISTAKES[mistake], RIGHT, Grader.pytest())
    assert (result.outcome, result.grade) == (Outcome.ERROR, 0), (result.text, result.stderr_text)
    assert "That is a fault of the task" in result.text


def test_a_message_is_followed_by_what_the_submission_raised_and_a_limit_can_be_read(graded: Graded) -> None:
    tests = """
import pytest

@pytest.mark.visible
@pytest.mark.message("double(21) is 42.")
def test_it(submission):
    assert submission.call("double", 21) == 42

def test_an_exception_may_be_given_by_its_class(submission):
    with submission.raises(SyntaxError):
        submission.call("double", 21)
"""
    broken = graded(tests, "def double(x) return 2 * x\n", Grader.pytest())
    assert "double(21) is 42.\nSyntaxError" in broken.text and broken.grade == 50, broken.text

    greedy = graded(tests, "def double(x): return bytearray(10**9)\n", Grader.pytest())
    limits = [test["limit"] for test in greedy.tests.values()]  # type: ignore[index]
    assert limits == ["memory", "memory"], greedy.tests


def test_a_student_container_that_cannot_be_had_is_no_fault_of_the_submission(graded: Graded) -> None:
    # given: tests that have taken all the memory that student containers may have
    tests = """
import jobmanager_grading as grading
other = grading.open_submission()
assert other.run(["true"]).outcome == "success"
def test_it(submission):
    assert submission.call("double", 1) == 2
"""
    result = graded(tests)
    assert (result.outcome, result.grade) == (Outcome.ERROR, 0), (result.text, result.stderr_text)
    assert "Python cannot be started in the student container" in result.stderr_text


@pytest.mark.parametrize("grader", [Grader.pytest(), Grader.unittest()], ids=["pytest", "unittest"])
def test_the_flood_of_a_submission_does_not_cost_the_grade(graded: Graded, grader: Grader) -> None:
    # given: a submission whose answers and exceptions are large, in many tests
    tests = """
from jobmanager_grading.unit_tests import SubmissionTest
class Flooded(SubmissionTest):
    def _test_it(self):
        print("o" * 300000)
        raise AssertionError(self.submission.call("big"))
    def _test_that(self):
        self.assertEqual(self.submission.call("big"), self.submission.call("fail"))
for n in range(4):
    setattr(Flooded, f"test_it_{n}", Flooded._test_it)
    setattr(Flooded, f"test_that_{n}", Flooded._test_that)
"""
    if grader == Grader.pytest():
        tests = """
import pytest
@pytest.mark.parametrize("n", range(8))
def test_it(submission, n):
    print("o" * 300000)
    if n % 2:
        raise AssertionError(submission.call("big"))
    assert submission.call("big") == submission.call("fail")
"""
    big = "def big(): return 'x\\n' * 200000\ndef fail(): raise Exception('y' * 10**6)\n"
    result = graded(tests, big, grader)
    # then: what is printed of it is bounded
    assert (result.outcome, result.grade) == (Outcome.FAILED, 0), (result.text, result.stderr_text[-3000:])
    assert "[more was printed, and is left out]" in result.stderr_text


def test_a_job_brings_files_for_the_submission_only(shared_manager: JobManager, graded: Graded) -> None:
    # given: helpers that a submission imports, and a conftest.py of its own, which no test may see
    tests = "def test_it(submission):\n    assert submission.call('double', 2) == 4\n"
    task = Task(PYTHON, grader=Grader.pytest("main.py"), files={"test_it.py": tests}, limits=LIMITS)
    files = {"main.py": "from part import double\n", "part.py": RIGHT, "conftest.py": "import os\nos._exit(0)\n"}
    files |= {"test_mine.py": "def test_mine(): pass\n", "pytest.ini": "[pytest]\naddopts = --no-such-option\n"}
    # when:
    job = shared_manager.submit(task, JobInput(files={f"student/{name}": code for name, code in files.items()}))
    # then:
    result = job.result(PATIENCE_S)
    assert (result.outcome, result.grade) == (Outcome.SUCCESS, 100), (result.text, result.stderr_text)
    assert list(result.tests) == ["test_it.py::test_it"]
