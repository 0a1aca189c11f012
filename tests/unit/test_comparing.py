"""How an output is compared with what is expected: each check's rule, where it first differs, and hostile outputs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from jobmanager.errors import InvalidTask
from jobmanager.model.checks import Check, Exact, Floats, Lines, Tokens
from jobmanager.results.comparing import compare

EXACT, LINES, TOKENS = Exact(), Lines(), Tokens()
NEAR = Floats(absolute=0.01, relative=1e-6)


@pytest.mark.parametrize(
    ("check", "expected", "output", "correct"),
    [
        (EXACT, b"a\n", b"a\n", True),
        (EXACT, b"a\n", b"a", False),
        (EXACT, b"", b"", True),
        (LINES, b"a\nb\n", b"a  \r\nb\t\n\n \n", True),
        (LINES, b"a\nb", b"a\nb\n", True),
        (LINES, b"a\nb\n", b" a\nb\n", False),
        (LINES, b"a\n\nb\n", b"a\nb\n", False),
        (LINES, b"a\n\n\nb\n", b"a\n \n\t\nb", True),
        (LINES, b"a\n", b"a\n\n\nb", False),
        (LINES, b"", b" \n\n", True),
        (LINES, b"a\nb\n", b"a\n", False),
        (TOKENS, b"1 2\n3\n", b"1\n2 3", True),
        (TOKENS, b"1 2", b"12", False),
        (TOKENS, b"1 2", b"1 2 3", False),
        (TOKENS, b"1 2", b"1", False),
        (TOKENS, "é x".encode(), "é\tx\x0b".encode(), True),
        (TOKENS, b"a b", "a\u00a0b".encode(), False),
        (TOKENS, b"1.0", b"1", False),
        (Floats(), b"1.0 2", b"1 2.000", True),
        (NEAR, b"1.0", b"1.009", True),
        (NEAR, b"1.0", b"1.011", False),
        (NEAR, b"1000000", b"1000000.9", True),
        (NEAR, b"-1000000", b"-999999.1", True),
        (NEAR, b"0", b"1e-3", True),
        (NEAR, b"YES 1.5", b"YES 1.501", True),
        (NEAR, b"YES 1.5", b"NO 1.5", False),
        (NEAR, b"nan", b"nan", True),
        (NEAR, b"1", b"nan", False),
        (NEAR, b"1", b"inf", False),
        (NEAR, b"1", b"1e999", False),
        (NEAR, b"1", b"0x1", False),
        (NEAR, b"10", b"1_0", False),
        (NEAR, b"1", "\u0661".encode(), False),
        (NEAR, b"1", b"1" * 1000, False),
    ],
)
def test_each_check_has_its_rule(check: Check, expected: bytes, output: bytes, correct: bool) -> None:
    compared = compare(check, expected, output)
    assert (compared.is_correct, bool(compared.difference)) == (correct, not correct)


@pytest.mark.parametrize(
    ("check", "expected", "output", "difference"),
    [
        (EXACT, b"ab\ncd\n", b"ab\ncx\n", r"line 2, byte 2: 'x\\n' is not what is expected"),
        (EXACT, b"ab", b"a", "the output ends, and more is expected"),
        (EXACT, b"a", b"ab", "line 1, byte 2: 'b' is not what is expected"),
        (LINES, b"a\n\nb\nc", b"a\n\nb\nx  \n", "line 4: 'x' is not what is expected"),
        (LINES, b"a\nb", b"a\n", "the output ends, and more is expected: another line"),
        (LINES, b"a", b"a\n\nb", "line 2: '' is more than is expected"),
        (TOKENS, b"1 2 3", b"1\n2\n4", "line 3: '4' is not what is expected"),
        (TOKENS, b"1 2", b"1 2\n\n3", "line 3: '3' is more than is expected"),
        (TOKENS, b"x", b"\x1b[31m\xff" + b"y" * 100, r"line 1: '\\x1b[31m\\xff" + "y" * 34 + "'..." + " is not what is expected"),
    ],
)
def test_where_it_first_differs_is_told_without_what_is_expected(
    check: Check, expected: bytes, output: bytes, difference: str
) -> None:
    assert compare(check, expected, output).difference == difference


@given(some.binary(max_size=200), some.binary(max_size=200), some.sampled_from([EXACT, LINES, TOKENS, NEAR, Floats()]))
def test_any_output_can_be_compared_in_one_line_and_equal_is_correct(expected: bytes, output: bytes, check: Check) -> None:
    compared = compare(check, expected, output)
    assert compared.difference.isprintable() and len(compared.difference) < 300
    assert compare(check, expected, expected).is_correct
    assert compare(EXACT, expected, output).is_correct == (expected == output)
    if compare(EXACT, expected, output).is_correct or compare(LINES, expected, output).is_correct:
        assert compare(TOKENS, expected, output).is_correct


@given(some.lists(some.sampled_from([b"a", b"b", b" ", b"\n", b"\t", b"\r\n"]), max_size=30).map(b"".join))
def test_lines_and_words_are_those_of_python(content: bytes) -> None:
    stripped = [line.rstrip() for line in content.split(b"\n")]
    while stripped and not stripped[-1]:
        stripped.pop()
    assert compare(LINES, b"\n".join(stripped), content).is_correct
    assert compare(TOKENS, b"\n".join(content.split()), content).is_correct


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf"), "1", None])
def test_a_tolerance_that_makes_no_sense_is_refused(tolerance: object) -> None:
    with pytest.raises(InvalidTask, match="absolute must be a number from 0 on"):
        Floats(absolute=tolerance)  # type: ignore[arg-type]
