"""Values between the tests and the submission, as JSON: data, and nothing that could run. Both ends use it.

``None``, booleans, numbers and texts are what they are in JSON; anything else is a list that begins with its kind::

    ["int", "0x1f..."]  ["float", "nan"]  ["bytes", BASE64]  ["list", [...]]  ["tuple", [...]]  ["set", [...]]
    ["frozenset", [...]]  ["dict", [[KEY, VALUE], ...]]  ["handle", NUMBER, TYPE]

What arrives is hostile: size, depth, kinds and numbers are checked before a value is made of it.
"""

import binascii
import json
import math
import re

LARGEST = 1024 * 1024  # bytes of a line
DEEPEST = 50
MOST_KEYS = 10000  # of a dict or a set: keys whose hashes are alike take a time that grows with the square of their number
MOST_HANDLES = 10000  # objects of the submission that stay in one process
_SAFE = 2**53  # a whole number up to here is a number in JSON
_LONGEST_NUMBER = 40  # characters: a longer one takes long to read
_LONGEST_HEX = 25000  # digits of a whole number: Python before 3.11 takes long to show a longer one
_COLLECTIONS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}  # type: dict[str, Callable[..., object]]
_HEX = re.compile(r"-?0x[0-9a-f]+")


def encoded(value: "object", other: "Callable[[object], object]", depth: "int" = DEEPEST) -> "object":
    """A value as data. ``other`` is asked for what is of no known type: subclasses are not known, as they may do anything.

    Raises:
        ValueError: it is nested too deep, or holds too large a number.
    """
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -_SAFE <= value <= _SAFE else ["int", _hex(value)]  # type: ignore[operator, arg-type]
    if kind is float:
        return value if math.isfinite(value) else ["float", repr(value)]  # type: ignore[arg-type]
    if kind is bytes:
        return ["bytes", binascii.b2a_base64(value, newline=False).decode("ascii")]  # type: ignore[arg-type]
    if kind not in (list, tuple, set, frozenset, dict):
        return other(value)
    if not depth:
        raise ValueError(f"a value is nested deeper than {DEEPEST}")
    if kind is dict:
        pairs = value.items()  # type: ignore[attr-defined]
        return ["dict", [[encoded(key, other, depth - 1), encoded(item, other, depth - 1)] for key, item in pairs]]
    return [kind.__name__, [encoded(item, other, depth - 1) for item in value]]  # type: ignore[attr-defined]


def decoded(data: "object", handle: "Callable[[list[object]], object]", depth: "int" = DEEPEST) -> "object":
    """The value of data. ``handle`` makes one of a list that begins with ``"handle"``, which it has to check.

    Raises:
        ValueError: it is no value.
    """
    if data is None or type(data) in (bool, int, float, str):
        return data
    if type(data) is not list or len(data) < 2 or type(data[0]) is not str:
        raise ValueError("there is no value of this form")
    kind, content = data[0], data[1]
    if kind == "handle":
        return handle(data)
    if len(data) == 2 and type(content) is str:
        return _of_text(kind, content)
    if len(data) != 2 or type(content) is not list or not depth:
        raise ValueError("there is no value of this form, or it is nested too deep")
    if kind == "dict":
        return _dict(content, handle, depth)
    if kind not in _COLLECTIONS or (kind in ("set", "frozenset") and len(content) > MOST_KEYS):
        raise ValueError(f"there is no value of this kind, or it has more than {MOST_KEYS} members")
    try:
        return _COLLECTIONS[kind]([decoded(item, handle, depth - 1) for item in content])
    except TypeError:
        raise ValueError("a member of a set has no hash") from None


def line(message: "dict[str, object]") -> "bytes":
    """A message. Raises ValueError if it is too large."""
    data = json.dumps(message, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
    if len(data) > LARGEST:
        raise ValueError(f"a value has {len(data) // 1024} KiB, and {LARGEST // 1024} are the most")
    return data


def message(data: "bytes") -> "dict[str, object]":
    """The message of a line. Raises ValueError if it is none."""
    try:
        found = json.loads(data.decode("ascii"), parse_int=_whole, parse_float=_real, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if type(found) is not dict:
        raise ValueError("it is no object")
    return found


def _hex(number: "int") -> "str":
    text = hex(number)
    if len(text) > _LONGEST_HEX:
        raise ValueError(f"a whole number has more than {_LONGEST_HEX} hexadecimal digits")
    return text


def _of_text(kind: "str", content: "str") -> "object":
    if kind == "bytes":
        return binascii.a2b_base64(content)
    if kind == "float" and content in ("nan", "inf", "-inf"):
        return float(content)
    if kind == "int" and len(content) <= _LONGEST_HEX and _HEX.fullmatch(content):
        return int(content, 16)
    raise ValueError("there is no value of this form")


def _dict(content: "list[object]", handle: "Callable[[list[object]], object]", depth: "int") -> "dict[object, object]":
    if len(content) > MOST_KEYS:
        raise ValueError(f"a dict has more than {MOST_KEYS} keys")
    made = {}
    for pair in content:
        if type(pair) is not list or len(pair) != 2:
            raise ValueError("there is no dict of this form")
        try:
            made[decoded(pair[0], handle, depth - 1)] = decoded(pair[1], handle, depth - 1)
        except TypeError:
            raise ValueError("a key of a dict has no hash") from None
    return made


def _whole(text: "str") -> "int":
    if len(text) > _LONGEST_NUMBER:
        raise ValueError("a number is too long")
    return int(text)


def _real(text: "str") -> "float":
    if len(text) > _LONGEST_NUMBER:
        raise ValueError("a number is too long")
    return float(text)


def _no_constant(text: "str") -> "object":
    raise ValueError(f"{text} is no number")


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
