"""A results file: torn lines are taken out, anything else that is not as it was written is refused; and how two files differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmanager import JobInput, JobResult, Outcome, Task, compare
from jobmanager.batch.stored_results import ResultKey, StoredResults
from jobmanager.errors import InvalidInput, InvalidValue
from tests.conftest import eventually

TASK = Task("busybox", command="cat", name="the task")
A, B, C = (ResultKey(key, 1) for key in "abc")


def result(job_id: str, outcome: Outcome = Outcome.SUCCESS, grade: float = 100.0) -> JobResult:
    return JobResult(job_id=job_id, outcome=outcome, grade=grade, stdout=b"\0 \xff\n" * 10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


@pytest.fixture
def written(path: Path) -> Iterator[Path]:
    """A file with the results of A and B."""
    write(path, {A: result("1"), B: result("2")})
    return path


def write(path: Path, results: dict[ResultKey, JobResult]) -> None:
    stored = StoredResults(str(path), TASK)
    for key, each in results.items():
        stored.append(key, each)
    stored.close()


def test_what_was_written_is_there_again(written: Path) -> None:
    stored = StoredResults(str(written), TASK)
    assert (A in stored, B in stored, C in stored) == (True, True, False)
    assert stored.read(B) == result("2")
    stored.append(C, result("3"))
    assert stored.read(C) == result("3")
    stored.close()
    assert [json.loads(line).get("key") for line in written.read_text().splitlines()] == [None, "a", "b", "c"]


def test_wherever_the_last_line_is_torn_the_others_are_there_and_it_is_taken_out(written: Path, caplog) -> None:
    whole = written.read_bytes()
    end_of_a = whole.rindex(b"\n", 0, -1) + 1
    for length in range(end_of_a + 1, len(whole) - 1):
        written.write_bytes(whole[:length])
        stored = StoredResults(str(written), TASK)
        assert (A in stored, B in stored) == (True, False)
        stored.close()
        assert written.read_bytes() == whole[:end_of_a]
    eventually(lambda: "its last line was torn" in caplog.text)


def test_a_last_line_without_its_end_is_whole(written: Path) -> None:
    whole = written.read_bytes()
    written.write_bytes(whole[:-1])
    write(written, {C: result("3")})
    assert written.read_bytes().startswith(whole)
    stored = StoredResults(str(written), TASK)
    assert stored.read(B) == result("2") and stored.read(C) == result("3")
    stored.close()


def test_wherever_the_first_line_is_torn_the_file_begins_anew(written: Path) -> None:
    first = written.read_bytes().splitlines(keepends=True)[0]
    for length in range(len(first)):
        written.write_bytes(first[:length])
        write(written, {})
        assert written.read_bytes() == first


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda lines: [b"a diary, in one line"], "is no results file"),
        (lambda lines: [b'{"jobmanager": "other"}\n'], "is no results file"),
        (lambda lines: [lines[0].replace(b'"form":1', b'"form":2')], "its form is 2, and this version knows 1"),
        (lambda lines: [lines[0], lines[1][:-9] + b"\n", lines[2]], "line 2 is damaged; take it out"),
        (lambda lines: [lines[0], lines[1], b"[]\n"], "line 3 is damaged"),
        (lambda lines: [lines[0], lines[1].replace(b'"repeat":1', b'"repeat":"1"')], "line 2 is damaged"),
        (lambda lines: [lines[0].replace(b'"task":"', b'"task":"0')], "has the results of another task .'the task'."),
    ],
)
def test_what_is_no_file_of_ours_is_refused_and_left_as_it_is(written: Path, make, message: str) -> None:
    written.write_bytes(b"".join(make(written.read_bytes().splitlines(keepends=True))))
    before = written.read_bytes()
    with pytest.raises(InvalidValue, match=message):
        StoredResults(str(written), TASK)
    assert written.read_bytes() == before


def test_another_task_is_refused_and_the_same_one_made_again_is_not(written: Path) -> None:
    StoredResults(str(written), Task("busybox", command="cat", name="the task")).close()
    with pytest.raises(InvalidValue, match="another task"):
        StoredResults(str(written), Task("busybox", command="cat", files={"a": "b"}, name="the task"))


def test_a_second_writer_is_refused_until_the_first_has_let_go(written: Path) -> None:
    first = StoredResults(str(written), TASK)
    with pytest.raises(InvalidValue, match="another batch writes to it"):
        StoredResults(str(written), TASK)
    first.close()
    first.append(C, result("late"))  # a callback that comes too late
    second = StoredResults(str(written), TASK)
    assert C not in second
    second.close()


def test_a_result_that_was_changed_by_hand_is_read_with_care(written: Path) -> None:
    written.write_bytes(written.read_bytes().replace(b'"outcome":"success"', b'"outcome":"perfect"'))
    stored = StoredResults(str(written), TASK)
    with pytest.raises(InvalidValue, match="outcome"):
        stored.read(A)
    stored.close()


def test_a_folder_or_a_pipe_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        StoredResults(str(tmp_path), TASK)
    with pytest.raises(InvalidValue, match="is no plain file"):
        StoredResults("/dev/null", TASK)


# ---- compare


def test_changed_verdicts_come_first_then_grades_then_what_is_only_in_one(tmp_path: Path) -> None:
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    names = {key: ResultKey(key, 1) for key in ("same", "grade", "gone", "verdict", "new")}
    write(
        old,
        {
            names["same"]: result("1"),
            names["grade"]: result("2", grade=50),
            names["gone"]: result("3"),
            names["verdict"]: result("4"),
        },
    )
    write(
        new,
        {
            names["new"]: result("5"),
            names["verdict"]: result("6", Outcome.FAILED, 0.0),
            names["grade"]: result("7"),
            names["same"]: result("8"),
        },
    )

    found = compare(old, new)

    assert [(each.key, each.difference) for each in found.changes] == [
        ("verdict", "verdict"),
        ("grade", "grade"),
        ("gone", "only_old"),
        ("new", "only_new"),
    ]
    assert found.unchanged == 1
    first = found.changes[0]
    assert (first.old, first.new, first.old_grade, first.new_grade) == (Outcome.SUCCESS, Outcome.FAILED, 100.0, 0.0)
    assert found.to_dict()["changes"][0]["new"] == "failed"
    assert type(found).from_json(found.to_json()) == found


def test_pairs_can_be_compared_with_a_file_and_repeats_are_numbered(tmp_path: Path) -> None:
    pairs = [({"q": "x"}, result("1")), ({"q": "x"}, result("2", Outcome.FAILED))]
    found = compare(pairs, [*pairs, (JobInput({"q": "x"}), result("3"))])
    assert [(each.repeat, each.difference) for each in found.changes] == [(3, "only_new")] and found.unchanged == 2

    write(tmp_path / "x", {ResultKey("x", 1): result("1", Outcome.TIMEOUT)})
    by_answer = compare(tmp_path / "x", pairs[:1], key=lambda given: given["q"])
    assert [(each.key, each.old) for each in by_answer.changes] == [("x", Outcome.TIMEOUT)]


def test_a_torn_last_line_is_not_compared_and_nonsense_is_refused(written: Path) -> None:
    written.write_bytes(written.read_bytes()[:-20])
    assert [each.key for each in compare([], str(written)).changes] == ["a"]
    with pytest.raises(InvalidValue, match="old must be a results file or pairs"):
        compare(5, [])
    with pytest.raises(InvalidInput):
        compare([(5, result("1"))], [])
    with pytest.raises(FileNotFoundError):
        compare("/nowhere", [])
