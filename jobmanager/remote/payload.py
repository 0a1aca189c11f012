"""Payloads: a task with one input on the way to a node, and a result on its way back, as a short text and blobs.

The text travels with the job's record, and its hash with what is signed. Contents that are large are blobs, named in the text
by their hashes, so that whoever has the signed hash of the text can check everything. A task that is large is a blob itself,
which all its jobs share; so is a text that is large, and then a short one stands for it. A blob that is larger than a piece is
uploaded in pieces.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, TypeVar

from jobmanager.errors import InvalidInput, InvalidTask, InvalidValue
from jobmanager.model._forms import ContentReference
from jobmanager.model._json import parse_json
from jobmanager.model.as_data import from_data, to_data
from jobmanager.model.job import JobInput
from jobmanager.model.pipeline import Pipeline, task_or_pipeline
from jobmanager.model.result import JobResult
from jobmanager.model.task import Task
from jobmanager.remote.blobs import PIECE_BYTES, hash_of, is_hash

SCHEMA = 1  # of the text around the records, which have their own
TEXT_BYTES = 64 * 1024  # longer ones are blobs
REDIS_BYTES = 64 * 2**20  # of one job, where blobs are in Redis
STORE_BYTES = 2**30  # and where they are in a store of the user's own
_SHARED_BYTES = 2 * 1024  # larger contents of a task, and larger tasks, are blobs
_OWN_BYTES = 16 * 1024  # larger contents of an input or a result are blobs
_KEPT_TASKS = 64  # in memory, of those that were used last
_KEPT_BYTES = 128 * 2**20  # of their contents together
_MIB = 2**20

_K = TypeVar("_K")
_V = TypeVar("_V")
ReadBlob = Callable[[str], bytes]  # by its hash; checked by who reads, as BlobReader does


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A payload that can be sent."""

    text: str = field(repr=False)  # at most 64 KiB of ASCII
    sha256: str  # of the text
    shared: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # blobs of the task, by their hashes
    own: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # blobs of this job, or of this result

    @property
    def size(self) -> int:
        """All its bytes."""
        return len(self.text) + sum(map(len, self.shared.values())) + sum(map(len, self.own.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """What a client has sent."""

    task: Task | Pipeline
    inputs: JobInput
    debug: bool | str


class Packer:
    """Packs jobs. What it made of a task it keeps for the next job of that task."""

    def __init__(self, *, has_store: bool = False) -> None:
        """``has_store``: blobs go to a store of the user's own, not into Redis."""
        self._most_bytes = STORE_BYTES if has_store else REDIS_BYTES
        self._has_store = has_store
        self._tasks = _Recent[int, "tuple[Task | Pipeline, _Parts]"]()  # by identity: a task is immutable, and stays alive here

    def pack(self, task: Task | Pipeline, inputs: JobInput, *, debug: bool | str = False) -> Packed:
        """A job as text and blobs.

        Raises:
            InvalidTask, InvalidInput: it cannot be written as data, or is too large.
        """
        parts, own = self._task_parts(task), _Parts(_OWN_BYTES)
        data = {"task": parts.data, "input": to_data(inputs, store=own.store), "debug": debug}
        packed = _packed(data, parts, own)
        if packed.size > self._most_bytes:
            self._refuse(InvalidInput, f"this job is {_mib(packed.size)} in all")
        return packed

    def _task_parts(self, task: Task | Pipeline) -> _Parts:
        known = self._tasks.get(id(task))
        if known is not None:
            return known[1]
        parts = _Parts(_SHARED_BYTES)
        parts.data = to_data(task, store=parts.store)
        text = _json(parts.data).encode()
        if parts.blobs or len(text) > _SHARED_BYTES:
            parts.data = _as_data(parts.keep(text))
        self._check_task(task, parts.size)
        self._tasks.put(id(task), (task, parts), parts.size)
        return parts

    def _check_task(self, task: Task | Pipeline, size: int) -> None:
        if size > self._most_bytes:
            self._refuse(InvalidTask, f"this task is {_mib(size)}")
        tasks = [task] if isinstance(task, Task) else [phase.task for phase in task.phases]
        archive_mib = sum(each.limits.archive_mib for each in tasks if each.collect)
        if archive_mib * _MIB > self._most_bytes:
            self._refuse(InvalidTask, f"the archive of this task may have {archive_mib} MiB (archive_mib)")

    def _refuse(self, error: type[InvalidValue], what: str) -> NoReturn:
        way_out = "" if self._has_store else "; give RemoteClient(blobs=FolderStore(...)) and `jobmanager worker --blobs` a store"
        raise error(f"{what}, and at most {_mib(self._most_bytes)} can be sent{way_out}")


class Unpacker:
    """Reads jobs. The tasks that it has read last it keeps, and gives again."""

    def __init__(self) -> None:
        self._tasks = _Recent[str, "Task | Pipeline"]()

    def unpack(self, text: str, *, shared: ReadBlob, own: ReadBlob) -> Unpacked:
        """What ``Packer.pack`` has packed. The caller has checked who wrote the text.

        Raises:
            InvalidValue: it makes no sense.
            BlobLost: a part of it is not to be found.
        """
        fields, load_own = _opened(text, own)
        if fields.keys() != {"task", "input", "debug"}:
            raise InvalidValue("no payload of a job")
        debug = fields["debug"]
        if not isinstance(debug, bool) and debug != "ssh":
            raise InvalidValue('debug must be true, false or "ssh"')
        task = self._task(fields["task"], load_own.of(shared))
        return Unpacked(task=task, inputs=from_data(JobInput, fields["input"], load=load_own), debug=debug)

    def _task(self, data: Any, load: _Loader) -> Task | Pipeline:
        """The same task has the same hash, also that of all its contents."""
        is_here = not isinstance(data, dict) or "kind" in data
        sha256 = hash_of(_json(data).encode()) if is_here else _reference(data).sha256
        known = self._tasks.get(sha256)
        if known is not None:
            return known
        loaded_before = load.bytes
        task = task_or_pipeline(data if is_here else _parsed(load(_reference(data))), load=load)
        self._tasks.put(sha256, task, load.bytes - loaded_before)
        return task


def pack_result(result: JobResult) -> Packed:
    """A result as text and blobs.

    Raises:
        InvalidValue: it holds something that cannot be written as data.
    """
    own = _Parts(_OWN_BYTES)
    return _packed({"result": to_data(result, store=own.store)}, _Parts(0), own)


def unpack_result(text: str, read: ReadBlob) -> JobResult:
    """What ``pack_result`` has packed. The caller has checked who wrote the text.

    Raises:
        InvalidValue: it makes no sense.
        BlobLost: a part of it is not to be found.
    """
    fields, load = _opened(text, read)
    if fields.keys() != {"result"}:
        raise InvalidValue("no payload of a result")
    return from_data(JobResult, fields["result"], load=load)


class _Parts:
    """What is taken out of some data: contents larger than a bound, in pieces where they are large."""

    def __init__(self, larger_than: int) -> None:
        self.data: Mapping[str, object] = {}
        self.blobs: dict[str, bytes] = {}
        self.pieces: dict[str, list[str]] = {}  # hashes, by that of the whole
        self._larger_than = larger_than

    @property
    def size(self) -> int:
        return sum(map(len, self.blobs.values()))

    def store(self, content: bytes) -> ContentReference | None:
        return self.keep(content) if len(content) > self._larger_than else None

    def keep(self, content: bytes) -> ContentReference:
        sha256 = hash_of(content)
        if len(content) <= PIECE_BYTES:
            self.blobs[sha256] = content
        elif sha256 not in self.pieces:
            pieces = [content[at : at + PIECE_BYTES] for at in range(0, len(content), PIECE_BYTES)]
            self.pieces[sha256] = [hash_of(piece) for piece in pieces]
            self.blobs.update(zip(self.pieces[sha256], pieces, strict=True))
        return ContentReference(sha256=sha256, size=len(content))


class _Loader:
    """Reads contents by their references; ``bytes`` counts them."""

    def __init__(self, pieces: Mapping[str, list[str]], read: ReadBlob) -> None:
        self.bytes = 0
        self._pieces = pieces
        self._read = read

    def of(self, read: ReadBlob) -> _Loader:
        """The same for blobs from elsewhere."""
        return _Loader(self._pieces, read)

    def __call__(self, reference: ContentReference) -> bytes:
        names = self._pieces.get(reference.sha256, [reference.sha256])
        if reference.size > STORE_BYTES or len(names) != max(1, -(-reference.size // PIECE_BYTES)):
            raise InvalidValue("a content has another size than its pieces")
        content = b"".join(map(self._read, names))
        self.bytes += len(content)
        if len(content) != reference.size or hash_of(content) != reference.sha256:
            raise InvalidValue("a content is not that of its hash")
        return content


class _Recent(Generic[_K, _V]):
    """The values that were used last, a bounded number of them, and of their bytes."""

    def __init__(self) -> None:
        self._values: OrderedDict[_K, tuple[_V, int]] = OrderedDict()
        self._bytes = 0
        self._mutex = threading.Lock()

    def get(self, key: _K) -> _V | None:
        with self._mutex:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: _K, value: _V, size: int) -> None:
        with self._mutex:
            self._bytes += size - self._values.pop(key, (None, 0))[1]
            self._values[key] = value, size
            while len(self._values) > _KEPT_TASKS or self._bytes > _KEPT_BYTES:
                self._bytes -= self._values.popitem(last=False)[1][1]


def _packed(data: Mapping[str, object], shared: _Parts, own: _Parts) -> Packed:
    text = _json({"schema": SCHEMA, **data, "pieces": {**shared.pieces, **own.pieces}})
    if len(text) > TEXT_BYTES:
        whole = _Parts(0)
        reference = whole.keep(text.encode())
        own.blobs.update(whole.blobs)
        text = _json({"schema": SCHEMA, "text": _as_data(reference), "pieces": whole.pieces})
    return Packed(text=text, sha256=hash_of(text.encode()), shared=shared.blobs, own=own.blobs)


def _opened(text: str, read: ReadBlob) -> tuple[dict[str, Any], _Loader]:
    fields, load = _fields(text, read)
    if fields.keys() == {"text"}:
        return _fields(load(_reference(fields["text"])), read)
    return fields, load


def _fields(text: str | bytes, read: ReadBlob) -> tuple[dict[str, Any], _Loader]:
    data = _parsed(text)
    if not isinstance(data, dict) or type(data.get("schema")) is not int:
        raise InvalidValue("no payload")
    if data["schema"] > SCHEMA:
        raise InvalidValue(f"a payload of a newer version ({data['schema']}; this one knows {SCHEMA}): upgrade this one")
    return {key: value for key, value in data.items() if key not in ("schema", "pieces")}, _Loader(_pieces(data), read)


def _pieces(data: Mapping[str, Any]) -> dict[str, list[str]]:
    pieces = data.get("pieces")
    if not isinstance(pieces, dict):
        raise InvalidValue("no payload: it does not say what is in pieces")
    for whole, names in pieces.items():
        if not is_hash(whole) or not isinstance(names, list) or not all(map(is_hash, names)):
            raise InvalidValue("no payload: a piece has no hash for its name")
    return pieces


def _reference(data: Any) -> ContentReference:
    if not isinstance(data, dict) or data.keys() != {"sha256", "size"} or not is_hash(data["sha256"]):
        raise InvalidValue("no reference to a blob")
    if type(data["size"]) is not int or data["size"] < 0:
        raise InvalidValue("no reference to a blob")
    return ContentReference(**data)


def _as_data(reference: ContentReference) -> dict[str, object]:
    return {"sha256": reference.sha256, "size": reference.size}


def _parsed(text: str | bytes) -> object:
    try:
        return parse_json(text if isinstance(text, str) else text.decode(), InvalidValue)
    except UnicodeDecodeError:
        raise InvalidValue("no payload: not UTF-8") from None


def _json(data: object) -> str:
    return json.dumps(data, allow_nan=False, separators=(",", ":"))


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"
