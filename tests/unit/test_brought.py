"""The result file as a runner brings it: what does not come whole is never taken for a result."""

from __future__ import annotations

import errno

import pytest

from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model.limits import Limits
from jobmanager.results.result_file import RESULT_FILE_LIMIT, ResultFileError, parse_result_file
from jobmanager.runner.frames import BringPath, Piece
from jobmanager.watching.brought import brought_paths, result_file_of

PATH = b"/work/.jobmanager/result.json"
JSON = b'{"result": "success"}'


def piece(data: bytes = b"", **fields: object) -> Piece:
    given = {"request": 0, "path": PATH, "mode": 0o644, "mtime_s": 0, "size": len(data), "errno": 0, "offset": 0, "last": True}
    return Piece(run=1, data=data, **{**given, **fields})  # type: ignore[arg-type]


def test_a_run_is_asked_for_the_result_file_of_its_workspace_and_one_byte_more_than_it_may_have() -> None:
    job = MonitorContainer(
        job_id="j", container_id="c", container_name="n", command="true", env={}, files={}, stdin=b"", limits=Limits(),
        collect=(), workspace="/work",
    )  # fmt: skip
    assert brought_paths(job) == (BringPath(path=PATH, most=RESULT_FILE_LIMIT + 1),)


def test_a_result_file_comes_in_one_piece_or_several() -> None:
    halves = [piece(JSON[:5], last=False), piece(JSON[5:], offset=5)]
    assert result_file_of([piece(JSON)]) == result_file_of(halves) == JSON


@pytest.mark.parametrize("brought", [piece(), piece(errno=errno.EINVAL), piece(errno=errno.EACCES)])
def test_an_empty_file_and_what_cannot_be_read_are_no_silence(brought: Piece) -> None:
    assert result_file_of([brought]) == b""
    with pytest.raises(ResultFileError):
        parse_result_file(b"")


@pytest.mark.parametrize("error", [errno.ENOENT, errno.ENOTDIR])
def test_nothing_in_its_place_is_no_result_file(error: int) -> None:
    assert result_file_of([piece(errno=error)]) is None


def test_nothing_brought_and_other_files_are_no_result_file() -> None:
    assert result_file_of([]) is None
    assert result_file_of([piece(JSON, path=b"/work/other.json")]) is None


@pytest.mark.parametrize(
    "brought",
    [
        [piece(bytes(RESULT_FILE_LIMIT // 2), last=False), piece(bytes(RESULT_FILE_LIMIT // 2 + 1), offset=RESULT_FILE_LIMIT // 2)],
        [piece(errno=errno.EFBIG, size=2**40)],
    ],
    ids=["by a byte", "by far"],
)
def test_a_result_file_that_is_too_large_is_told_as_such(brought: list[Piece]) -> None:
    content = result_file_of(brought)
    assert content is not None
    with pytest.raises(ResultFileError, match="larger than 1024 KiB"):
        parse_result_file(content)


@pytest.mark.parametrize(
    "brought",
    [
        [piece(errno=errno.EIO)],
        [piece(errno=errno.EACCES)],
        [piece(JSON, last=False), piece(errno=errno.EIO, offset=len(JSON))],
        [piece(JSON, last=False)],
        [piece(JSON[5:], offset=5)],
    ],
    ids=["not read", "not opened", "broken off", "without an end", "without a beginning"],
)
def test_a_file_that_did_not_come_whole_is_no_result_and_is_not_passed_over(brought: list[Piece]) -> None:
    content = result_file_of(brought)
    assert content is not None
    with pytest.raises(ResultFileError):
        parse_result_file(content)
