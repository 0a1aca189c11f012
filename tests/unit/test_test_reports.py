"""Test reports are as hostile as what wrote them: each file is read whole and checked, or it gives no test."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from jobmanager.model.result import CaseReport
from jobmanager.results.test_reports import (
    ALL_FILES_LIMIT,
    ALL_TEXTS_LIMIT,
    CUT,
    FILE_LIMIT,
    MAX_FILES,
    MAX_TESTS,
    NAME_LIMIT,
    TEXT_LIMIT,
    parsed_tests,
)
from tests.unit.test_docs import table, text_of

PYTEST = b"""<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="1"
 skipped="2" tests="7" time="0.041" timestamp="2026-11-27T23:02:54.378936+00:00" hostname="vm"><testcase classname="tests.test_sum"
 name="test_adds[a]" time="0.001"><properties><property name="points" value="2.5" /><property name="by" value="x" /></properties>
<system-out>--- Captured Out ---
out#x1B[31m

</system-out><system-err>--- Captured Err ---
oh
</system-err></testcase><testcase classname="tests.test_sum.TestMore" name="test_list" file="tests/test_sum.py" line="4"
 time="0.002"><failure message="assert [1, 2] == [1, 3]&#10;  &#10;  At index 1 diff: 2 != 3">def test_list():
&gt;       assert [1, 2] == [1, 3]
E       assert [1, 2] == [1, 3]

tests/test_sum.py:5: AssertionError</failure></testcase><testcase classname="tests.test_sum" name="test_end" time="0.0"
 /><testcase classname="tests.test_sum" name="test_end" time="0.000"><error
 message="failed on teardown with &quot;ValueError: x&quot;">E   ValueError: x
</error></testcase><testcase classname="tests.test_sum" name="test_later" time="0.000"><skipped type="pytest.skip"
 message="later">tests/test_sum.py:9: later</skipped></testcase><testcase classname="tests.test_sum" name="test_known"
 time="0.000"><skipped type="pytest.xfail" message="" /></testcase><testcase classname="" name="tests.test_broken" time="0"><error
 message="collection failure">ImportError: No module named 'x'</error></testcase></testsuite></testsuites>"""

SUREFIRE = b"""<?xml version="1.0" encoding="UTF-8"?>
<testsuite xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xsi:noNamespaceSchemaLocation="https://maven.apache.org/surefire/maven-surefire-plugin/xsd/surefire-test-report.xsd"
  version="3.0" name="org.example.StackTest" time="1,234.5" tests="4" errors="1" skipped="1" failures="1" flakes="1">
  <properties>
    <property name="java.version" value="17.0.15"/>
    <property name="points" value="of no test"/>
  </properties>
  <testcase name="pushes" classname="org.example.StackTest" time="1,234.5"/>
  <testcase name="flaky" classname="org.example.StackTest" time="0.001">
    <flakyFailure message="expected:&lt;2&gt; but was:&lt;1&gt;" type="java.lang.AssertionError">
      <stackTrace><![CDATA[java.lang.AssertionError: first
\tat org.example.StackTest.flaky(StackTest.java:9)
]]></stackTrace>
      <system-out><![CDATA[run 0 & <more>
]]></system-out>
    </flakyFailure>
    <flakyError type="java.lang.IllegalStateException"><stackTrace>second</stackTrace></flakyError>
  </testcase>
  <testcase name="pops" classname="org.example.StackTest" time="0.002">
    <failure message="expected:&lt;a&gt; but was:&lt;b&gt;" type="java.lang.AssertionError"><![CDATA[java.lang.AssertionError: \
expected:<a> but was:<b>
]]></failure>
    <rerunFailure message="expected:&lt;a&gt; but was:&lt;c&gt;" type="java.lang.AssertionError">
      <stackTrace>once more</stackTrace>
    </rerunFailure>
    <system-err><![CDATA[err
]]></system-err>
  </testcase>
  <testcase name="throws" classname="org.example.StackTest" time="0">
    <error message="boom" type="java.lang.RuntimeException">java.lang.RuntimeException: boom</error>
    <rerunError message="boom" type="java.lang.RuntimeException"><stackTrace>boom</stackTrace></rerunError>
  </testcase>
  <testcase name="ignored" classname="org.example.StackTest" time="0"><skipped message="later"/></testcase>
