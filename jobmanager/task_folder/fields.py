"""Reads the fields of a mapping one by one. Mistakes are collected, and reading goes on."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Collection, Iterator

from jobmanager.task_folder.marked_yaml import Marked, Mistakes

logger = logging.getLogger(__name__)

_WHOLE = re.compile(r"\d{1,12}")
_NUMBER = re.compile(r"\d{1,12}(\.\d{1,12})?")
_FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False, "": False}
_SHOWN_CHARS = 60
_CUTOFF = 0.8  # of difflib: a letter or two


class Fields:
    """The fields of a mapping. A field whose value is an empty text counts as missing, as forms save it so."""

    def __init__(self, found: dict[str, Marked], where: str, line: int, mistakes: Mistakes) -> None:
        self._found = found
        self._where = where  # "" or "limits.": what stands before a field's name in a message
        self._mistakes = mistakes
        self.line = line

    @classmethod
    def of(cls, marked: Marked, where: str, mistakes: Mistakes) -> Fields:
        """The fields of a value, which must be a mapping."""
        if isinstance(marked.value, dict):
            return cls(marked.value, f"{where}." if where else "", marked.line, mistakes)
        mistakes.add(marked.line, f"{where} must be a mapping (name: value), not {_shown(marked)}")
        return cls({}, where, marked.line, Mistakes())  # mistakes that follow from this one are not reported

    def __contains__(self, name: str) -> bool:
        return name in self._found and self._found[name].value not in (None, "")

    def is_empty(self, name: str) -> bool:
        """Whether the field is there with an empty text, where that differs from a missing one."""
        return name in self._found and self._found[name].value == ""

    def has_no_value(self, name: str) -> bool:
        """Whether the field is there with nothing in it: no text, an empty one, an empty list or mapping."""
        return name in self._found and self._found[name].value in (None, "", [], {})

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def line_of(self, name: str) -> int:
        """The line of a field; the mapping's own line for a missing one."""
        return self._found[name].line if name in self._found else self.line

    def add_mistake(self, name: str, text: str) -> None:
        """Report that a field is wrong or missing."""
        self._mistakes.add(self.line_of(name), f"{self._where}{name} {text}")

    def text(self, name: str) -> str | None:
        """A text as it was written."""
        value = self._found[name].value if name in self else None
        if value is None or isinstance(value, str):
            return value
        self.add_mistake(name, f"must be a text, not {_shown(self._found[name])}")
        return None

    def whole(self, name: str, *, unit: str = "", least: int = 1) -> int | None:
        """A whole number."""
        what = f"a whole number{unit} " + (f"above {least - 1}" if least > 0 else "from 0 on")
        text = self._number(name, _WHOLE, what, least)
        return None if text is None else int(text)

    def number(self, name: str, *, unit: str = "", from_zero: bool = False) -> float | None:
        """A number above zero, or from zero on."""
        text = self._number(name, _NUMBER, f"a number{unit} " + ("from 0 on" if from_zero else "above 0"), 0 if from_zero else 1e-9)
        return None if text is None else float(text)

    def _number(self, name: str, form: re.Pattern[str], what: str, least: float) -> str | None:
        if name not in self:
            return None
        value = self._found[name].value
        text = value.strip() if isinstance(value, str) else "?"
        if text and (not form.fullmatch(text) or float(text) < least):
            self.add_mistake(name, f"must be {what}, not {_shown(self._found[name])}")
            return None
        return text or None

    def flag(self, name: str) -> bool:
        """True or false in any of YAML's spellings, or as a form's check box saves it; false when it is missing."""
        if name not in self:
            return False
        value = self._found[name].value
        if isinstance(value, str) and value.strip().lower() in _FLAGS:
            return _FLAGS[value.strip().lower()]
        self.add_mistake(name, f"must be true or false, not {_shown(self._found[name])}")
        return False

    def is_mapping(self, name: str) -> bool:
        """Whether the field is there, and has fields of its own."""
        return name in self and isinstance(self._found[name].value, dict)

    def is_list(self, name: str) -> bool:
        """Whether the field is there, and is a list."""
        return name in self and isinstance(self._found[name].value, list)

    def command(self, name: str) -> str | list[str] | None:
        """A text for the shell, or a list of words that are run as they are."""
        return self.texts(name) if self.is_list(name) else self.text(name)

    def fields(self, name: str) -> Fields:
        """The fields of a field that is a mapping; none when it is missing."""
        marked = self._found[name] if name in self else Marked({}, self.line_of(name))
        return Fields.of(marked, f"{self._where}{name}", self._mistakes)

    def list_of_fields(self, name: str) -> list[Fields]:
        """The items of a field that is a list of mappings."""
        value = self._found[name].value if name in self else []
        if not isinstance(value, list):
            self.add_mistake(name, f"must be a list, not {_shown(self._found[name])}")
            return []
        return [Fields.of(item, f"{self._where}{name}[{number}]", self._mistakes) for number, item in enumerate(value)]

    def texts(self, name: str) -> list[str]:
        """The items of a list of texts, or of one text with commas."""
        value = self._found[name].value if name in self else []
        if isinstance(value, str):
            return [text.strip() for text in value.split(",") if text.strip()]
        items = [item.value for item in value] if isinstance(value, list) else [None]
        texts = [item for item in items if isinstance(item, str)]
        if len(texts) != len(items):
            self.add_mistake(name, f"must be a list of texts, not {_shown(self._found[name])}")
        return texts

    def as_written(self) -> dict[str, object]:
        """All fields without their lines: texts, None, lists and mappings."""
        return {name: _plain(marked) for name, marked in self._found.items()}

    def warn_of_unknown(self, file: str, known: Collection[str]) -> None:
        """Log fields that nothing reads: a plugin's field, or a mistyped name."""
        for name in sorted(set(self).difference(known)):
            near = difflib.get_close_matches(name[:_SHOWN_CHARS], known, n=1, cutoff=_CUTOFF)
            meant = f": did you mean {near[0]}?" if near else ""
            logger.warning("%s:%d: nothing reads %s%s%s", file, self.line_of(name), self._where, name[:_SHOWN_CHARS], meant)


def _plain(marked: Marked) -> object:
    if isinstance(marked.value, dict):
        return {name: _plain(value) for name, value in marked.value.items()}
    return [_plain(item) for item in marked.value] if isinstance(marked.value, list) else marked.value


def _shown(marked: Marked) -> str:
    if isinstance(marked.value, str):
        return repr(marked.value[:_SHOWN_CHARS])
    return "nothing" if marked.value is None else "a list" if isinstance(marked.value, list) else "a mapping"
