"""Grades a function by hidden tests, which the submission can neither forge nor read (docs/hidden-tests.md).

    python examples/hidden_tests.py                        # the engine that DOCKER_HOST or the default socket names
    python examples/hidden_tests.py --image my-python:1    # any image with Python 3.6 or later, and pytest
"""

from __future__ import annotations

import argparse

from jobmanager import Code, Grader, JobManager, Task

TESTS = '''
import pytest


@pytest.mark.visible
@pytest.mark.message("The median of [3, 1, 2] is 2: sort first.")
def test_three_numbers(submission):
    assert submission.call("median", [3, 1, 2]) == 2


@pytest.mark.points(2)
def test_four_numbers(submission):
    assert submission.call("median", [4, 1, 3, 2]) == 2.5


@pytest.mark.points(2)
def test_no_numbers(submission):
    with submission.raises("ValueError"):
        submission.call("median", [])
'''
RIGHT = """
def median(numbers):
    if not numbers:
        raise ValueError("no numbers")
    numbers, half = sorted(numbers), len(numbers) // 2
    return (numbers[half] + numbers[~half]) / 2
"""
SUBMISSIONS = {
    "right": RIGHT,
    "does not sort": RIGHT.replace("sorted(numbers)", "numbers"),
    "exits": "import os\nos._exit(0)\n",
    "loops": "def median(numbers):\n    while True:\n        pass\n",
    "answers with an object that is equal to everything": (
        "class Any:\n    def __eq__(self, other):\n        return True\n\n\ndef median(numbers):\n    return Any()\n"
    ),
}


def main(image: str) -> None:
    task = Task(
        image,
        grader=Grader.pytest("solution.py", cpu_time_s=1),
        files={"test_median.py": TESTS},
        problems={"code": Code("student/solution.py")},
        name="median",
    )
    with JobManager() as manager:
        jobs = {name: manager.submit(task, {"code": code}) for name, code in SUBMISSIONS.items()}
        for name, job in jobs.items():
            result = job.result()
            print(f"{name}: {result.outcome.value}, grade {result.grade:g}\n")
            print("\n".join(f"    {line}" for line in result.text.splitlines() if line) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="jobmanager-python:4", help="the image of both containers (default: %(default)s)")
    main(parser.parse_args().image)