</testsuite>"""

CTEST = b"""<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="Linux-c++"
\ttests="6"
\tfailures="2"
\tdisabled="1"
\tskipped="2"
\thostname=""
\ttime="1"
\ttimestamp="2026-11-27T23:03:11"
\t>
\t<testcase name="good" classname="good" time="0.00207634" status="run">
\t\t<properties>
\t\t\t<property name="cmake_labels" value="a;b"/>
\t\t</properties>
\t\t<system-out>a[NON-XML-CHAR-0x1B][31m&lt;b&gt;&amp;
</system-out>
\t</testcase>
\t<testcase name="bad" classname="bad" time="0.0014472" status="fail">
\t\t<failure message=""/>
\t\t<system-out>x
</system-out>
\t</testcase>
\t<testcase name="off" classname="off" time="0" status="disabled">
\t\t<system-out>Disabled</system-out>
\t</testcase>
\t<testcase name="skip" classname="skip" time="0.00158843" status="notrun">
\t\t<skipped message="SKIP_RETURN_CODE=77"/>
\t\t<system-out></system-out>
\t</testcase>
\t<testcase name="gone" classname="gone" time="0" status="notrun">
\t\t<skipped message="Unable to find executable"/>
\t\t<system-out>Unable to find executable: /nonexistent/x</system-out>
\t</testcase>
\t<testcase name="slow" classname="slow" time="1.00483" status="fail">
\t\t<failure message="Timeout"/>
\t\t<system-out></system-out>
\t</testcase>
</testsuite>"""

GRADLE = b"""<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="org.example.QueueTest" tests="3" skipped="1" failures="1" errors="0" timestamp="2026-11-27T23:02:54.378Z" \
hostname="h" time="0.045">
  <properties/>
  <testcase name="some test()" classname="org.example.QueueTest" time="0.015"/>
  <testcase name="some failing test()" classname="org.example.QueueTest" time="0.01">
    <failure message="java.lang.RuntimeException: Boo!" type="java.lang.RuntimeException">java.lang.RuntimeException: Boo!
\tat org.example.QueueTest.fails(QueueTest.java:3)
</failure>
  </testcase>
  <testcase name="some skipped test()" classname="org.example.QueueTest" time="0.01">
    <skipped/>
  </testcase>
  <system-out><![CDATA[of the class, and of no test
]]></system-out>
  <system-err><![CDATA[]]></system-err>
</testsuite>"""


def outcomes(*reports: bytes) -> dict[str, str]:
    tests, problems = parsed_tests({f"{number}.xml": report for number, report in enumerate(reports)})
    assert problems == ()
    assert all(test["passed"] is (test["status"] == "passed") for test in tests.values())
    return {name: test["status"] for name, test in tests.items()}


def only_test(report: bytes) -> CaseReport:
    tests, problems = parsed_tests({"report": report})
    assert problems == ()
    (test,) = tests.values()
    return test


def only_problem(report: bytes) -> str:
    """What is told of a file that gives no test."""
    tests, problems = parsed_tests({"report": report})
    assert tests == {}
    (problem,) = problems
    assert problem.startswith("'report': ")
    assert problem.isprintable() and len(problem) < 500
    return problem


def suite(inside: str) -> bytes:
    return f"<testsuite>{inside}</testsuite>".encode()


def in_json(**fields: object) -> bytes:
    return json.dumps({"tests": [{"name": "a", "passed": True, **fields}]}).encode()


# ---- what the tools write


def test_a_report_of_pytest() -> None:
    assert outcomes(PYTEST) == {
        "tests.test_sum.test_adds[a]": "passed",
        "tests.test_sum.TestMore.test_list": "failed",
        "tests.test_sum.test_end": "passed",
        "tests.test_sum.test_end (2)": "error",
        "tests.test_sum.test_later": "skipped",
        "tests.test_sum.test_known": "skipped",
        "tests.test_broken": "error",
    }
    tests, _ = parsed_tests({"junit.xml": PYTEST})
    assert tests["tests.test_sum.test_adds[a]"] == {
        "name": "tests.test_sum.test_adds[a]",
        "passed": True,
        "status": "passed",
        "points": 2.5,
        "max_points": None,
        "output": "--- Captured Out ---\nout#x1B[31m\n--- Captured Err ---\noh",
        "expected": None,
        "actual": None,
        "time_s": 0.001,
    }
    assert tests["tests.test_sum.test_end (2)"]["name"] == "tests.test_sum.test_end"
    message = "assert [1, 2] == [1, 3]\n  \n  At index 1 diff: 2 != 3\n"
    assert tests["tests.test_sum.TestMore.test_list"]["output"].startswith(f"{message}def test_list():\n")
    assert tests["tests.test_sum.test_later"]["output"] == "tests/test_sum.py:9: later"  # the message, which it holds, comes once
    assert tests["tests.test_sum.test_known"]["output"] == "pytest.xfail"


def test_a_report_that_pytest_has_just_written(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
        import pytest

        @pytest.mark.parametrize("text", ["\\x00", "é", "<"])
        def test_text(text, record_property):
            record_property("points", 0.5)
            print("\\x1b[31m" + text)

        def test_fails():
            assert "a" == "b"
        """)
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junit-xml=out.xml", "-o", "junit_logging=all", "."]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=100, check=False)

    tests, problems = parsed_tests({"out.xml": (tmp_path / "out.xml").read_bytes()})

    assert problems == ()
    assert [(name, test["status"], test["points"]) for name, test in tests.items()] == [
        (r"test_it.test_text[\x00]", "passed", 0.5),
        (r"test_it.test_text[\xe9]", "passed", 0.5),
        ("test_it.test_text[<]", "passed", 0.5),
        ("test_it.test_fails", "failed", None),
    ]


