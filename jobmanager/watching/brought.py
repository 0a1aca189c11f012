"""What a runner brings at the end of a run: the result file that a program may write."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from jobmanager.ipc.messages import MonitorContainer
from jobmanager.results.result_file import RESULT_FILE, RESULT_FILE_LIMIT
from jobmanager.runner.frames import BringPath, Piece

_NO_FILE = (errno.ENOENT, errno.ENOTDIR)
_TOO_LARGE = bytes(RESULT_FILE_LIMIT + 1)  # in the place of one that did not come: what reads it looks at its length first
_UNREADABLE = b""  # means the same as an empty file: an error


def brought_paths(job: MonitorContainer) -> tuple[BringPath, ...]:
    """The files that a run's end brings, with one byte more than is allowed: a file that is too large is seen to be."""
    return (BringPath(path=f"{job.workspace}/{RESULT_FILE}".encode(), most=RESULT_FILE_LIMIT + 1),)


def result_file_of(pieces: Sequence[Piece]) -> bytes | None:
    """The result file of all that was brought; None: the program has left nothing there.

    Of a file that is larger than ``RESULT_FILE_LIMIT`` bytes come more than that, whatever they are, and of one that could not
    be read whole, or is a link or no regular file, none: what a program meant to say is never taken for silence.
    """
    own = [piece for piece in pieces if piece.path.endswith(f"/{RESULT_FILE}".encode())]
    if not own or own[0].errno in _NO_FILE:
        return None
    if own[-1].errno == errno.EFBIG:
        return _TOO_LARGE
    content = b"".join(piece.data for piece in own)
    is_whole = own[-1].last and own[-1].errno == 0 and len(content) == own[-1].offset + len(own[-1].data)
    return content if is_whole else _UNREADABLE
