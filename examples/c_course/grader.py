"""The test phase: runs the submission in a student container for each test, and writes the test report."""

import json
import shutil

import jobmanager_grading as grading

TESTS = {  # by name: arguments, standard input, expected output
    "repeated lines": ([], "a\na\nb\n", "a\nb\n"),
    "lines apart": ([], "a\nb\na\n", "a\nb\na\n"),
    "counts": (["-c"], "a\na\nb\n", "2 a\n1 b\n"),
}


def tested(name: str) -> dict[str, object]:
    arguments, given, expected = TESTS[name]
    end = grading.run_student(["./uniq", *arguments], folder="student", stdin=given, cpu_time_s=1, wall_time_s=5)
    actual = end.stdout.decode(errors="replace")
    passed = end.outcome == "success" and actual == expected
    return {"name": name, "passed": passed, "output": end.text, "diff": {"expected": expected, "actual": actual}}


try:
    # The build was the submission's: what should be a program may be a link to a file of this container
    shutil.copy("/volumes/program/uniq", "student/uniq", follow_symlinks=False)
except OSError as error:
    grading.set_result("failed")
    grading.set_feedback(f"make has left no program: {error}")
    raise SystemExit from None

tests = [tested(name) for name in TESTS]
with open("/volumes/report/tests.json", "w") as report:
    json.dump({"tests": tests}, report)
passed = sum(test["passed"] is True for test in tests)
grading.set_result("success" if passed == len(tests) else "failed")
grading.set_feedback(f"{passed} of {len(tests)} tests passed")