def test_a_report_of_surefire_with_tests_that_ran_again() -> None:
    assert outcomes(SUREFIRE) == {
        "org.example.StackTest.pushes": "passed",
        "org.example.StackTest.flaky": "passed",
        "org.example.StackTest.pops": "failed",
        "org.example.StackTest.throws": "error",
        "org.example.StackTest.ignored": "skipped",
    }
    tests, _ = parsed_tests({"TEST-org.example.StackTest.xml": SUREFIRE})
    pushes, flaky, pops, throws, ignored = tests.values()
    assert (pushes["time_s"], pushes["points"], pushes["output"]) == (1234.5, None, "")
    assert flaky["output"].splitlines() == [
        "an earlier try failed: expected:<2> but was:<1>",
        "java.lang.AssertionError: first",
        "\tat org.example.StackTest.flaky(StackTest.java:9)",
        "run 0 & <more>",
        "an earlier try failed: java.lang.IllegalStateException",
        "second",
    ]
    assert pops["output"].splitlines() == [
        "java.lang.AssertionError: expected:<a> but was:<b>",
        "expected:<a> but was:<c>",
        "once more",
        "err",
    ]
    assert throws["output"] == "java.lang.RuntimeException: boom\nboom\nboom"
    assert ignored["output"] == "later"


def test_a_report_of_ctest() -> None:
    assert outcomes(CTEST) == {
        "good": "passed",
        "bad": "failed",
        "off": "skipped",
        "skip": "skipped",
        "gone": "skipped",
        "slow": "failed",
    }
    tests, _ = parsed_tests({"ctest.xml": CTEST})
    assert tests["good"]["output"] == "a[NON-XML-CHAR-0x1B][31m<b>&"
    assert tests["bad"]["output"] == "x"
    assert tests["slow"]["output"] == "Timeout"
    assert tests["slow"]["time_s"] == 1.00483


def test_a_report_of_gradle() -> None:
    assert outcomes(GRADLE) == {
        "org.example.QueueTest.some test()": "passed",
        "org.example.QueueTest.some failing test()": "failed",
        "org.example.QueueTest.some skipped test()": "skipped",
    }
    tests, _ = parsed_tests({"gradle.xml": GRADLE})
    assert [test["output"] for test in tests.values()] == [
        "",
        "java.lang.RuntimeException: Boo!\n\tat org.example.QueueTest.fails(QueueTest.java:3)",
        "",
    ]


def test_suites_within_suites_and_tests_outside_of_a_suite() -> None:
    inner = '<testsuite name="inner"><testcase name="b"/></testsuite>'
    report = f'<testsuites><testcase name="a"/><testsuite>{inner}<testcase name="c"/></testsuite></testsuites>'
    assert outcomes(report.encode()) == {"a": "passed", "b": "passed", "c": "passed"}


# ---- JUnit XML, one thing at a time


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ('name="a" classname="b"', "b.a"),
        ('name="a"', "a"),
        ('name="a" classname=""', "a"),
        ('name=" a " classname="a"', "a"),
        ('classname="b"', "b"),
        ("", "test 1"),
        ('name="&#10;a&#10;b&#x9b;&#x202e;"', r"a\nb\x9b\u202e"),
        (f'name="{"a" * NAME_LIMIT}"', "a" * NAME_LIMIT),
        (f'name="{"a" * (NAME_LIMIT + 1)}"', "a" * (NAME_LIMIT - 1) + "…"),
    ],
)
def test_the_name_of_a_test(attributes: str, name: str) -> None:
    assert list(parsed_tests({"report": suite(f"<testcase {attributes}/>")})[0]) == [name]


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("0", 0.0), ("1.5", 1.5), ("1,234.5", 1234.5), ("1e-05", 1e-05), ("", None), ("-1", None), ("nan", None), ("inf", None),
        ("1e400", None), ("1_0", None), ("٣", None), ("1.2.3", None), ("9" * 100_000, None), ("a", None),
    ],
)  # fmt: skip
def test_a_time_that_makes_no_sense_is_no_time(time: str, seconds: float | None) -> None:
    assert only_test(suite(f'<testcase name="a" time="{time}"/>'))["time_s"] == seconds


