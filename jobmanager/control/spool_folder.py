"""Where the waiters of one manager keep what they have read of long runs: a folder that is made only when one of them needs it."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress

from jobmanager.engine.labels import Owner

_log = logging.getLogger(__name__)

_PREFIX = "jobmanager-spool-"
_SEPARATOR = "_"


class SpoolFolder:
    """The place of a private folder (mode 0700), which names the process that it belongs to.

    The manager removes it when it closes, and its waiters do when their manager has died. What is left when all of them were killed
    at once is removed by the next manager of the same user on the machine.
    """

    def __init__(self) -> None:
        owner = Owner.this_process().label().replace("/", _SEPARATOR)
        try:
            self.path = os.path.join(tempfile.gettempdir(), f"{_PREFIX}{owner}{_SEPARATOR}{secrets.token_hex(8)}")
        except OSError as error:
            _log.warning("there is no folder for temporary files: long runs are lost with a waiter that dies (%s)", error)
            self.path = ""

    def remove(self) -> None:
        """Remove it with all that is in it. A second call does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)


def remove_abandoned() -> None:
    """Remove the folders of managers of this user whose process is proven dead. Never raises."""
    with suppress(OSError):
        for path in list(_abandoned()):
            shutil.rmtree(path, ignore_errors=True)


def _abandoned() -> Iterator[str]:
    with os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and _is_abandoned(entry):
                yield entry.path


def _is_abandoned(entry: os.DirEntry[str]) -> bool:
    label, _, _ = entry.name.removeprefix(_PREFIX).rpartition(_SEPARATOR)
    owner = Owner.parse(label.replace(_SEPARATOR, "/"))
    try:
        is_ours = entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
    except OSError:
        return False
    return is_ours and owner is not None and owner.is_proven_dead()
