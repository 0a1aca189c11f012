"""``StoredResults``: the file of a batch's results, which a batch that is started again goes on with.

Its first line says of which task they are; each other line is one result. A line is written whole or, when the process dies
meanwhile, torn: then it is the last one, and is taken out when the file is opened again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from jobmanager.errors import InvalidValue
from jobmanager.model.as_data import AsData
from jobmanager.model.job import JobInput
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import JobResult
from jobmanager.model.task import Task
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_FORM = 1  # of the file
_KEY_DIGITS = 32
_RELEASE_S = 2.0  # for a batch that ctrl-C has ended while it opened the file: a thread of ours still has it for a moment
_LOCK_PAUSE_S = 0.02


class ResultKey(NamedTuple):
    """What names an input in the file."""

    key: str
    repeat: int  # 1 for the first input of this key, 2 for the second


class StoredLine(NamedTuple):
    """A result in the file."""

    key: ResultKey
    offset: int  # of its line, in bytes
    size: int  # with the end of the line, if it has one
    data: dict[str, object]


class StoredResults:
    """A results file that is written. Any thread may append. The main thread may only read: the rest takes a lock.

    Args:
        path: of the file; it is made when there is none.
        task: whose results these are.

    Raises:
        InvalidValue: it is no results file, is damaged, has the results of another task, or somebody else writes to it, also
            after 2 s.
        OSError: it cannot be opened.
    """

    def __init__(self, path: str, task: Task | Pipeline) -> None:
        self.path = path
        self._places: dict[ResultKey, tuple[int, int]] = {}  # offset and size of each line
        self._inputs: dict[ResultKey, str] = {}  # a digest of the input of each, where the file has one
        self._lock = threading.Lock()  # guards the end of the file
        self._end = 0
        # an object: it is closed also when ctrl-C has kept everybody from closing it
        self._object = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)  # noqa: SIM115
        self._file = self._object.fileno()
        try:
            self._take()
            self._read_all(_header(task))
        except BaseException:
            self.close()
            raise

    def __contains__(self, key: ResultKey) -> bool:
        return key in self._places

    def read(self, key: ResultKey) -> JobResult:
        """A result that is there. Raises InvalidValue: it was damaged since."""
        offset, size = self._places[key]
        data = _parsed(os.pread(self._file, size, offset))
        found = data.get("result") if data is not None else None
        if not isinstance(found, dict):
            raise InvalidValue(f"{self.path}: the result at byte {offset} is damaged")
        return JobResult.from_dict(found)

    def check_input(self, key: ResultKey, digest: str) -> None:
        """Raises InvalidValue: the result that is there under this key is of another input than this one."""
        if self._inputs.get(key, digest) != digest:
            raise InvalidValue(
                f"{self.path}: the result under the key {key.key!r:.100} is of another input than the one that has this key now:"
                " give it another key, or the batch another file"
            )

    def append(self, key: ResultKey, result: JobResult, digest: str = "") -> None:
        """Write a result, with a digest of its input. Raises OSError: it cannot be written; the file is as before."""
        of_input = {"input": digest} if digest else {}
        self._append({"key": key.key, "repeat": key.repeat, **of_input, "result": result.to_dict()}, key)

    def close(self) -> None:
        """Let the file go. What is appended later is not written."""
        with self._lock:
            self._object.close()

    def _take(self) -> None:
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise InvalidValue(f"{self.path} is no plain file: results need one")
        until = time.monotonic() + _RELEASE_S
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    text = "another batch writes to it: give another file, or wait for its end"
                    raise InvalidValue(f"{self.path}: {text}") from None
            time.sleep(_LOCK_PAUSE_S)

    def _read_all(self, header: dict[str, object]) -> None:
        with open(self._file, "rb", closefd=False) as file:
            first = file.readline()
            if first != _line(header) and _line(header).startswith(first):  # empty, or not even this line was written whole
                os.ftruncate(self._file, 0)
                self._append(header, None)
                return
            _check_header(self.path, first, header)
            self._end = len(first)
            for line in stored_lines(self.path, file, len(first)):
                self._places[line.key] = (line.offset, line.size)
                if isinstance(digest := line.data.get("input"), str):
                    self._inputs[line.key] = digest
                self._end = line.offset + line.size
        self._mend()

    def _mend(self) -> None:
        """Take out a line that was torn; end the last one if somebody has taken its end away."""
        torn = os.fstat(self._file).st_size - self._end
        if torn:
            _log.warning("%s: its last line was torn, and is taken out (%d bytes)", self.path, torn)
            os.ftruncate(self._file, self._end)
        if os.pread(self._file, 1, self._end - 1) != b"\n":
            self._write(b"\n")

    def _append(self, data: dict[str, object], key: ResultKey | None) -> None:
        line = _line(data)
        with self._lock:
            if self._object.closed:
                return
            offset = self._end
            self._write(line)
            if key is not None:
                self._places[key] = (offset, len(line))

    def _write(self, line: bytes) -> None:
        written = 0
        try:
            while written < len(line):
                written += os.pwrite(self._file, line[written:], self._end + written)
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(line)


def stored_lines(path: str, file: BinaryIO, offset: int) -> Iterator[StoredLine]:
    """The results of a file from behind its first line on, without a last one that was torn. Raises InvalidValue: it is damaged."""
    number = 1
    for line in file:
        number += 1
        data = _parsed(line)
        key, repeat = (data.get("key"), data.get("repeat")) if data is not None else (None, None)
        if data is None and not line.endswith(b"\n"):
            return
        if data is None or not (isinstance(key, str) and type(repeat) is int and isinstance(data.get("result"), dict)):
            raise InvalidValue(f"{path}: line {number} is damaged; take it out, and its input is run again")
        yield StoredLine(key=ResultKey(key, repeat), offset=offset, size=len(line), data=data)
        offset += len(line)


def read_stored(path: str) -> Iterator[tuple[ResultKey, JobResult]]:
    """The results of a file that nobody needs to write."""
    with open(path, "rb") as file:
        first = file.readline()
        _check_header(path, first, None)
        for line in stored_lines(path, file, len(first)):
            found = line.data["result"]
            assert isinstance(found, dict)
            yield line.key, JobResult.from_dict(found)


def input_key(given: object) -> str:
    """The key of an input that has no other: a digest of it as data. Raises InvalidInput: it is no input, or no data."""
    return _digest(JobInput.of(given))[:_KEY_DIGITS]  # type: ignore[arg-type]


def _header(task: Task | Pipeline) -> dict[str, object]:
    return {"jobmanager": "results", "form": _FORM, "task": _digest(task), "title": task.title}


def _check_header(path: str, line: bytes, ours: dict[str, object] | None) -> None:
    data = _parsed(line)
    if data is None or data.get("jobmanager") != "results":
        raise InvalidValue(f"{path} is no results file: its first line is not that of one")
    if data.get("form") != _FORM:
        raise InvalidValue(f"{path}: its form is {data.get('form')!r:.40}, and this version knows {_FORM}")
    if ours is not None and data.get("task") != ours["task"]:
        title = f"{data.get('title')!r:.100}"
        raise InvalidValue(f"{path} has the results of another task ({title}), or of another version of it: give another file")


def _digest(record: AsData) -> str:
    data = {key: value for key, value in record.to_dict().items() if key != "schema"}
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _line(data: dict[str, object]) -> bytes:
    return json.dumps(data, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, object] | None:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None
