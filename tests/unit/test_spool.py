"""The spool never raises: a disk that fails costs what is kept, and not the job."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jobmanager.watching.spool import Spool


def spool_in(folder: Path) -> Spool:
    return Spool.in_folder(str(folder), "container")


def test_what_was_appended_is_loaded_by_the_next(tmp_path: Path) -> None:
    first = spool_in(tmp_path)
    first.append(b"abc")
    first.append(b"def")

    second = spool_in(tmp_path)
    assert second.load() == (0, b"abcdef")
    second.append(b"ghi")

    assert spool_in(tmp_path).load() == (0, b"abcdefghi")


def test_nothing_is_made_before_something_is_appended(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)

    assert spool.load() == (0, b"")
    spool.append(b"")

    assert list(tmp_path.iterdir()) == []


def test_what_is_behind_a_cut_is_written_over(tmp_path: Path) -> None:
    spool_in(tmp_path).append(b"abcdef")
    spool = spool_in(tmp_path)
    spool.load()

    spool.cut(2)
    spool.append(b"x")

    assert spool_in(tmp_path).load() == (0, b"abx")


def test_a_removed_spool_keeps_nothing_more(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    spool.append(b"abc")
    spool.remove()
    spool.remove()
    spool.append(b"abc")

    assert list(tmp_path.iterdir()) == [] and spool.load() == (0, b"")


@pytest.mark.parametrize("spool", [Spool(None), Spool.in_folder("", "container")])
def test_without_a_place_nothing_is_kept(spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spool.append(b"abc")

    assert spool.load() == (0, b"") and list(tmp_path.iterdir()) == []
    spool.remove()


def test_a_disk_that_is_full_in_the_middle_of_a_write_removes_the_file_and_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = os.pwrite
    sizes: list[int] = []

    def full_after_two(descriptor: int, content: bytes, offset: int) -> int:
        sizes.append(offset)
        if offset == 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content[:2] if offset else content, offset)

    monkeypatch.setattr(os, "pwrite", full_after_two)
    spool = spool_in(tmp_path)

    spool.append(b"abc")
    spool.append(b"def")

    assert sizes == [0, 8, 10] and list(tmp_path.iterdir()) == []
    assert [record.getMessage() for record in caplog.records] == [
        "what a container reports is no longer kept on disk, and is lost if its waiter dies: [Errno 28] No space left on device"
    ]


def test_a_file_that_cannot_be_read_is_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "container").mkdir()

    assert spool_in(tmp_path).load() == (0, b"")
    assert "cannot be read" in caplog.text


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"mine")
    (tmp_path / "container").symlink_to(other)

    spool_in(tmp_path).append(b"abc")

    assert other.read_bytes() == b"mine" and list(tmp_path.iterdir()) == [other]


def test_what_is_told_is_forgotten_and_the_offset_stays(tmp_path: Path) -> None:
    first = spool_in(tmp_path)
    first.append(b"abcdef")
    first.forget(6)
    assert spool_in(tmp_path).load() == (6, b"")
    first.append(b"ghi")

    second = spool_in(tmp_path)
    assert second.load() == (6, b"ghi")
    second.cut(7)
    second.append(b"x")
    assert spool_in(tmp_path).load() == (6, b"gx")
    assert [path.name for path in tmp_path.iterdir()] == ["container"]


def test_where_nothing_was_kept_nothing_is_made_to_forget_it(tmp_path: Path) -> None:
    spool = spool_in(tmp_path)
    spool.forget(100)
    assert list(tmp_path.iterdir()) == []
    spool.append(b"x")
    assert spool_in(tmp_path).load() == (100, b"x")


def test_a_file_that_ends_before_its_first_byte_is_as_none(tmp_path: Path) -> None:
    (tmp_path / "container").write_bytes(b"\0" * 5)
    assert spool_in(tmp_path).load() == (0, b"")