@pytest.mark.parametrize(
    ("inside", "status"),
    [
        ("", "passed"),
        ("<skipped/>", "skipped"),
        ("<skipped/><failure/>", "failed"),
        ("<failure/><skipped/>", "failed"),
        ("<failure/><error/>", "failed"),
        ("<error/><failure/>", "error"),
        ("<rerunFailure/>", "failed"),
        ("<flakyError/><flakyFailure/>", "passed"),
        ("<system-out><failure/></system-out>", "passed"),
        ("<unknown><error/></unknown>", "passed"),
    ],
)
def test_the_children_of_a_test_tell_its_status(inside: str, status: str) -> None:
    assert only_test(suite(f"<testcase>{inside}</testcase>"))["status"] == status


@pytest.mark.parametrize(
    ("status", "expected"),
    [("run", "passed"), ("fail", "failed"), ("disabled", "skipped"), ("notrun", "skipped"), ("something", "passed")],
)
def test_the_status_of_ctest_counts_without_a_child(status: str, expected: str) -> None:
    assert only_test(suite(f'<testcase status="{status}"/>'))["status"] == expected


def test_points_are_properties_of_a_test() -> None:
    properties = '<property name="points" value="1"/><property name="max_points" value="2e0"/><property/>'
    test = only_test(suite(f"<properties>{properties}</properties><testcase><properties>{properties}</properties></testcase>"))
    assert (test["points"], test["max_points"]) == (1.0, 2.0)


@pytest.mark.parametrize(
    "inside", ["{}", "<system-out>{}</system-out>", "<flakyFailure><properties>{}</properties></flakyFailure>"]
)
def test_a_property_at_another_place_is_no_points(inside: str) -> None:
    property_ = '<property name="points" value="1"/>'
    assert only_test(suite(f"<testcase>{inside.format(property_)}</testcase>"))["points"] is None


@pytest.mark.parametrize(
    ("property_", "problem"),
    [
        ('name="points" value="many"', "the points of test 'a' are no number, but 'many'"),
        ('name="points" value="nan"', "are no number"),
        ('name="max_points" value="1e999"', "the max_points of test 'a' are no number"),
        ('name="points"', "are no number, but ''"),
        ('name="points" value="1"/><property name="points" value="2"', "the points of test 'a' are set twice"),
    ],
)
def test_points_that_make_no_sense_make_the_file_unreadable(property_: str, problem: str) -> None:
    inside = f'<testcase name="ok"/><testcase name="a"><properties><property {property_}/></properties></testcase>'
    assert problem in only_problem(suite(inside))


NOT_JUNIT = {
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "a document type"),
    "html without a document type": (b"<html></html>", "its root element is 'html', neither testsuites nor testsuite"),
    "another root": (b'<testcase name="a"/>', "its root element is 'testcase'"),
    "a prefix": (b'<j:testsuite xmlns:j="x"><testcase/></j:testsuite>', "its root element is 'j:testsuite'"),
    "a long root": (b"<" + b"a" * (FILE_LIMIT - 3) + b"/>", "its root element is 'aaa"),
    "a test in a test": (suite('<testcase name="a"><testsuite><testcase/></testsuite></testcase>'), "stands in the testcase 'a'"),
    "nothing": (b"", "it is empty"),
    "white space": (b" \n\t\r\n", "it is empty"),
    "only a byte order mark": (b"\xef\xbb\xbf", "it is empty"),
    "text": (b"all is well", "neither JUnit XML nor JSON"),
    "nul": (b"\0" * 1000, "neither JUnit XML nor JSON"),
    "an archive": (b"\x1f\x8b\x08", "neither JUnit XML nor JSON"),
}


@pytest.mark.parametrize("kind", NOT_JUNIT)
def test_what_is_no_report_is_a_problem(kind: str) -> None:
    report, problem = NOT_JUNIT[kind]
    assert problem in only_problem(report)


NOT_WELL_FORMED = {
    "an end that is missing": suite('<testcase name="a"/>')[:-3],
    "two roots": suite('<testcase name="a"/>') * 2,
    "text behind": suite('<testcase name="a"/>') + b"x",
    "crossed": b"<testsuite><testcase></testsuite></testcase>",
    "an attribute twice": suite('<testcase name="a" name="b"/>'),
    "no such entity": suite("<testcase>&nbsp;</testcase>"),
    "a control character": suite("<testcase>\x1b</testcase>"),
    "a control character by number": suite("<testcase>&#27;</testcase>"),
    "nul in text": suite("<testcase>\0</testcase>"),
    "nul in a name": suite('<testcase name="\0"/>'),
    "a lone surrogate by number": suite('<testcase name="&#xD800;"/>'),
    "a lone surrogate": b'<testsuite><testcase name="\xed\xa0\x80"/></testsuite>',
    "no character": suite('<testcase name="\uffff"/>'),
    "bytes that are no UTF-8": b'<testsuite><testcase name="\xff"/></testsuite>',
    "latin-1, as it says": b'<?xml version="1.0" encoding="iso-8859-1"?><testsuite><testcase name="\xe9"/></testsuite>',
    "half a character of utf-16": b"\xff\xfe" + suite("<testcase/>").decode().encode("utf-16-le")[:-1],
    "utf-32": suite("<testcase/>").decode().encode("utf-32"),
    "a declaration in the middle": b' <?xml version="1.0"?><testsuite/>',
}


