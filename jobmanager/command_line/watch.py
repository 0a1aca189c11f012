"""Files that are looked at again and again, until one changes: ``--watch``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jobmanager.errors import InvalidValue

MAX_FILES = 20_000
_LOOK_EVERY_S = 0.5

State = Mapping[str, tuple[int, int, int]]


def changes(paths: Sequence[Path]) -> Iterator[None]:
    """Yield at once, and then after each change of a file, or of a file below a folder. It never ends.

    What changed while the caller was busy counts, too. A change is told when the files have stood still for one look.
    """
    while True:
        seen = state_of(paths)
        yield
        while (now := state_of(paths)) == seen:
            time.sleep(_LOOK_EVERY_S)
        while now != (now := _later(paths)):
            pass


def _later(paths: Sequence[Path]) -> State:
    time.sleep(_LOOK_EVERY_S)
    return state_of(paths)


def state_of(paths: Sequence[Path]) -> State:
    """Of each file what differs after a change. Names that begin with a dot are left out, and links are not followed.

    Raises:
        InvalidValue: there are more than ``MAX_FILES`` files.
    """
    state = {}
    for path in _files(paths):
        try:
            found = os.lstat(path)
        except OSError:  # it has just gone
            continue
        state[path] = (found.st_mtime_ns, found.st_size, found.st_ino)
        if len(state) > MAX_FILES:
            raise InvalidValue(f"--watch: there are more than {MAX_FILES} files to watch")
    return state


def _files(paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        yield str(path)
        for folder, folders, names in os.walk(path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            yield from (os.path.join(folder, name) for name in names if not name.startswith("."))
