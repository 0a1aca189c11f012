"""Blobs on disk: written whole, read with suspicion, bounded. Those in Redis are in ``tests/cluster``."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jobmanager.errors import InvalidValue
from jobmanager.remote.blobs import PIECE_BYTES, BlobCache, BlobLost, BlobReader, BlobUploads, FolderStore, hash_of

DATA = b"the content"
NAME = hash_of(DATA)
WRONG_NAMES: list[Any] = ["", "x", NAME[:-1], NAME + "0", NAME.upper(), "../" + NAME[3:], "a/" + NAME[2:], NAME + "\n", None, 7]


class DictStore(dict[str, Any]):
    """A user's own store."""

    def put(self, sha256: str, data: bytes) -> None:
        self[sha256] = data


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


# A folder store


def test_a_folder_store_keeps_a_content_under_its_hash(tmp_path: Path) -> None:
    FolderStore(tmp_path).put(NAME, DATA)

    assert FolderStore(tmp_path).get(NAME) == DATA
    assert FolderStore(tmp_path).get(hash_of(b"other")) is None
    assert names(tmp_path) == {NAME}


def test_a_folder_store_needs_its_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for path in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(InvalidValue, match="is no folder"):
            FolderStore(path)


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_only_hashes_are_names(tmp_path: Path, name: Any) -> None:
    store, cache = FolderStore(tmp_path), BlobCache(tmp_path, 1000)

    for call in (store.get, cache.get, lambda name: store.put(name, DATA), lambda name: cache.put(name, DATA)):
        with pytest.raises(InvalidValue, match="64 hexadecimal digits"):
            call(name)
    assert names(tmp_path) == set()


def test_what_is_no_regular_file_is_not_followed_or_waited_for(tmp_path: Path) -> None:
    elsewhere, store = tmp_path / "elsewhere", tmp_path / "store"
    store.mkdir()
    elsewhere.write_bytes(DATA)
    for make in (lambda path: path.symlink_to(elsewhere), os.mkfifo, os.mkdir):
        make(store / NAME)

        assert FolderStore(store).get(NAME) == b""
        with pytest.raises(BlobLost, match="changed"):
            BlobReader(FolderStore(store))(NAME)

        (store / NAME).rmdir() if (store / NAME).is_dir() else (store / NAME).unlink()


def test_a_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    elsewhere, store = tmp_path / "elsewhere", tmp_path / "store"
    store.mkdir()
    elsewhere.write_bytes(b"mine")
    (store / NAME).symlink_to(elsewhere)

    FolderStore(store).put(NAME, DATA)

    assert elsewhere.read_bytes() == b"mine" and FolderStore(store).get(NAME) == DATA


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "replace", full)

    with pytest.raises(OSError, match="no space"):
        FolderStore(tmp_path).put(NAME, DATA)
    BlobCache(tmp_path, 1000).put(NAME, DATA)
    assert names(tmp_path) == set()


def test_no_more_than_a_piece_is_read(tmp_path: Path) -> None:
    with (tmp_path / NAME).open("wb") as file:
        file.truncate(2**40)

    data = FolderStore(tmp_path).get(NAME)

    assert data is not None and len(data) == PIECE_BYTES + 1


# What is read is checked


def test_what_a_store_answers_is_checked(caplog: pytest.LogCaptureFixture) -> None:
    for answer in (b"", b"other", "the content", bytearray(DATA), 7):
        with caplog.at_level(logging.WARNING, "jobmanager"), pytest.raises(BlobLost, match="changed on the way"):
            BlobReader(DictStore({NAME: answer}))(NAME)
    assert len(caplog.records) == 5


def test_what_no_store_has_is_lost() -> None:
    with pytest.raises(BlobLost, match="lost on the way"):
        BlobReader(DictStore(), DictStore())(NAME)


def test_the_next_store_is_asked_when_one_has_nothing_or_something_else() -> None:
    assert BlobReader(DictStore(), DictStore({NAME: b"other"}), DictStore({NAME: DATA}))(NAME) == DATA


# A cache


def test_a_blob_is_read_once_and_then_from_the_cache(tmp_path: Path) -> None:
    store = DictStore({NAME: DATA})
    reader = BlobReader(store, cache=BlobCache(tmp_path / "made" / "cache", 1000))

    assert reader(NAME) == DATA
    store.clear()

    assert reader(NAME) == DATA
    assert (tmp_path / "made" / "cache").stat().st_mode & 0o777 == 0o700


