"""Files that come back to the caller: copied into ``.jobmanager/archive``."""

import os
import stat

from . import place
from .errors import BadValue, GradingError

_PIECE = 1024 * 1024


def archive(path: "str", subfolder: "str" = "") -> "None":
    """Add a copy of a regular file, under its own name.

    Raises:
        BadValue: it is no regular file, or a link that leads out of the task's folder; the subfolder lies outside the archive.
        GradingError: it cannot be read, or there is no room for the copy.
    """
    folder = _inside(subfolder)
    try:
        source = _regular_file(path)
        try:
            os.makedirs(folder, exist_ok=True)
            _copy(source, os.path.join(folder, os.path.basename(path)))
        finally:
            os.close(source)
    except OSError as error:
        raise GradingError(f"{path!r} cannot be archived: {error.strerror or error}") from None


def unarchive(name: "str", subfolder: "str" = "") -> "None":
    """Take a file out of the archive again."""
    try:
        os.remove(os.path.join(_inside(subfolder), os.path.basename(name)))
    except OSError as error:
        raise GradingError(f"{name!r} cannot be taken out of the archive: {error.strerror or error}") from None


def archive_folder(folder: "str") -> "None":
    """Add copies of all regular files in a folder and below, where they are in it; links and the like are passed over.

    Raises:
        GradingError: one cannot be read, or there is no room for the copies.
    """
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            path = os.path.join(parent, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                archive(path, os.path.relpath(parent, folder))


def _inside(subfolder: "str") -> "str":
    folder = os.path.normpath(os.path.join(place.ARCHIVE, subfolder))
    if os.path.isabs(subfolder) or not _below(os.path.realpath(folder), os.path.realpath(place.ARCHIVE)):
        raise BadValue(f"{subfolder!r} is no folder inside the archive")
    return folder


def _regular_file(path: "str") -> "int":
    """A descriptor of it. A link inside the task's folder is followed to a file that is there, too, and nowhere else."""
    if "\0" in path or not os.path.basename(path):
        raise BadValue(f"{path!r} is no file's name")
    real, task = os.path.realpath(path), os.path.realpath(place.TASK)
    asked = os.path.join(os.path.realpath(os.getcwd()), path)
    if _below(os.path.normpath(asked), task) and not _below(real, task):
        raise BadValue(f"{path!r} is a link that leads out of the task's folder")
    file = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a fifo would block
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise BadValue(f"{path!r} is no regular file; of a folder, archive the files, or a tar")
    return file


def _below(path: "str", folder: "str") -> "bool":
    return (path + "/").startswith(folder.rstrip("/") + "/")


def _copy(source: "int", aim: "str") -> "None":
    new = os.open(aim, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(new, "wb") as file:
        while True:
            piece = os.read(source, _PIECE)
            if not piece:
                return
            file.write(piece)
