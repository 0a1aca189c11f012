"""Blobs: the large parts of payloads and results, kept beside the job under their SHA-256.

A store is asked for a hash and may answer anything: ``BlobReader``, which reads them all, checks each answer against the
hash. What is larger than a piece is kept in pieces (``payload.py``).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import secrets
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from jobmanager.errors import InvalidValue, JobManagerError
from jobmanager.model._utf8 import to_utf8
from jobmanager.remote.keys import Keys

_LOG = logging.getLogger(__name__)
PIECE_BYTES = 8 * 2**20
_TOGETHER_BYTES = 4 * 2**20  # sent to Redis in one go
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = ".new-"
_TEMPORARY_S = 3600.0  # older ones were left by a process that is gone
_LOCK = ".lock"
_REMEMBERED = 20_000
_REMEMBERED_S = 3600.0


class BlobLost(JobManagerError):
    """A part of a payload or result is in no store, or is not what it was. The text says which."""


class BlobStore(Protocol):
    """Where blobs are kept: both sides have one, of the same things. Both methods may be called from several threads."""

    def put(self, sha256: str, data: bytes) -> None:
        """Keep it under its hash (64 hexadecimal digits). At most 8 MiB. The same again is no error."""

    def get(self, sha256: str) -> bytes | None:
        """What is kept under a hash; None: nothing. The caller checks it."""


class RedisBlobs:
    """Blobs in Redis that all jobs of a task share. Each has an expiry, which the acceptance of a job that names it starts anew."""

    def __init__(self, redis: Redis, keys: Keys, *, ttl_s: float) -> None:
        self._redis = redis
        self._keys = keys
        self._ttl_s = max(1, int(ttl_s))

    def of_job(self, r: str) -> JobBlobs:
        """The blobs of one job alone."""
        return JobBlobs(self._redis, self._keys, r, ttl_s=self._ttl_s)

    def name(self, sha256: str) -> str:
        """What the acceptance of a job calls it (``NewJob.blobs``)."""
        return sha256

    def put(self, sha256: str, data: bytes) -> None:
        """Keep it, in place of whatever stands there."""
        self._redis.set(self._keys.blob(_checked(sha256)), data, ex=self._ttl_s)

    def put_all(self, blobs: Mapping[str, bytes]) -> None:
        """Keep several, in few round trips."""
        for batch in _batches(blobs):
            with self._redis.pipeline(transaction=False) as together:
                for sha256, data in batch.items():
                    together.set(self._keys.blob(_checked(sha256)), data, ex=self._ttl_s)
                together.execute()

    def get(self, sha256: str) -> bytes | None:
        """What stands there, at most a byte more than a piece may have."""
        return _whatever(lambda: self._redis.getrange(self._keys.blob(_checked(sha256)), 0, PIECE_BYTES)) or None

    def delete(self, sha256: str) -> None:
        """It is not what it should be."""
        self._redis.unlink(self._keys.blob(_checked(sha256)))


class JobBlobs:
    """Blobs in Redis of one job's input and result. They end together, when its client has the result, or by their expiry."""

    def __init__(self, redis: Redis, keys: Keys, r: str, *, ttl_s: int) -> None:
        self._redis = redis
        self._key = keys.job_blobs(r)
        self._r = r
        self._ttl_s = ttl_s

    def name(self, sha256: str) -> str:
        """What the acceptance of the job calls it (``NewJob.blobs``)."""
        return f"{self._r}:{sha256}"

    def put(self, sha256: str, data: bytes) -> None:
        """Keep it, in place of whatever stands there."""
        self.put_all({sha256: data})

    def put_all(self, blobs: Mapping[str, bytes]) -> None:
        """Keep several, in few round trips."""
        for batch in _batches(blobs):
            with self._redis.pipeline() as together:
                together.hset(self._key, items=[part for pair in batch.items() for part in pair])
                together.expire(self._key, self._ttl_s)
                together.execute()

    def get(self, sha256: str) -> bytes | None:
        """What stands there; empty when it is longer than a piece may be."""
        if (length := _length(lambda: self._redis.hstrlen(self._key, _checked(sha256)))) > PIECE_BYTES:
            return b""
        return _whatever(lambda: self._redis.hget(self._key, sha256)) if length else None

    def delete_all(self) -> None:
        """Nobody needs them any more."""
        self._redis.unlink(self._key)

    def delete(self, sha256: str) -> None:
        """It is not what it should be."""
        try:
            self._redis.hdel(self._key, _checked(sha256))
        except ResponseError:  # there stands something else altogether
            self._redis.unlink(self._key)