def test_a_cached_blob_that_is_another_is_fetched_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = BlobCache(tmp_path, 1000)
    reader = BlobReader(DictStore({NAME: DATA}), cache=cache)
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.write_bytes(DATA)
    for spoil in (
        lambda path: path.write_bytes(b"other"),
        lambda path: path.write_bytes(b""),
        lambda path: (path.unlink(), path.symlink_to(elsewhere)),
    ):
        assert reader(NAME) == DATA
        spoil(tmp_path / NAME)

        assert reader(NAME) == DATA
        assert "fetched again" in caplog.text
        assert (tmp_path / NAME).read_bytes() == DATA and not (tmp_path / NAME).is_symlink()
        caplog.clear()


def test_those_that_were_used_least_lately_leave_first(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 3000)
    contents = [bytes([number]) * 1000 for number in range(4)]
    for at, data in enumerate(contents[:3]):
        cache.put(hash_of(data), data)
        os.utime(tmp_path / hash_of(data), (at, at))

    assert cache.get(hash_of(contents[0])) == contents[0]
    cache.put(hash_of(contents[3]), contents[3])

    assert names(tmp_path) == {hash_of(contents[number]) for number in (0, 2, 3)}


def test_what_is_larger_than_the_cache_is_not_cached(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 1000)
    cache.put(NAME, DATA)

    cache.put(hash_of(bytes(1001)), bytes(1001))

    assert names(tmp_path) == {NAME}


def test_what_a_dead_process_left_half_written_goes_away_after_a_while(tmp_path: Path) -> None:
    (old, new) = tmp_path / ".new-old", tmp_path / ".new-new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))

    BlobCache(tmp_path, 1000).put(NAME, DATA)

    assert names(tmp_path) == {NAME, new.name}


def test_a_disk_that_fails_fails_no_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    reader = BlobReader(DictStore({NAME: DATA}), cache=BlobCache(tmp_path / "file" / "cache", 1000))

    assert reader(NAME) == DATA
    assert "the cache of blobs cannot be read" in caplog.text and "the cache of blobs cannot be written" in caplog.text


def test_several_that_write_at_once_keep_the_bound_and_read_no_half(tmp_path: Path) -> None:
    contents = [bytes([number]) * 1000 for number in range(40)]
    caches = [BlobCache(tmp_path, 10_000) for _ in range(4)]  # as if of four processes: they share no lock in memory

    def use(number: int) -> None:
        for data in contents:
            caches[number].put(hash_of(data), data)
            assert caches[(number + 1) % 4].get(hash_of(data)) in (data, None)

    with ThreadPoolExecutor() as pool:
        list(pool.map(use, range(4)))

    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 10_000


# What was uploaded is remembered


class Recorded:
    """In the place of blobs in Redis: notes what is uploaded."""

    def __init__(self, uploaded: list[str], r: str = "") -> None:
        self.uploaded, self.r = uploaded, r

    def of_job(self, r: str) -> Recorded:
        return Recorded(self.uploaded, r)

    def name(self, sha256: str) -> str:
        return f"{self.r}:{sha256}"

    def put_all(self, blobs: dict[str, bytes]) -> None:
        self.uploaded.extend(map(self.name, blobs))


def uploads_of(uploaded: list[str], **options: Any) -> BlobUploads:
    redis: Any = Recorded(uploaded)
    return BlobUploads(redis, **options)


def test_blobs_of_a_task_are_uploaded_once_and_those_of_a_job_each_time() -> None:
    uploaded: list[str] = []
    uploads = uploads_of(uploaded)

    assert uploads.upload("1", {"a": b"", "b": b""}, {"c": b""}) == (":a", ":b", "1:c")
    assert uploads.upload("2", {"b": b"", "d": b""}, {"c": b""}) == (":b", ":d", "2:c")

    assert uploaded == [":a", ":b", "1:c", ":d", "2:c"]


def test_they_are_uploaded_again_when_they_are_missing_or_an_hour_has_passed() -> None:
    uploaded: list[str] = []
    now = [0.0]
    uploads = uploads_of(uploaded, clock=lambda: now[0])
    for at, forget, expected in [(0.0, False, 1), (3599.0, False, 1), (3600.0, False, 2), (3601.0, True, 3), (3602.0, False, 3)]:
        now[0] = at
        if forget:
            uploads.forget()
        uploads.upload("1", {"a": b""}, {})
        assert len(uploaded) == expected


def test_what_could_not_be_uploaded_is_not_remembered() -> None:
    uploaded: list[str] = []
    uploads = uploads_of(uploaded)

    with pytest.raises(TypeError):
        uploads.upload("1", {"a": b""}, 7)  # type: ignore[arg-type]
    uploads.upload("1", {"a": b""}, {})

    assert uploaded == [":a", ":a"]


def test_with_a_store_of_the_users_own_nothing_goes_into_redis() -> None:
    uploaded: list[str] = []
    store = DictStore()

    assert uploads_of(uploaded, store=store).upload("1", {"a": b"A"}, {"b": b"B"}) == ()

    assert store == {"a": b"A", "b": b"B"} and uploaded == []
