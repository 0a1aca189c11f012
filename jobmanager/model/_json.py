"""Reads JSON that may be hostile: no constants that JSON does not have, no field twice, no huge numbers, no endless nesting."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NoReturn

MAX_DIGITS = 300  # of a whole number; more would take long to convert


def parse_json(text: str, error: type[Exception]) -> object:
    """Decode text. Raises ``error`` with the reason, never anything else."""
    try:
        return json.loads(text, parse_constant=_refuser(error), parse_int=_reader(error), object_pairs_hook=_pairs_reader(error))
    except error:
        raise
    except RecursionError:
        raise error("it is nested too deep") from None
    except ValueError as wrong:
        raise error(f"it is not JSON: {wrong}") from None


def _refuser(error: type[Exception]) -> Callable[[str], NoReturn]:
    def refuse(name: str) -> NoReturn:
        raise error(f"{name} is no JSON")

    return refuse


def _reader(error: type[Exception]) -> Callable[[str], int]:
    def read(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            raise error(f"it holds a number of {len(digits)} digits")
        return int(digits)

    return read


def _pairs_reader(error: type[Exception]) -> Callable[[list[tuple[str, object]]], dict[str, object]]:
    def read(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise error("it names a field twice")
        return found

    return read
