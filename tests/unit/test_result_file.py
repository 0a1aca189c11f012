"""``.jobmanager/result.json`` is as hostile as its author: it is read whole and checked, or it is unreadable."""

from __future__ import annotations

import json
import random

import pytest

from jobmanager import Outcome
from jobmanager.results.result_file import ResultFile, ResultFileError, parse_result_file

GOOD = [
    (b"{}", ResultFile()),
    (b' \n{"text": "ok"}\n ', ResultFile(text="ok")),
    (b'{"result": "success"}', ResultFile(outcome=Outcome.SUCCESS)),
    (b'{"result": "failed", "grade": 12.5}', ResultFile(outcome=Outcome.FAILED, grade=12.5)),
    (b'{"grade": 0}', ResultFile(grade=0.0)),
    (b'{"grade": 200}', ResultFile(grade=200.0)),
    (b'{"grade": 200.1}', ResultFile(grade=200.0)),
    (b'{"grade": -5}', ResultFile(grade=0.0)),
    (b'{"grade": 1e308}', ResultFile(grade=200.0)),
    (b'{"grade": ' + b"9" * 299 + b"}", ResultFile(grade=200.0)),
    (b'{"problems": {"q": ["success", "well done"]}}', ResultFile(problems={"q": (Outcome.SUCCESS, "well done")})),
    (b'{"problems": {"q": {"result": "failed"}}}', ResultFile(problems={"q": (Outcome.FAILED, "")})),
    (b'{"problems": {"q": {"text": "no", "result": "failed"}}}', ResultFile(problems={"q": (Outcome.FAILED, "no")})),
    (b'{"tests": {"a": [1, null, true, 1.5, {"b": "c"}]}}', ResultFile(tests={"a": [1, None, True, 1.5, {"b": "c"}]})),
    (b'{"custom": {"": {}}, "state": "s"}', ResultFile(custom={"": {}}, state="s")),
    ('{"text": "é\N{GRINNING FACE}"}'.encode(), ResultFile(text="é\N{GRINNING FACE}")),
    (rb'{"text": "\ud83d\ude00"}', ResultFile(text="\N{GRINNING FACE}")),
    (b'{"text": "\\u0000\\u001e"}', ResultFile(text="\0\x1e")),
]

