"""YAML whose values keep their line numbers.

PyYAML reads YAML 1.1, where ``on`` and ``yes`` are true, as the files are written for it. Only its nodes are used and no
value is constructed, so a tag can create nothing, and what an alias repeats is counted each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Union

from jobmanager.errors import NotSupported
from jobmanager.model._extras import needs_extra

if TYPE_CHECKING:
    import yaml

MAX_BYTES = 2**18
_MAX_VALUES = 50_000  # with those that aliases repeat
_MAX_DEPTH = 50
_MAX_REPORTED = 100
_STANDARD = "tag:yaml.org,2002:"
_SCALARS = {_STANDARD + kind for kind in ("str", "int", "float", "bool", "timestamp", "merge", "value")}

Value = Union[str, None, list["Marked"], dict[str, "Marked"]]


@dataclass(frozen=True, slots=True)
class Marked:
    """A value and its line (in a mapping: its key's). A scalar is its text as written."""

    value: Value
    line: int


@dataclass(frozen=True, slots=True)
class Mistakes:
    """The mistakes in a file, with their lines."""

    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: int, text: str) -> None:
        """Add a mistake."""
        self.found.append((line, text))

    def lines(self, name: str) -> str:
        """All mistakes in the file's order, one on a line, as compilers print them."""
        lines = [f"{name}:{line}: {text}" for line, text in sorted(self.found, key=itemgetter(0))]
        more = [f"and {len(lines) - _MAX_REPORTED} more"] if len(lines) > _MAX_REPORTED else []
        return "\n".join(lines[:_MAX_REPORTED] + more)


class UnreadableYAML(Exception):
    """The file cannot be read at all."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def parse_yaml(data: bytes, mistakes: Mistakes) -> Marked:
    """Parse a file whose value is a mapping.

    Raises:
        UnreadableYAML: it is no YAML, too large, too deep, or unfolds to more than can be.
        NotSupported: PyYAML is not installed.
    """
    root = _composed(_decoded(data))
    if root is None:
        raise UnreadableYAML(1, "the file is empty")
    if root.tag != _STANDARD + "map":
        raise UnreadableYAML(root.start_mark.line + 1, "the file must be a mapping (name: value)")
    return _Marker(mistakes).marked(root, root.start_mark.line + 1, 0)


def _decoded(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise UnreadableYAML(1, f"the file is larger than {MAX_BYTES // 1024} KiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableYAML(data.count(b"\n", 0, error.start) + 1, "this is not UTF-8") from None


def _composed(text: str) -> yaml.Node | None:
    try:
        import yaml
    except ModuleNotFoundError:
        raise NotSupported(needs_extra("task.yaml", "yaml", "PyYAML")) from None
    try:
        found: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        return found
    except RecursionError:
        raise UnreadableYAML(1, "it is nested too deep") from None
    except yaml.reader.ReaderError as error:
        raise UnreadableYAML(text.count("\n", 0, error.position) + 1, "a character that no text has") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = ": indent with spaces, YAML takes no tabs" if "'\\t'" in (error.problem or "") else ""
        raise UnreadableYAML(1 if mark is None else mark.line + 1, f"it is no YAML: {error.problem}{hint}") from None


class _Marker:
    """Converts nodes to marked values."""

    def __init__(self, mistakes: Mistakes) -> None:
        self._mistakes = mistakes
        self._values = 0

    def marked(self, node: yaml.Node, line: int, depth: int) -> Marked:
        self._values += 1
        if depth > _MAX_DEPTH:
            raise UnreadableYAML(line, "it is nested too deep, or an alias stands inside of what it repeats")
        if self._values > _MAX_VALUES:
            raise UnreadableYAML(line, f"it has more than {_MAX_VALUES} values, with those that aliases repeat")
        if node.tag == _STANDARD + "map":
            return Marked({key: self.marked(value, at, depth + 1) for key, (value, at) in self._entries(node, depth).items()}, line)
        if node.tag == _STANDARD + "seq":
            return Marked([self.marked(item, item.start_mark.line + 1, depth + 1) for item in node.value], line)
        if node.tag in _SCALARS:
            return Marked(self._encodable(node.value, line), line)
        if node.tag != _STANDARD + "null":
            self._mistakes.add(line, f"the tag {node.tag.replace(_STANDARD, '!!')} means nothing here")
        return Marked(None, line)

    def _encodable(self, text: str, line: int) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:
            self._mistakes.add(line, "a text holds a lone surrogate and cannot be written as UTF-8")
        return text

    def _entries(self, node: yaml.Node, depth: int) -> dict[str, tuple[yaml.Node, int]]:
        """A mapping's values with the lines of their keys. Its own keys override those that ``<<`` merges in."""
        own: dict[str, tuple[yaml.Node, int]] = {}
        merged: dict[str, tuple[yaml.Node, int]] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == _STANDARD + "merge":
                for each in self._mappings(value, line):
                    merged = {**self._entries_of_another(each, line, depth), **merged}
            elif not isinstance(key.value, str):
                self._mistakes.add(line, "a name must be a text, not a list or a mapping")
            elif key.value in own:
                self._mistakes.add(line, f"{key.value[:80]!r} is given a second time; first on line {own[key.value][1]}")
            else:
                own[key.value] = value, line
        return {**merged, **own}

    def _entries_of_another(self, node: yaml.Node, line: int, depth: int) -> dict[str, tuple[yaml.Node, int]]:
        self._values += len(node.value)
        if depth > _MAX_DEPTH or self._values > _MAX_VALUES:
            raise UnreadableYAML(line, "too much is merged into this")
        return self._entries(node, depth + 1)

    def _mappings(self, node: yaml.Node, line: int) -> Iterator[yaml.Node]:
        several = node.value if node.tag == _STANDARD + "seq" else [node]
        for each in several:
            if each.tag == _STANDARD + "map":
                yield each
            else:
                self._mistakes.add(line, "only mappings can be merged in by <<")
