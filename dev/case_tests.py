"""The list of tests in ``docs/reliability.md``, made from the marks ``pytest.mark.case(number, ...)`` in ``tests/``.

``python -m dev.case_tests`` writes it into the page.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
TESTS = TOP / "tests"
PAGE = TOP / "docs" / "reliability.md"
BEGIN, END = "<!-- begin tests of the cases -->", "<!-- end tests of the cases -->"

Marked = dict[int, dict[str, list[str]]]  # by case and file: its tests; none when the whole file is marked


def marked_tests() -> Marked:
    """Every test that is marked with a case, in the order of files and lines."""
    found: Marked = defaultdict(lambda: defaultdict(list))
    for path in sorted(TESTS.rglob("test_*.py")):
        name = path.relative_to(TESTS).as_posix()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                for case in _cases(node.decorator_list):
                    found[case][name].append(node.name)
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
                for case in _cases([node.value]):
                    found[case][name] = []
    return found


def _cases(marks: list[ast.expr]) -> Iterator[int]:
    for node in (node for mark in marks for node in ast.walk(mark)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.case":
            yield from (ast.literal_eval(argument) for argument in node.args)


def page_with_tests(page: str) -> str:
    """The page with the list as the marks say it now."""
    lines = [f"- {case}: {', '.join(_names(files))}" for case, files in sorted(marked_tests().items())]
    section = "\n".join([BEGIN, "", *lines, "", END])
    new, times = re.subn(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: section, page, flags=re.DOTALL)
    if times != 1:
        raise RuntimeError(f"{PAGE} must hold {BEGIN!r} and {END!r} once")
    return new


def _names(files: dict[str, list[str]]) -> Iterator[str]:
    for file, tests in files.items():
        yield f"`{file}::{tests[0]}`" if tests else f"`{file}`"
        yield from (f"`::{test}`" for test in tests[1:])


if __name__ == "__main__":
    PAGE.write_text(page_with_tests(PAGE.read_text()))
