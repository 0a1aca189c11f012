"""Checks that the records of this package share: each returns the value, or raises an error that says what would do."""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath

from jobmanager.errors import InvalidValue

RESERVED_FOLDER = ".jobmanager"
_LONGEST_NAME = 255
_LONGEST_PATH = 1024
_READ_ONLY = {"UID", "EUID", "PPID", "SHELLOPTS", "BASHOPTS", "BASH_VERSINFO"}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def positive(name: str, value: float, error: type[InvalidValue] = InvalidValue) -> float:
    """A finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise error(f"{name} must be a number above zero, not {value!r}")
    return value


def positive_int(name: str, value: int, error: type[InvalidValue] = InvalidValue) -> int:
    """A whole number above zero."""
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise error(f"{name} must be a whole number above zero, not {value!r}")
    return value


def count(name: str, value: int, error: type[InvalidValue] = InvalidValue, *, most: int) -> int:
    """A whole number from 0 on."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise error(f"{name} must be a whole number from 0 to {most}, not {value!r}")
    return value


def text(name: str, value: str, error: type[InvalidValue] = InvalidValue) -> str:
    """A string that any container can be given: not empty, encodable, without NUL."""
    if not isinstance(value, str) or not value.strip():
        raise error(f"{name} must be a string that is not empty, not {value!r}")
    return plain(name, value, error)


def plain(name: str, value: str, error: type[InvalidValue] = InvalidValue) -> str:
    """A string, perhaps empty, that can cross into a container: encodable, without NUL."""
    if not isinstance(value, str):
        raise error(f"{name} must be a string, not {value!r}")
    if "\0" in value:
        raise error(f"{name} holds a NUL character, which no command line or file name can")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise error(f"{name} holds a lone surrogate and cannot be written as UTF-8: {value!r}") from None
    return value


def variable(name: str, error: type[InvalidValue]) -> str:
    """A name of an environment variable, as POSIX shells take it."""
    if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
        raise error(f"{name!r} is no name for an environment variable: letters, digits and _ only, no digit first")
    if name in _READ_ONLY:
        raise error(f"{name} is a variable that some shells set themselves and let nobody change: take another name")
    return name


def workspace_path(name: str, error: type[InvalidValue]) -> str:
    """A relative POSIX path inside the workspace, in its shortest form."""
    text("a file name", name, error)
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise error(f"file name {name!r}: must be relative to the workspace, without '..'")
    if path.parts[0] == RESERVED_FOLDER:
        raise error(f"file name {name!r}: the folder {RESERVED_FOLDER}/ is the library's own")
    if len(name.encode()) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in path.parts):
        raise error(f"file name {name[:40]!r}...: longer than {_LONGEST_NAME} bytes a part or {_LONGEST_PATH} in all")
    return str(path)
