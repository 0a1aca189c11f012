"""What goes between hidden tests and a submission, and the folder that they share: both are hostile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import jobmanager.grading
from tests.unit.grading_box import PYTHON, Box

sys.path.insert(0, str(Path(jobmanager.grading.__file__).parent / "container" / "lib"))
from jobmanager_grading import submitted_code, values  # what runs in containers, and is no module of ours

DEEP = "[" * 10**5


def no_handle(data: object) -> object:
    raise ValueError(f"no handle: {data}")


@pytest.mark.parametrize("value", [None, True, 3, 2**60, -(2**60), 1.5, "x\ud800", b"\xff", [1, (2, {3: {4}})], frozenset({(1,)})])
def test_a_value_is_the_same_at_the_other_end(value: object) -> None:
    sent = values.message(values.line({"value": values.encoded(value, no_handle)}))
    back = values.decoded(sent["value"], no_handle)
    assert back == value and type(back) is type(value)


class Liar(int):
    """Is no int for us: it may do anything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


@pytest.mark.parametrize(
    "value", [Liar(1), object(), print, 1j, bytearray(b"x"), [Liar(1)], {Liar(1): 1}], ids=lambda value: type(value).__name__
)
def test_a_value_of_another_type_is_asked_for(value: object) -> None:
    with pytest.raises(ValueError, match="no handle"):
        values.encoded(value, no_handle)


def nested(depth: int) -> object:
    return [] if not depth else [nested(depth - 1)]


def test_a_value_that_is_too_deep_or_too_large_is_refused_where_it_is_made() -> None:
    assert values.decoded(values.encoded(nested(49), no_handle), no_handle) == nested(49)
    with pytest.raises(ValueError, match="nested deeper"):
        values.encoded(nested(50), no_handle)
    with pytest.raises(ValueError, match="hexadecimal digits"):
        values.encoded(2**200_000, no_handle)
    with pytest.raises(ValueError, match="KiB"):
        values.line({"value": "x" * values.LARGEST})


def deep_data(depth: int) -> object:
    return ["list", []] if not depth else ["list", [deep_data(depth - 1)]]


NO_VALUES: list[object] = [
    {},
    {"a": 1},
    [],
    ["list"],
    ["list", 1],
    ["list", "x"],
    ["list", [], 1],
    ["object", []],
    ["__class__", []],
    ["handle", 1, "x"],
    [1, 2],
    ["int", "12"],
    ["int", "0x"],
    ["int", "0x1_0"],
    ["int", 12],
    ["int", "0x" + "1" * 25000],
    ["float", "1e400"],
    ["float", "nan "],
    ["bytes", "\u20ac"],
    ["bytes", "a"],
    ["dict", [1]],
    ["dict", [["a"]]],
    ["dict", [[["list", []], 1]]],
    ["set", [["dict", []]]],
    ["set", list(range(values.MOST_KEYS + 1))],
    ["dict", [[number, 1] for number in range(values.MOST_KEYS + 1)]],
    deep_data(60),
]


@pytest.mark.parametrize("data", NO_VALUES, ids=lambda data: json.dumps(data)[:40])
def test_what_is_no_value_is_refused(data: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        values.decoded(data, no_handle)


@pytest.mark.parametrize(
    "line",
    [b"", b"1", b"[]", b"{", b'"x"', b"\xff", b'{"id": NaN}', b'{"id": -Infinity}', b'{"id": ' + b"1" * 50 + b"}", DEEP.encode(),
     b'{"a": ' + DEEP.encode(), b'{"id": 0.' + b"1" * 50 + b"}"],
    ids=lambda line: line[:20].decode("latin1"),
)  # fmt: skip
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        values.message(line)


CODE = """
print("loaded")
def double(x): return x * 2
def fail(): return {}["nothing"]
"""
ASKED: list[dict[str, object]] = [
    {"do": "call", "name": "double", "args": ["tuple", [["bytes", "YQ=="]]]},
    {"do": "call", "name": "fail", "args": ["tuple", []]},
    {"do": "get", "name": "double"},
]


def test_the_driver_needs_its_command_only_and_answers_by_number(tmp_path: Path) -> None:
    # given: the driver as it is started in a student container, and a submission
    (tmp_path / "solution.py").write_text(CODE)
    asked = [{"do": "begin", "path": str(tmp_path / "solution.py")}, *ASKED]
    fields = {"of": None, "named": ["dict", []], "cpu_time_s": 5, "stdin": ""}
    lines = [values.line({**fields, **each, "id": number}) for number, each in enumerate(asked, 1)]
    words = ["-X", "utf8", "-I", "-c", submitted_code._BOOT, *map(submitted_code._source, ("values", "student_driver"))]
    # when:
    done = subprocess.run([str(PYTHON), *words], input=b"".join(lines), capture_output=True, timeout=60)
    # then: it has printed nothing but replies, and what the submission has printed is in them
    assert (done.returncode, done.stderr) == (0, b"")
    replies = [values.message(line) for line in done.stdout.splitlines()]
    assert [reply["id"] for reply in replies] == [0, 1, 2, 3, 4]
    assert replies[2]["value"] == ["bytes", "YWE="] and replies[2]["outputs"] == [
        [["bytes", "bG9hZGVkCg=="], 7],
        [["bytes", ""], 0],
    ]
    error = replies[3]["error"]
    assert error["kinds"][:2] == ["KeyError", "LookupError"] and "in fail" in error["traceback"]
    assert "_reply" not in error["traceback"]
    assert replies[4]["value"] == ["handle", 1, "function"]


DIRTY = """
import os
from jobmanager_grading import shared_folder
shared_folder.keep()
os.chdir("student")
os.remove("kept.txt")
with open("sub/kept.txt", "w") as file:
    file.write("changed")
for name in ("new.txt", "sub/new.txt", ".moved-1"):
    with open(name, "w") as file:
        file.write("new")
top = os.getcwd()
for number in range(3000):
    os.mkdir("deep" * 10)
    os.chdir("deep" * 10)
os.chdir(top)
os.mkdir("closed")
os.mkdir("closed/inner")
os.chmod("closed/inner", 0)
os.chmod("closed", 0)
os.chmod(top, 0)
os.chdir("/")
shared_folder.put_back()
shared_folder.put_back()
"""


def test_a_folder_is_put_back_whatever_is_in_it(tmp_path: Path) -> None:
    # given: a submission of two files, which has changed them, and left what is deep, closed and new
    box = Box(tmp_path)
    box.write("student/kept.txt", "kept")
    box.write("student/sub/kept.txt", "below")
    # when:
    done = box.python(DIRTY)
    # then:
    assert done.returncode == 0, done.stderr.decode()
    found = {str(path.relative_to(tmp_path / "student")): path for path in (tmp_path / "student").rglob("*")}
    assert sorted(found) == ["kept.txt", "sub", "sub/kept.txt"]
    assert (found["kept.txt"].read_text(), found["sub/kept.txt"].read_text()) == ("kept", "below")