class FolderStore:
    """A folder that clients and nodes share, such as one on NFS: for payloads too large for Redis.

    Give it to ``RemoteClient(blobs=...)``, and its path to ``jobmanager worker --blobs``. Each blob is a file named by its
    SHA-256. Files are written under another name first, so that nobody reads half of one. Links are not followed. Who can
    write there can withhold a blob, and change none: what is read is checked. Who can read there can read submissions.
    Nothing is deleted: what was not changed for a week belongs to no job any more
    (``find FOLDER -type f -mtime +7 -delete``).

    Raises:
        InvalidValue: the folder does not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._folder = Path(path).absolute()
        if not self._folder.is_dir():
            raise InvalidValue(f"{self._folder} is no folder: make it, or mount it, before clients and workers start")

    def put(self, sha256: str, data: bytes) -> None:
        """Write it. Raises OSError."""
        _write(self._folder, _checked(sha256), data)

    def get(self, sha256: str) -> bytes | None:
        """Read it; None: there is no such file. Raises OSError."""
        return _read(self._folder, _checked(sha256))

    def __repr__(self) -> str:
        return f"FolderStore({str(self._folder)!r})"


class BlobCache:
    """The blobs that a node has read, on its disk: bounded, least recently used ones leave first.

    Several processes may share the folder. What is read from it is checked as if it came from Redis. A disk that is full or
    broken makes it slow, and fails nothing.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int) -> None:
        self._folder = Path(folder)
        self._max_bytes = max_bytes
        self._mutex = threading.Lock()

    def get(self, sha256: str) -> bytes | None:
        """What is cached, checked; None: it is not, or is something else."""
        name = _checked(sha256)
        try:
            data = _read(self._folder, name)
        except OSError as error:
            _LOG.warning("the cache of blobs cannot be read: %s", error)
            return None
        if data is not None and hash_of(data) != name:
            _LOG.warning("a cached blob was not what it should be, and is fetched again: %s", self._folder / name)
            _delete(self._folder / name)
            return None
        with contextlib.suppress(OSError):  # another process may have needed the room
            os.utime(self._folder / name, follow_symlinks=False)
        return data

    def put(self, sha256: str, data: bytes) -> None:
        """Keep it, and let others go as long as there are too many bytes."""
        if len(data) > self._max_bytes:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._mutex, self._locked():
                self._make_room(len(data))
                _write(self._folder, _checked(sha256), data)
        except OSError as error:
            _LOG.warning("the cache of blobs cannot be written: %s", error)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time: two that make room at once would exceed the bound together."""
        descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _make_room(self, needed: int) -> None:
        files = sorted(self._files(), key=lambda file: file[1].st_mtime_ns)
        total = needed + sum(about.st_size for _, about in files)
        for path, about in files:
            is_left_over = path.name.startswith(_TEMPORARY) and time.time() - about.st_mtime > _TEMPORARY_S
            if total > self._max_bytes or is_left_over:
                _delete(path)
                total -= about.st_size

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for entry in os.scandir(self._folder):
            if entry.name != _LOCK:
                with contextlib.suppress(FileNotFoundError):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)


class BlobReader:
    """Reads blobs from a cache, or else from the first store that has them, and believes none of these."""

    def __init__(self, *stores: BlobStore, cache: BlobCache | None = None) -> None:
        self._stores = stores
        self._cache = cache

    def __call__(self, sha256: str) -> bytes:
        """The content that has this hash.

        Raises:
            BlobLost: no store has it.
            RedisError, OSError: a store does not answer.
        """
        if self._cache is not None and (cached := self._cache.get(sha256)) is not None:
            return cached
        data = self._from_stores(sha256)
        if self._cache is not None:
            self._cache.put(sha256, data)
        return data

    def _from_stores(self, sha256: str) -> bytes:
        was_changed = False
        for store in self._stores:
            data = store.get(sha256)
            if isinstance(data, bytes) and hash_of(data) == sha256:
                return data
            if data is not None:
                was_changed = True
                _LOG.warning("a blob was not what its hash says: %s in %r", sha256, type(store).__name__)
                if isinstance(store, (RedisBlobs, JobBlobs)):
                    store.delete(sha256)  # whoever needs it next is told that it is missing, and uploads it
        raise BlobLost(f"a part of it was {'changed' if was_changed else 'lost'} on the way (blob {sha256[:12]})")


class BlobUploads:
    """A client's uploads: each blob of a task once, as long as nobody says that it is missing."""

    def __init__(self, redis: RedisBlobs, store: BlobStore | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._store = store
        self._clock = clock
        self._mutex = threading.Lock()
        self._uploaded: OrderedDict[str, float] = OrderedDict()

    def upload(self, r: str, shared: Mapping[str, bytes], own: Mapping[str, bytes]) -> tuple[str, ...]:
        """Upload the blobs of a job: those that it shares with others of its task, and its own.

        Returns:
            What the acceptance of the job is to look for.
        """
        new = {sha256: data for sha256, data in shared.items() if not self._was_uploaded(sha256)}
        if self._store is not None:
            for sha256, data in {**new, **own}.items():
                self._store.put(sha256, data)
            self._remember(new)
            return ()
        mine = self._redis.of_job(r)
        self._redis.put_all(new)
        mine.put_all(own)
        self._remember(new)
        return (*map(self._redis.name, shared), *map(mine.name, own))

    def take_back(self, r: str) -> None:
        """A job was not accepted: its own blobs are nobody's. Those in a store of the user's own stay there."""
        with contextlib.suppress(RedisError, OSError):
            self._redis.of_job(r).delete_all()

    def forget(self) -> None:
        """Something that was uploaded is missing: upload all again."""
        with self._mutex:
            self._uploaded.clear()

    def _was_uploaded(self, sha256: str) -> bool:
        with self._mutex:
            return self._clock() - self._uploaded.get(sha256, -_REMEMBERED_S) < _REMEMBERED_S

    def _remember(self, sha256s: Collection[str]) -> None:
        with self._mutex:
            now = self._clock()
            for sha256 in sha256s:
                self._uploaded[sha256] = now
                self._uploaded.move_to_end(sha256)
            while len(self._uploaded) > _REMEMBERED:
                self._uploaded.popitem(last=False)


def hash_of(data: bytes) -> str:
    """The name of a content: its SHA-256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def is_hash(value: object) -> bool:
    """Whether it could be the name of a blob."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _checked(sha256: str) -> str:
    if not is_hash(sha256):
        raise InvalidValue("the name of a blob must be 64 hexadecimal digits")
    return sha256


def _write(folder: Path, name: str, data: bytes) -> None:
    temporary = folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, folder / name)
    except BaseException:
        _delete(temporary)
        raise


def _read(folder: Path, name: str) -> bytes | None:
    """At most a byte more than a piece may have. What is no regular file is taken for another content."""
    try:
        with open(folder / name, "rb", opener=_open_itself) as file:
            return file.read(PIECE_BYTES + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except FileNotFoundError:
        return None
    except OSError:
        if stat.S_ISREG(os.lstat(folder / name).st_mode):
            raise
        return b""


def _open_itself(path: str, flags: int) -> int:
    """Open no link's target, and wait for no pipe's writer."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _batches(blobs: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    """As many as are sent to Redis in one go."""
    batch: dict[str, bytes] = {}
    size = 0
    for sha256, data in blobs.items():
        batch[_checked(sha256)] = data
        size += len(data)
        if size > _TOGETHER_BYTES:
            yield batch
            batch, size = {}, 0
    if batch:
        yield batch


def _whatever(ask: Callable[[], object]) -> bytes:
    """What Redis answers; nothing when there stands something of another type."""
    try:
        found = ask()
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return b"?"
    return to_utf8(found) if isinstance(found, str) else bytes(found or b"")  # type: ignore[call-overload]


def _length(ask: Callable[[], int]) -> int:
    """The same for a length."""
    try:
        return ask()
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return PIECE_BYTES + 1
