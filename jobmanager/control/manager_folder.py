"""A folder of one manager on its own machine."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path


class ManagerFolder:
    """A private folder (mode 0700), made when it is first asked for. Not thread-safe.

    The manager removes it when it closes. After a sudden end of the manager, the children that use it do.
    """

    def __init__(self) -> None:
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """Where it is; raises OSError where it cannot be made."""
        if self._path is None:
            self._path = Path(tempfile.mkdtemp(prefix="jobmanager-"))
        return self._path

    def remove(self) -> None:
        """Remove it with all that is in it. A second call does nothing."""
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
            self._path = None
