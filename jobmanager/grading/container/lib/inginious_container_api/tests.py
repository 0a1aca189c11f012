"""Tests of the answer, as old graders set them."""

from jobmanager_grading import get_answer
from jobmanager_grading import set_test as set_result

__all__ = ["get_tests_results", "set_result"]


def get_tests_results() -> "object":
    """All of them."""
    return get_answer().get("tests", {})
