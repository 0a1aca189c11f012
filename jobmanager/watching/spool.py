"""What a waiter has read of a runner's stream, on disk: for the waiter after it."""

from __future__ import annotations

import logging
import os
import struct
from contextlib import suppress

_log = logging.getLogger(__name__)

_MOST_BYTES = 2**30
_MODE = 0o600
_HEAD = struct.Struct("<Q")  # where in the stream the file begins
_FOLDER_MODE = 0o700


class Spool:
    """The beginning of one container's stream, in a file that is made when something is appended.

    The file has an offset in the stream, and then nothing but the stream's bytes from there on. The offset is 0, or where the first
    run begins that is not told yet. So whatever is left of the file when a waiter dies while it writes is a beginning, too.

    A disk that takes no more ends the spool, and not the job: the file is removed and that is logged. A waiter that takes over then
    has no more than the runner still keeps. To stop the program instead would mean waiting for a disk that may never have room.

    Args:
        path: of the file, in a private folder, which is made with it; None: nothing is kept.
        most_bytes: the most that the file may have.
    """

    def __init__(self, path: str | None, *, most_bytes: int = _MOST_BYTES) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._begins_at = 0  # offset in the stream
        self._size = 0  # bytes of the stream in the file

    @classmethod
    def in_folder(cls, folder: str, container_name: str) -> Spool:
        """A container's spool; without a folder nothing is kept."""
        return cls(os.path.join(folder, container_name) if folder else None)

    def append(self, stream_bytes: bytes) -> None:
        """Keep what comes next in the stream. Never raises."""
        if self._path is None or not stream_bytes:
            return
        try:
            if self._size + len(stream_bytes) > self._most_bytes:
                raise OSError(f"the file would have more than {self._most_bytes} bytes")
            self._write(self._path, stream_bytes)
        except OSError as error:
            _log.warning("what a container reports is no longer kept on disk, and is lost if its waiter dies: %s", error)
            self.remove()

    def load(self) -> tuple[int, bytes]:
        """What an earlier waiter has kept: from this offset on these bytes, perhaps with half a message at their end."""
        if self._path is None:
            return 0, b""
        try:
            with open(self._path, "rb") as file:
                head, content = file.read(_HEAD.size), file.read()
        except FileNotFoundError:
            return 0, b""
        except OSError as error:
            _log.warning("what an earlier waiter has kept of a container's report cannot be read: %s", error)
            return 0, b""
        if len(head) < _HEAD.size:  # it died before it had written any of it
            return 0, b""
        (self._begins_at,) = _HEAD.unpack(head)
        self._size = len(content)
        return self._begins_at, content

    def cut(self, read_to: int) -> None:
        """Go on at this offset of the stream: what is behind it is written over."""
        self._size = read_to - self._begins_at

    def forget(self, read_to: int) -> None:
        """What comes before this offset of the stream is told. Never raises."""
        if self._path is None:
            return
        had_file, self._begins_at, self._size = self._size > 0, read_to, 0
        if not had_file:
            return
        try:
            new = f"{self._path}.new"
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE), "wb") as file:
                file.write(_HEAD.pack(read_to))
            os.replace(new, self._path)
        except OSError as error:
            _log.warning("what a container reports is no longer kept on disk, and is lost if its waiter dies: %s", error)
            self.remove()

    def remove(self) -> None:
        """Remove the file, and keep nothing from now on. A second call does nothing."""
        if self._path is not None:
            with suppress(OSError):
                os.unlink(self._path)
        self._path = None

    def _write(self, path: str, content: bytes) -> None:
        with suppress(FileExistsError):
            os.mkdir(os.path.dirname(path), _FOLDER_MODE)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
        try:
            if not self._size:
                os.pwrite(descriptor, _HEAD.pack(self._begins_at), 0)
            os.ftruncate(descriptor, _HEAD.size + self._size)
            left = memoryview(content)
            while left:
                written = os.pwrite(descriptor, left, _HEAD.size + self._size)
                self._size += written
                left = left[written:]
        finally:
            os.close(descriptor)
