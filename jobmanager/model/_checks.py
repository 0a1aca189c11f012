"""Checks that the records share: each returns the exact value, or raises an error that says what is allowed."""

from __future__ import annotations

import functools
import inspect
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

from jobmanager.errors import InvalidValue
from jobmanager.model._exact import exact
from jobmanager.model._repr import value_repr

RESERVED_FOLDER = ".jobmanager"
YEAR_S = 366 * 24 * 3600.0  # no duration may be longer
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 1024
_MAX_WORD_BYTES = 2**17 - 1  # the kernel's MAX_ARG_STRLEN, less its NUL
_MAX_COMMAND_BYTES = 2**20  # the kernel takes a quarter of the stack's limit, mostly 2 MiB, with the image's own words
_WORD_OVERHEAD = 9  # bytes for each word: a NUL and a pointer
_MAX_SHOWN_BITS = 128
_READ_ONLY = {"OPTIND", "UID", "EUID", "PPID", "SHELLOPTS", "BASHOPTS", "BASH_VERSINFO"}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LIKE_A_PATH = re.compile(r".*(/.*|\.[A-Za-z0-9_]{1,8})")  # it has a folder, or a suffix
_SHORT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def positive(name: str, value: float, error: type[InvalidValue] = InvalidValue) -> float:
    """A finite number above zero."""
    value = exact(value)
    if not is_finite(value) or value <= 0:
        raise error(f"{name} must be a number above zero, not {_shown(value)}")
    return value


def timeout(name: str, value: float, error: type[InvalidValue] = InvalidValue, *, zero: bool = False) -> float:
    """Seconds, at most a year. ``zero``: whether 0 is allowed."""
    value = exact(value)
    if not zero:
        positive(name, value, error)
    elif not is_finite(value) or value < 0:
        raise error(f"{name} must be a number from 0 on, not {_shown(value)}")
    if value > YEAR_S:
        raise error(f"{name} must be at most a year, not {_shown(value)} seconds")
    return value


def positive_int(name: str, value: int, error: type[InvalidValue] = InvalidValue, *, at_most: int | None = None) -> int:
    """A whole number above zero."""
    value = exact(value)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise error(f"{name} must be a whole number above zero, not {_shown(value)}")
    if at_most is not None and value > at_most:
        raise error(f"{name} must be at most {at_most}, not {_shown(value)}")
    return value


