"""``Volume``: a folder that phases of a pipeline share, where it is in a container, and how patterns name files in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from jobmanager.errors import InvalidTask
from jobmanager.model import _checks
from jobmanager.model._exact import make_exact
from jobmanager.model.as_data import AsData

VOLUMES = "/volumes"
_MAX_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Volume(AsData, invalid=InvalidTask):
    """A folder in memory that phases of a pipeline share. It is made for one job, and gone with it.

    Its files count as memory of the phase that wrote them, and a host keeps ``size_mib`` free for it.

    Args:
        size_mib: how much it can hold.

    Raises:
        InvalidTask: a size that is no whole number from 1 to 2**20.
    """

    size_mib: int = 64

    def __post_init__(self) -> None:
        make_exact(self, InvalidTask)
        _checks.positive_int("size_mib", self.size_mib, InvalidTask, at_most=_MAX_MIB)


def mount_path(name: str) -> str:
    """The folder of a volume in each container that has it."""
    return f"{VOLUMES}/{name}"


def volume_of(pattern: str) -> str | None:
    """The volume that a checked pattern is for; None for one of workspace files."""
    return PurePosixPath(pattern).parts[2] if pattern.startswith(f"{VOLUMES}/") else None


def file_pattern(pattern: str) -> str:
    """A pattern of workspace files, or ``/volumes/NAME/PATTERN``, in its shortest form.

    Raises:
        InvalidTask: it would leave both.
    """
    pattern = _checks.text("a pattern", pattern, InvalidTask)
    path = PurePosixPath(pattern)
    if path.parts[:2] != ("/", PurePosixPath(VOLUMES).name):
        return _checks.workspace_path(pattern, InvalidTask)
    if len(path.parts) < 4 or ".." in path.parts:
        raise InvalidTask(f"pattern {pattern!r}: write {VOLUMES}/NAME/PATTERN, without '..'; {VOLUMES}/NAME/* is everything")
    _checks.short_name(f"the volume in {pattern!r}", path.parts[2], InvalidTask)
    _checks.path_length(path, InvalidTask)
    return str(path)
