"""Names: a class name stands for one thing in the whole package, and the words of what is to come are free."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

from tests.unit.test_docs import TOP

RESERVED = {"Run", "Runner"}


def class_names() -> Iterator[str]:
    """The name of every class in the package, with those that run inside containers."""
    for path in sorted((TOP / "jobmanager").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield node.name


def test_no_class_name_stands_for_two_things() -> None:
    counts = Counter(class_names())
    assert len(counts) > 200
    assert [name for name, count in counts.items() if count > 1] == []


def test_no_class_has_a_name_that_is_reserved() -> None:
    assert RESERVED & set(class_names()) == set()