def count(name: str, value: int, error: type[InvalidValue] = InvalidValue, *, at_most: int) -> int:
    """A whole number from 0 on."""
    value = exact(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= at_most:
        raise error(f"{name} must be a whole number from 0 to {at_most}, not {_shown(value)}")
    return value


def flag(name: str, value: bool, error: type[InvalidValue] = InvalidValue) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise error(f"{name} must be True or False, not {_shown(value)}")
    return value


def text(name: str, value: str, error: type[InvalidValue] = InvalidValue) -> str:
    """A string that a container can receive: not empty, encodable, without NUL."""
    value = exact(value)
    if not isinstance(value, str):
        raise error(f"{name} must be a string that is not empty, not {_shown(value)}")
    if not value.strip():
        raise error(f"{name} is empty")
    return plain(name, value, error)


def string(name: str, value: str, error: type[InvalidValue] = InvalidValue) -> str:
    """Any string."""
    value = exact(value)
    if not isinstance(value, str):
        raise error(f"{name} must be a string, not {_shown(value)}")
    return value


def plain(name: str, value: str, error: type[InvalidValue] = InvalidValue) -> str:
    """A string, perhaps empty, that a container can receive: encodable, without NUL."""
    value = string(name, value, error)
    if "\0" in value:
        raise error(f"{name} holds a NUL character, which no command line or file name can")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise error(f"{name} holds a lone surrogate and cannot be written as UTF-8: {_shown(value)}") from None
    return value


def short_name(what: str, name: str, error: type[InvalidValue]) -> str:
    """A name that can be part of a path, a label and a message."""
    name = exact(name)
    if not isinstance(name, str) or not _SHORT_NAME.fullmatch(name):
        shown = name[:80] if isinstance(name, str) else name
        raise error(f"{what} must be 1 to 64 letters, digits, '_', '-' or '.', and begin with no '-' or '.', not {shown!r}")
    return name


def choice(name: str, value: str, choices: Sequence[str], error: type[InvalidValue]) -> str:
    """One of a few words."""
    value = exact(value)
    if not isinstance(value, str) or value not in choices:
        raise error(f"{name} must be {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}, not {_shown(value)}")
    return value


def several(name: str, given: Sequence[object], of: str, error: type[InvalidValue], *, at_most: int) -> tuple[object, ...]:
    """The items of a list. A single string is none."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise error(f"{name} must be a list of {of}, not {_shown(given)}")
    if len(given) > at_most:
        raise error(f"{name} must have at most {at_most} items, not {len(given)}")
    return tuple(given)


def no_duplicates(name: str, given: Sequence[str], error: type[InvalidValue]) -> None:
    """Refuse a name that stands there twice."""
    twice = [each for number, each in enumerate(given) if each in given[:number]]
    if twice:
        raise error(f"{name} has {twice[0]!r} twice")


def command(name: str, given: str | Sequence[str] | None, error: type[InvalidValue]) -> str | tuple[str, ...] | None:
    """A string for ``sh -c``, or words; None stays."""
    given = exact(given)
    if given is None:
        return None
    if isinstance(given, str):
        return text(name, given, error)
    if isinstance(given, (bytes, bytearray)) or not isinstance(given, Sequence) or not given:
        raise error(f"{name} must be a string or a list of words that is not empty, not {_shown(given)}")
    text(f"{name}'s first word", given[0], error)
    return tuple(plain(f"a word of the {name}", word, error) for word in given)


def fits_a_start(words: Iterable[str], error: type[InvalidValue]) -> None:
    """Refuse words of a command, and NAME=value pairs, that are larger than the kernel can start a program with."""
    sizes = [len(word.encode()) for word in words]
    total = sum(sizes) + _WORD_OVERHEAD * len(sizes)
    if any(size > _MAX_WORD_BYTES for size in sizes):
        raise error(
            f"a word of the command, or a variable, of {max(sizes)} bytes: no program can be started with one longer than"
            f" {_MAX_WORD_BYTES} bytes; give it as a file or as standard input"
        )
    if total > _MAX_COMMAND_BYTES:
        raise error(
            f"the command and its variables take {total} bytes in all, more than {_MAX_COMMAND_BYTES}:"
            " give them as a file or as standard input"
        )


def no_clashes(names: Collection[str], error: type[InvalidValue]) -> None:
    """A name cannot be a file and a folder at once."""
    for name in names:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in names:
                raise error(f"{'/'.join(parts[:depth])!r} is a file and the folder of {name!r}")


def variable(name: str, error: type[InvalidValue]) -> str:
    """A name of an environment variable that POSIX shells accept."""
    name = exact(name)
    if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
        raise error(f"{name!r} is no name for an environment variable: letters, digits and _ only, no digit first")
    if name in _READ_ONLY:
        raise error(f"{name} is a variable that some shells set themselves and let no one change: take another name")
    return name


def workspace_path(name: str, error: type[InvalidValue]) -> str:
    """A relative POSIX path inside the workspace, in its shortest form."""
    name = text("a file name", name, error)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise error(f"file name {name!r}: must be relative to the workspace, without '..'")
    if path.parts[0] == RESERVED_FOLDER:
        raise error(f"file name {name!r}: the folder {RESERVED_FOLDER}/ is the library's own")
    path_length(path, error)
    return str(path)


def names_a_file(given: object, *, below: str | os.PathLike[str] = "") -> bool:
    """Whether a text looks like a file's name, and there is that file: then the file is meant, mostly, and not the text."""
    if not isinstance(given, str) or len(given) > _MAX_PATH_BYTES or "\n" in given or not _LIKE_A_PATH.fullmatch(given):
        return False
    try:
        return os.path.isfile(os.path.join(below, given))
    except ValueError:
        return False


def no_file_name(name: str, given: object, error: type[InvalidValue]) -> None:
    """Refuse a text that names a file."""
    if names_a_file(given):
        raise error(
            f"{name} is the text {given!r}, and there is a file of that name: give Path({given!r}) for what is in the file, or"
            f" b{given!r} for the text"
        )


def path_length(path: PurePosixPath, error: type[InvalidValue]) -> None:
    """Refuse a path that is longer than every file system takes."""
    if len(str(path).encode()) > _MAX_PATH_BYTES or any(len(part.encode()) > _MAX_NAME_BYTES for part in path.parts):
        raise error(f"file name {str(path)[:40]!r}...: longer than {_MAX_NAME_BYTES} bytes a part or {_MAX_PATH_BYTES} in all")


_F = TypeVar("_F", bound=Callable[..., object])


def callback(name: str, given: _F, error: type[InvalidValue], *takes: str) -> _F:
    """A plain function of these arguments. The caller does not await its result, or iterate over it."""
    if not callable(given):
        raise error(f"{name} must be callable, not {_shown(given)}")
    if kind := _runs_later(given):
        raise error(
            f"{name} must be a plain function, not {kind}, which would never run: have a plain function hand it to your"
            " event loop (docs/web-apps.md), or await manager.submit(...)"
        )
    if inspect.isbuiltin(given):  # as a queue's put: many have no signature, and parsing the text of one takes long
        return given
    try:
        signature = inspect.signature(given, follow_wrapped=False)
    except (TypeError, ValueError):  # it has none; other errors may come from a signal handler, and are the caller's
        return given
    try:
        signature.bind(*takes)
    except TypeError as wrong:
        raise error(f"{name} must be a function of ({', '.join(takes)}): {wrong}") from None
    return given


def _runs_later(function: object) -> str:
    """The kind of function, if calling it only makes an object that somebody would have to run; else empty."""
    while isinstance(function, functools.partial):
        function = function.func
    for code in (function, getattr(type(function), "__call__", None)):  # noqa: B004 - the attribute that Python calls
        if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
            return "an async one"
        if inspect.isgeneratorfunction(code):
            return "a generator"
    return ""


def is_finite(value: object) -> bool:
    """Whether it is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _shown(value: object) -> str:
    """A value for a message. A large one is cut, and Python refuses to convert a number with too many digits."""
    if isinstance(value, int) and value.bit_length() > _MAX_SHOWN_BITS:
        return f"a number of {value.bit_length()} bits"
    return value_repr(value)
