"""What a waiter has read of a runner's stream, on disk: for the waiter after it."""

from __future__ import annotations

import logging
import os
from contextlib import suppress

_log = logging.getLogger(__name__)

_MOST_BYTES = 2**30
_MODE = 0o600
_FOLDER_MODE = 0o700


class Spool:
    """The beginning of one container's stream, in a file that is made when something is appended.

    The file has nothing but the stream's bytes, from offset 0 on. So whatever is left of it when a waiter dies while it writes is a
    beginning, too.

    A disk that takes no more ends the spool, and not the job: the file is removed and that is logged. A waiter that takes over then
    has no more than the runner still keeps. To stop the program instead would mean waiting for a disk that may never have room.

    Args:
        path: of the file, in a private folder, which is made with it; None: nothing is kept.
        most_bytes: the most that the file may have.
    """

    def __init__(self, path: str | None, *, most_bytes: int = _MOST_BYTES) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._size = 0

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

    def load(self) -> bytes:
        """What an earlier waiter has kept: the beginning of the stream, perhaps with half a message at its end."""
        if self._path is None:
            return b""
        try:
            with open(self._path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return b""
        except OSError as error:
            _log.warning("what an earlier waiter has kept of a container's report cannot be read: %s", error)
            return b""
        self._size = len(content)
        return content

    def cut(self, size: int) -> None:
        """Go on after so many bytes: what is behind them is written over."""
        self._size = size

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
            os.ftruncate(descriptor, self._size)
            left = memoryview(content)
            while left:
                written = os.pwrite(descriptor, left, self._size)
                self._size += written
                left = left[written:]
        finally:
            os.close(descriptor)