BAD = [
    (b"", "empty, or no regular file"),
    (b"   ", "not JSON"),
    (b"\0", "not JSON"),
    (b"{", "not JSON"),
    (b'{"text": "a"} x', "not JSON"),
    (b'{"text": "a"}{"text": "b"}', "not JSON"),
    (b"{'text': 'a'}", "not JSON"),
    (b'{"text": "a\nb"}', "not JSON"),
    (b"\xef\xbb\xbf{}", "not JSON"),
    (b"{1: 2}", "not JSON"),
    (b"[]", "no object"),
    (b"null", "no object"),
    (b'"text"', "no object"),
    (b"5", "no object"),
    (b"\xff\xfe{\0}\0", "not UTF-8"),
    (b'{"text": "\xff"}', "not UTF-8"),
    (b'{"text": "\xed\xa0\x80"}', "not UTF-8"),
    (rb'{"text": "\ud800"}', "lone surrogate"),
    (rb'{"tests": {"\udfff": 1}}', "lone surrogate"),
    (rb'{"tests": {"a": ["\udfff"]}}', "lone surrogate"),
    (rb'{"\ud800": 1}', "mean nothing here"),
    (b'{"grade": NaN}', "NaN is no JSON"),
    (b'{"tests": {"a": [NaN]}}', "NaN is no JSON"),
    (b'{"grade": Infinity}', "Infinity is no JSON"),
    (b'{"grade": -Infinity}', "Infinity is no JSON"),
    (b'{"grade": 1e999}', "not finite"),
    (b'{"custom": {"a": -1e999}}', "not finite"),
    (b'{"grade": ' + b"9" * 400 + b"}", "a number of 400 digits"),
    (b'{"custom": {"a": ' + b"9" * 500_000 + b"}}", "a number of 500000 digits"),
    (b'{"grade": true}', "grade is no number"),
    (b'{"grade": "5"}', "grade is no number"),
    (b'{"grade": null}', "grade is no number"),
    (b'{"grade": [5]}', "grade is no number"),
    (b'{"result": "timeout"}', "neither success nor failed"),
    (b'{"result": "SUCCESS"}', "neither success nor failed"),
    (b'{"result": null}', "neither success nor failed"),
    (b'{"result": ["success"]}', "neither success nor failed"),
    (b'{"text": 5}', "text is no text"),
    (b'{"text": null}', "text is no text"),
    (b'{"state": {}}', "state is no text"),
    (b'{"tests": []}', "tests is no object"),
    (b'{"custom": "a"}', "custom is no object"),
    (b'{"problems": []}', "problems is no object"),
    (b'{"problems": {"q": "success"}}', "problem 'q' is neither"),
    (b'{"problems": {"q": ["success"]}}', "problem 'q' is neither"),
    (b'{"problems": {"q": ["success", "a", "b"]}}', "problem 'q' is neither"),
    (b'{"problems": {"q": {"text": "a"}}}', "problem 'q' is neither"),
    (b'{"problems": {"q": {"result": "success", "grade": 5}}}', "problem 'q' is neither"),
    (b'{"problems": {"q": ["crash", "a"]}}', "neither success nor failed"),
    (b'{"problems": {"q": ["success", 5]}}', "is no text"),
    (b'{"problems": {"' + b"q" * 201 + b'": ["success", ""]}}', "too long"),
    (json.dumps({"problems": {str(number): ["success", ""] for number in range(1001)}}).encode(), "too many entries"),
    (b'{"grade": 5, "grade": 100}', "names a field twice"),
    (b'{"tests": {"a": {"b": 1, "b": 2}}}', "names a field twice"),
    (rb'{"grade": 5, "gr\u0061de": 100}', "names a field twice"),
    (b'{"outcome": "success"}', r"mean nothing here: ['outcome']"),
    (b'{"exit_code": 0, "evidence": []}', "mean nothing here"),
    (b"[" * 100_000, "nested too deep"),
    (b'{"a":' * 100_000, "nested too deep"),
    (b'{"tests": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}", "nested too deep"),
    (b'{"tests": {"a": ' + b"[" * 60 + b"]" * 60 + b"}}", "nested too deep"),
    (b'{"text": "' + b"x" * (2 * 2**20) + b'"}', "larger than 1024 KiB"),
]


def test_a_valid_file_is_read_field_by_field():
    for data, expected in GOOD:
        assert parse_result_file(data) == expected, data[:80]
        assert parse_result_file(data).grade is None or type(parse_result_file(data).grade) is float


@pytest.mark.case(41)
@pytest.mark.parametrize(("data", "says"), BAD, ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else None)
def test_whatever_is_wrong_makes_the_whole_file_unreadable_and_is_named(data, says):
    with pytest.raises(ResultFileError) as unreadable:
        parse_result_file(data)

    assert says in str(unreadable.value)


def test_what_is_said_of_a_hostile_file_is_short_and_can_be_encoded():
    long_names = [json.dumps({"x" * 900_000: 1}).encode(), json.dumps({f"{number}" * 1000: 1 for number in range(90)}).encode(),
                  json.dumps({"problems": {"\x1b" * 150: 5}}).encode()]  # fmt: skip
    for data in [*long_names, *(bad for bad, _ in BAD)]:
        with pytest.raises(ResultFileError) as unreadable:
            parse_result_file(data)
        said = str(unreadable.value)
        assert len(said.encode()) < 2000
        assert said.isprintable()


def test_a_file_just_as_large_as_allowed_is_read():
    data = b'{"text": "' + b"x" * (2**20 - 12) + b'"}'

    assert len(data) == 2**20
    assert len(parse_result_file(data).text) == 2**20 - 12
    with pytest.raises(ResultFileError, match="larger"):
        parse_result_file(data + b" ")


def test_nesting_within_the_bound_is_read():
    assert parse_result_file(b'{"tests": {"a": ' + b"[" * 40 + b"]" * 40 + b"}}").tests["a"]


def test_bytes_at_random_never_raise_anything_else():
    source = random.Random(5)
    seeds = [data for data, _ in [*GOOD, *BAD] if len(data) < 500]
    for _ in range(20_000):
        data = bytearray(source.choice(seeds))
        for _ in range(source.randint(1, 4)):
            data[source.randint(0, len(data)) : source.randint(0, len(data))] = source.choice(
                [b'"', b"{", b"]", b"\\u", b"\xff", b"1e9", b","]
            )
        try:
            found = parse_result_file(bytes(data))
        except ResultFileError:
            continue
        assert found.grade is None or 0 <= found.grade <= 200
        json.dumps([found.text, found.tests, found.custom, found.state], allow_nan=False).encode()
