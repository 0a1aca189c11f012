"""The example course, whole: about twenty grading jobs with three student containers each."""

from __future__ import annotations

import pytest

from tests.integration.test_examples import EXAMPLES, engines, environment, run  # noqa: F401 - two are fixtures

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def test_the_course_grades_every_submission_as_expected(engines: list[str], environment: dict[str, str]) -> None:  # noqa: F811
    done = run(environment, EXAMPLES / "course.py", *engines)

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.endswith("every submission ended as expected\n")
    for submission in (EXAMPLES / "course" / "submissions").glob("*/*"):
        assert done.stdout.count(f"{submission.parent.name}/{submission.name} ") == 1, "a line when it was graded"