@pytest.mark.parametrize("kind", NOT_WELL_FORMED)
def test_a_file_that_is_not_well_formed_gives_no_test_at_all(kind: str) -> None:
    assert "it is not well-formed XML in UTF-8 or UTF-16: " in only_problem(NOT_WELL_FORMED[kind])


def test_a_report_that_is_cut_anywhere_gives_no_test() -> None:
    assert len(parsed_tests({"whole": SUREFIRE})[0]) == 5
    for end in range(1, len(SUREFIRE), 7):
        only_problem(SUREFIRE[:end])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-sig", "utf-16-be-sig"])
@pytest.mark.parametrize("declaration", ["", '<?xml version="1.0" encoding="{}"?>'])
def test_utf_8_and_utf_16_are_read(encoding: str, declaration: str) -> None:
    text = declaration.format(encoding[:6]) + '<testsuite><testcase name="é\N{GRINNING FACE}"/></testsuite>'
    data = ("\ufeff" + text).encode(encoding[:9]) if encoding.endswith("e-sig") else text.encode(encoding)
    assert list(parsed_tests({"report": data})[0]) == ["é\N{GRINNING FACE}"]


def test_a_declared_encoding_is_not_looked_up_among_pythons_codecs() -> None:
    assert outcomes(b'<?xml version="1.0" encoding="no-such-codec"?><testsuite><testcase name="a"/></testsuite>') == {"a": "passed"}


# ---- attacks on the XML parser

LAUGHS = b"".join(b'<!ENTITY l%d "%s">' % (number, b"&l%d;" % (number - 1) * 10) for number in range(1, 10))
DOCUMENT_TYPES = {
    "a billion laughs": b'<!DOCTYPE t [<!ENTITY l0 "lol">' + LAUGHS + b"]><testsuite><testcase>&l9;</testcase></testsuite>",
    "laughs in an attribute": b'<!DOCTYPE t [<!ENTITY l0 "lol">' + LAUGHS + b"]><testsuite><testcase name='&l9;'/></testsuite>",
    "quadratic blowup": b'<!DOCTYPE t [<!ENTITY a "%s">]><testsuite>%s</testsuite>' % (b"a" * 1_000_000, b"&a;" * 1_000_000),
    "an external entity": b'<!DOCTYPE t [<!ENTITY a SYSTEM "file:///etc/passwd">]><testsuite>&a;</testsuite>',
    "an entity of the network": b'<!DOCTYPE t [<!ENTITY a SYSTEM "http://127.0.0.1:1/">]><testsuite>&a;</testsuite>',
    "a parameter entity": b'<!DOCTYPE t [<!ENTITY % a SYSTEM "file:///etc/passwd"> %a;]><testsuite/>',
    "an external document type": b'<!DOCTYPE testsuite SYSTEM "file:///etc/passwd"><testsuite/>',
    "a public document type": b'<!DOCTYPE testsuite PUBLIC "-//x//y" "http://127.0.0.1:1/"><testsuite/>',
    "an empty document type": b"<!DOCTYPE testsuite><testsuite><testcase/></testsuite>",
    "a default attribute": b'<!DOCTYPE t [<!ATTLIST testcase name CDATA "a">]><testsuite><testcase/></testsuite>',
}


@pytest.mark.parametrize("kind", DOCUMENT_TYPES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_no_document_type_is_accepted(kind: str, encoding: str) -> None:
    report = DOCUMENT_TYPES[kind].decode().encode(encoding)[: FILE_LIMIT - 1]
    assert only_problem(report) == "'report': a document type or an entity declaration is not accepted"


FLOODS = {
    "nested elements": (b"<testsuite>" * 300_000, "it is nested too deep"),
    "elements": (b"<testsuite>" + b"<a/>" * 1_000_000 + b"</testsuite>", "it has more than 200000 elements"),
    "tests": (b"<testsuite>" + b"<testcase/>" * 300_000 + b"</testsuite>", "it has more than 200000 elements"),
    "a large attribute": (b"<testsuite><testcase name='" + b"a" * 16 * 1024**2 + b"'/></testsuite>", "it is larger than 4 MiB"),
    "one byte too many": (b"<testsuite>" + b" " * (FILE_LIMIT - 22) + b"</testsuite>", "it is larger than 4 MiB"),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_is_a_problem(kind: str) -> None:
    report, problem = FLOODS[kind]
    assert problem in only_problem(report)


def test_a_file_that_is_just_small_enough_is_read() -> None:
    assert len(parsed_tests({"report": b"<testsuite><testcase/>" + b" " * (FILE_LIMIT - 34) + b"</testsuite>"})[0]) == 1


def test_of_very_many_tests_the_first_count_and_the_cut_is_told() -> None:
    report = b"<testsuite>" + b"".join(b'<testcase name="t%d"/>' % number for number in range(100_000)) + b"</testsuite>"

    tests, problems = parsed_tests({"report": report, "second": suite("<testcase/>")})

    assert list(tests) == [f"t{number}" for number in range(MAX_TESTS)]
    assert problems == (
        f"'report': {100_000 - MAX_TESTS} of its 100000 tests do not count: {MAX_TESTS} are the most",
        f"'second': 1 of its 1 tests do not count: {MAX_TESTS} are the most",
    )


def test_a_large_report_takes_little_memory() -> None:
    program = """if True:
        from jobmanager.results.test_reports import parsed_tests
        report = b"<testsuite>" + b'<testcase name="x"/>' * 199_000 + b"</testsuite>"
        peak = lambda: int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) // 1024
        before = peak()
        tests, _ = parsed_tests({"a": report, "b": report, "c": report})
        print(len(tests), peak() - before)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=100)
    count, mib = map(int, done.stdout.split())
    assert count == MAX_TESTS
    assert mib < 40


# ---- texts


def test_control_characters_are_escaped_and_lines_are_kept() -> None:
    test = only_test(in_json(output="a\r\n\tb\x1b[31m\x00\u202e\N{GRINNING FACE}"))
    assert test["output"] == "a\n\tb\\x1b[31m\\x00\\u202e\N{GRINNING FACE}"
    report = suite("<testcase><failure message='&#x9b;m'>&#x9b;t&#13;&#10;\u2028</failure></testcase>")
    assert only_test(report)["output"] == "\\x9bm\n\\x9bt\n\\u2028"


@pytest.mark.parametrize("char", ["a", "é", "\N{GRINNING FACE}", "\n", "\x00", "\U000e0001"])
def test_a_long_text_is_cut_and_says_so(char: str) -> None:
    output = only_test(in_json(output=char * (TEXT_LIMIT + 1)))["output"]
    assert output.endswith(f"\n{CUT}")
    assert len(output) == TEXT_LIMIT + 1 + len(CUT)


def test_a_text_that_just_fits_is_whole() -> None:
    test = only_test(in_json(output="a" * TEXT_LIMIT, diff={"expected": "b" * TEXT_LIMIT, "actual": "\0" * (TEXT_LIMIT // 4)}))
    assert test["output"] == "a" * TEXT_LIMIT
    assert test["expected"] == "b" * TEXT_LIMIT
    assert test["actual"] == "\\x00" * (TEXT_LIMIT // 4)


def test_a_text_that_fits_until_it_is_escaped_is_cut_and_says_so() -> None:
    assert only_test(in_json(output="\0" * (TEXT_LIMIT // 4 + 1)))["output"] == "\\x00" * (TEXT_LIMIT // 4) + f"\n{CUT}"


def test_all_texts_together_are_bounded() -> None:
    report = suite("".join(f'<testcase name="{number}"><failure>{"x" * 60_000}</failure></testcase>' for number in range(60)))

    tests, _ = parsed_tests({"a": report, "b": report})

    outputs = [test["output"] for test in tests.values()]
    assert sum(len(output.removesuffix(f"\n{CUT}")) for output in outputs) == ALL_TEXTS_LIMIT
    whole = ALL_TEXTS_LIMIT // 60_000
    assert {len(output) for output in outputs[:whole]} == {60_000}
    assert {output[-len(CUT) :] for output in outputs[whole:]} == {CUT}
    assert [test["status"] for test in tests.values()] == ["failed"] * 120


# ---- several files


def test_names_that_come_again_are_numbered_in_the_order_of_the_files() -> None:
    one = suite('<testcase name="a" time="1"/><testcase name="a" time="2"/><testcase name="a (2)" time="3"/>')
    two = json.dumps({"tests": [{"name": "a", "passed": False}, {"name": "a (3)", "passed": False}]}).encode()

    tests, problems = parsed_tests({"2.json": two, "1.xml": one})

    assert problems == ()
    assert [(name, test["name"], test["time_s"]) for name, test in tests.items()] == [
        ("a", "a", 1.0),
        ("a (2)", "a", 2.0),
        ("a (2) (2)", "a (2)", 3.0),
        ("a (3)", "a", None),
        ("a (3) (2)", "a (3)", None),
    ]


def test_a_bad_file_changes_nothing_of_the_others() -> None:
    tests, problems = parsed_tests({"a\x1b\udcff.xml": b"<testsuite>", "b": suite('<testcase name="b"/>'), "c" * 500: b"{"})
    assert list(tests) == ["b"]
    assert [problem.partition(": ")[0] for problem in problems] == [r"'a\x1b\udcff.xml'", "'" + "c" * 59 + "…'"]


def test_the_names_of_files_say_nothing_about_their_form() -> None:
    files = {"a.json": suite('<testcase name="a"/>'), "b.xml": in_json(name="b"), "c": b"\xef\xbb\xbf\n" + in_json(name="c")}
    tests, problems = parsed_tests(files)
    assert (list(tests), problems) == (["a", "b", "c"], ())


def test_files_past_the_bounds_are_not_read_and_this_is_told() -> None:
    large = b"<testsuite>" + b" " * (FILE_LIMIT - 23) + b"</testsuite>"
    files = {f"{number}": large for number in range(ALL_FILES_LIMIT // FILE_LIMIT)}
    assert parsed_tests(files)[1] == ()
    assert parsed_tests({**files, "x": b"<testsuite/>"})[1] == ("'x': it was not read: the files are larger than 16 MiB in all",)

    small = {f"{number:04}": suite(f'<testcase name="{number}"/>') for number in range(MAX_FILES + 3)}
    tests, problems = parsed_tests(small)
    assert (len(tests), problems) == (MAX_FILES, (f"3 files were not read: {MAX_FILES} are the most",))


def test_no_file_gives_no_test() -> None:
    assert parsed_tests({}) == ({}, ())


# ---- the JSON form


def test_a_report_in_json() -> None:
    report = {
        "tests": [
            {"name": "adds", "passed": True},
            {
                "name": "divides", "passed": False, "points": 1, "max_points": 2.5, "output": "no\n",
                "diff": {"expected": "2", "actual": "3\x1b"},
            },
        ]
    }  # fmt: skip
    tests, problems = parsed_tests({"tests.json": json.dumps(report).encode()})
    nothing = {"points": None, "max_points": None, "output": "", "expected": None, "actual": None, "time_s": None}
    assert problems == ()
    assert tests == {
        "adds": {**nothing, "name": "adds", "passed": True, "status": "passed"},
        "divides": {
            "name": "divides", "passed": False, "status": "failed", "points": 1.0, "max_points": 2.5, "output": "no\n",
            "expected": "2", "actual": "3\\x1b", "time_s": None,
        },
    }  # fmt: skip


BAD_JSON = [
    (b"{", "it is not JSON"),
    (b'{"tests": []} x', "it is not JSON"),
    (b'{"tests": [' + b"[" * 100_000, "it is nested too deep"),
    (b'{"tests": ' * 100_000, "it is nested too deep"),
    (b'{"tests": [\xff]}', "it is not UTF-8"),
    (b'{"tests": [{"name": "a", "name": "b", "passed": true}]}', "it names a field twice"),
    (b'{"tests": [], "tests": []}', "it names a field twice"),
    (b'{"tests": [{"name": "a", "passed": true, "points": NaN}]}', "NaN is no JSON"),
    (b'{"tests": [{"name": "a", "passed": true, "points": -Infinity}]}', "-Infinity is no JSON"),
    (b'{"tests": [{"name": "a", "passed": true, "points": 1e999}]}', "points of test 1, 'a' is not finite"),
    (b'{"tests": [{"name": "a", "passed": true, "points": ' + b"9" * 301 + b"}]}", "a number of 301 digits"),
    (b"[]", 'it is no object with the one field "tests", a list'),
    (b"{}", "it is no object with the one field"),
    (b'{"tests": {}}', "it is no object with the one field"),
    (b'{"tests": [], "grade": 100}', "it is no object with the one field"),
    (b'{"tests": [[]]}', "test 1 is no object"),
    (b'{"tests": [{}]}', "test 1 has no name and no passed"),
    (b'{"tests": [{"name": "a"}]}', "test 1 has no passed"),
    (in_json(name=5), "the name of test 1 is no text"),
    (in_json(name=""), "the name of test 1 has 0 characters: 1 to 300 are allowed"),
    (in_json(name="a" * 301), "the name of test 1 has 301 characters"),
    (in_json(name="\ud800"), "the name of test 1 holds a lone surrogate"),
    (in_json(passed=1), "passed of test 1, 'a' is neither true nor false"),
    (in_json(passed="yes"), "passed of test 1, 'a' is neither true nor false"),
    (in_json(points=True), "points of test 1, 'a' is no number"),
    (in_json(points=None), "points of test 1, 'a' is no number"),
    (in_json(max_points="1"), "max_points of test 1, 'a' is no number"),
    (in_json(output=None), "output of test 1, 'a' is no text"),
    (in_json(output=["a"]), "output of test 1, 'a' is no text"),
    (in_json(output="\udfff"), "output of test 1, 'a' holds a lone surrogate"),
    (in_json(diff="a"), "diff of test 1, 'a' is no object"),
    (in_json(diff={"expected": "a"}), "diff of test 1, 'a' has no actual"),
    (in_json(diff={"expected": "a", "actual": 1}), "actual of test 1, 'a' is no text"),
    (in_json(diff={"expected": "\ud800", "actual": ""}), "expected of test 1, 'a' holds a lone surrogate"),
    (in_json(diff={"expected": "", "actual": "", "more": ""}), "diff of test 1, 'a' has fields that mean nothing here: 'more'"),
    (in_json(score=1, **{"\x1b\ud800": 1}), r"test 1 has fields that mean nothing here: '\x1b\ud800', 'score'"),
    (in_json(**{"x" * 1000: 1}), "xx…'"),
    (b'{"tests": [{"name": "a", "passed": true}, {"name": "a", "passed": true}]}', "test 2 has the name of an earlier one: 'a'"),
    (b'{"tests": [' + b",".join([b"0"] * (MAX_TESTS + 1)) + b"]}", f"it has {MAX_TESTS + 1} tests: {MAX_TESTS} are the most"),
]


@pytest.mark.parametrize(("report", "problem"), BAD_JSON)
def test_one_wrong_field_makes_a_report_in_json_unreadable(report: bytes, problem: str) -> None:
    assert problem in only_problem(report)


def test_the_example_of_the_documents_is_read() -> None:
    block = re.search(r"(?ms)^```json\n(.*?)^```$", text_of("docs/pipelines.md"))
    assert block is not None
    assert outcomes(block[1].encode()) == {"adds": "passed", "divides by zero": "failed"}


def test_the_bounds_are_those_of_the_documents() -> None:
    rows = table(text_of("docs/pipelines.md"), "of the reports", "at most")
    assert [row[1].split(",")[0] for row in rows] == [
        f"{MAX_FILES}",
        f"{FILE_LIMIT // 1024**2} MiB",
        f"{ALL_FILES_LIMIT // 1024**2} MiB",
        f"{MAX_TESTS}",
        f"{NAME_LIMIT} characters",
        f"{TEXT_LIMIT} characters",
        f"{ALL_TEXTS_LIMIT} characters",
    ]


def test_huge_points_are_a_number() -> None:
    assert only_test(b'{"tests": [{"name": "a", "passed": true, "points": ' + b"9" * 299 + b"}]}")["points"] == 1e299


# ---- anything at all

PIECES = [
    *(b"<testsuite>", b"</testsuite>", b"<testcase", b"/>", b">", b"</testcase>", b'name="', b"<failure>", b"<![CDATA[", b"]]>"),
    *(b"<!--", b"<?xml", b"<!DOCTYPE a [", b"<!ENTITY a 'b'>", b"&a;", b"&#0;", b"\0", b"\xff", b"\xfe\xff", b"\xed\xa0\x80"),
    *(b"\xef\xbb\xbf", b"'", b"{", b"}", b"[", b"]", b",", b'"name":', b'"passed":true', b"NaN", b"1e999", rb"\ud800", b'"'),
    *(b"points", b"\x1b", b"\xc2\x9b"),
]
JSON = in_json(points=1, output="x", diff={"expected": "a", "actual": "b"})
SEEDS = [PYTEST, SUREFIRE, CTEST, GRADLE, JSON, SUREFIRE.decode().encode("utf-16")]


def mutated(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.randint(1, 6)):
        start = dice.randrange(len(changed) + 1)
        end = start + dice.choice([0, 0, 1, 5, 200])
        changed[start:end] = dice.choice([dice.choice(PIECES), dice.randbytes(2), bytes(changed[start // 2 : start // 2 + 40])])
    return bytes(changed)


def check(test: CaseReport) -> None:
    assert set(test) == set(CaseReport.__annotations__)
    assert type(test["passed"]) is bool
    assert test["status"] in ("passed", "failed", "error", "skipped")
    for number in (test["points"], test["max_points"], test["time_s"]):
        assert number is None or type(number) is float
    for text in (test["name"], test["output"], test["expected"] or "", test["actual"] or ""):
        assert type(text) is str
        assert text.replace("\n", "").replace("\t", "").isprintable()
    json.dumps(test, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_whatever_a_file_holds_the_result_is_plain_data_or_a_problem(seed: int) -> None:
    dice = random.Random(seed)
    read = 0
    for _ in range(1500):
        tests, problems = parsed_tests({"a": mutated(SEEDS[seed], dice), "b": mutated(SEEDS[seed], dice)})
        assert all(problem.isprintable() and len(problem) < 500 for problem in problems)
        for test in tests.values():
            check(test)
        read += bool(tests)
    assert read > 0
