"""Collecting files from a workspace and from volumes: the runner lists a folder, and is asked for one file after the other.

No program runs any more, but the trees that it has left may be hostile, and containers that share a volume may still change it.
"""

from __future__ import annotations

import errno
import io
import os
import re
import tarfile
import unicodedata
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import count
from typing import TypeAlias, TypeVar

from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model.limits import Limits
from jobmanager.model.volume import mount_path, volume_of
from jobmanager.results.facts import Collected
from jobmanager.runner.fields import PATH_BYTES
from jobmanager.runner.frames import Entries, Fetch, FolderEntry, ListFolder, PathKind, Piece

GRADERS_ARCHIVE = ".jobmanager/archive"
MOST_ENTRIES = 100_000  # that a runner lists
_MOST_DEPTH = 64  # of the folders that it lists
_MAX_FILES = 10_000
_MAX_NAME_LENGTH = 1024
_MAX_READ_FILES = 1000
_MAX_READ_FILE_MIB = 4
_MAX_READ_MIB = 16
_COMPRESSION = 6
_MAX_LISTED = 5  # names in the list of what was left out
_MAX_SHOWN_LENGTH = 100
_MAX_MTIME_S = 2**33
_TURNS_TEXT = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # a name would be shown as another
_DRIVE = re.compile(r"[A-Za-z]:")
_NONSENSE = "the runner's answer makes no sense"
_OTHER_IN_ITS_PLACE = "something else is in its place by now"
_LACKS = {  # by the kernel's errors, whose numbers are the same on all systems
    errno.ENOENT: "it is gone by now",
    errno.ENOTDIR: _OTHER_IN_ITS_PLACE,
    errno.EINVAL: _OTHER_IN_ITS_PLACE,
    errno.EACCES: "it cannot be opened",
}
_Result = TypeVar("_Result")
_Asking: TypeAlias = Generator[ListFolder | Fetch, list[Entries] | list[Piece], _Result]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bounds:
    """How much is taken."""

    files: int
    all_bytes: int
    file_bytes: int  # of one file
    largest: str  # the two sizes, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    """A folder of a container, and what is wanted of it."""

    path: str
    patterns: Sequence[str]
    what: str = "the workspace"
    prefix: str = ""  # of its files' names
    reserved: tuple[str, ...] = ()  # beginnings of names that others have
    may_be_missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file as it came."""

    content: bytes
    mode: int
    mtime_s: int


class _CapReached(Exception):
    """A cap was reached; what was taken so far stands."""


class _Missing(Exception):
    """Why a folder or a file does not come."""


def collecting(job: MonitorContainer) -> Generator[ListFolder | Fetch, list[Entries] | list[Piece], Collected]:
    """Ask for the files that a job is to bring back: one request at a time, and each is sent all messages that answer it.

    The regular files that match come back, each under every name that it has. Those of ``/volumes/NAME`` are named
    ``volumes/NAME/...``. Symbolic links, devices, fifos and names that are not clean are left out. ``archive_mib`` counts bytes
    before compression. From a grading container the files of the grader's archive come, too; without any, and without
    patterns, there is no archive. Test reports come beside it, as they are, within smaller limits.
    """
    requests, found = count(1), Collected()
    if job.collect or job.grading is not None:
        found = yield from _archived(job, requests)
    if not job.tests:
        return found
    files, lack = yield from _read(job, requests)
    errors = filter(None, (found.error, lack and f"test reports: {lack}"))
    return replace(found, test_files=files, error="; ".join(errors))


def _archived(job: MonitorContainer, requests: Iterator[int]) -> _Asking[Collected]:
    packed = io.BytesIO()
    folders = _folders(job.workspace, job.collect)
    if job.grading is not None:
        folders.insert(0, _Folder(path=f"{job.workspace}/{GRADERS_ARCHIVE}", patterns=["*"], may_be_missing=True))
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=_COMPRESSION, format=tarfile.PAX_FORMAT) as out:
        taking = _Taking(partial(_add, out), _archive_bounds(job.limits), requests)
        error = yield from taking.take_all(folders)
    has_some = taking.has_read and (job.collect or taking.taken or error)
    return Collected(archive=packed.getvalue() if has_some else None, error=error, not_collected=taking.not_collected())


def _read(job: MonitorContainer, requests: Iterator[int]) -> _Asking[tuple[dict[str, bytes], str]]:
    """The content of test reports by their names, and why some are missing. The first that is too large ends the reading."""
    found: dict[str, bytes] = {}
    bounds = _Bounds(
        files=_MAX_READ_FILES,
        all_bytes=_MAX_READ_MIB * 2**20,
        file_bytes=_MAX_READ_FILE_MIB * 2**20,
        largest=f"{_MAX_READ_FILE_MIB} MiB, or {_MAX_READ_MIB} MiB all together",
    )
    taking = _Taking(lambda name, file: found.update({name: file.content}), bounds, requests)
    error = yield from taking.take_all(_folders(job.workspace, job.tests))
    return found, "; ".join(filter(None, (error, taking.not_collected())))


def _archive_bounds(limits: Limits) -> _Bounds:
    most_bytes, largest = limits.archive_mib * 2**20, f"archive_mib = {limits.archive_mib}"
    return _Bounds(files=_MAX_FILES, all_bytes=most_bytes, file_bytes=most_bytes, largest=largest)


def _folders(workspace: str, patterns: Sequence[str]) -> list[_Folder]:
    """The workspace, and each volume that a pattern names."""
    by_volume: dict[str | None, list[str]] = {}
    for pattern in patterns:
        volume = volume_of(pattern)
        below = pattern if volume is None else pattern.removeprefix(f"{mount_path(volume)}/")
        by_volume.setdefault(volume, []).append(below)
    own = by_volume.pop(None, [])
    volumes = [
        _Folder(path=mount_path(name), patterns=below, what=f"the volume {name}", prefix=f"{mount_path(name).lstrip('/')}/")
        for name, below in by_volume.items()
        if name is not None
    ]
    reserved = tuple(volume.prefix for volume in volumes)
    return [*([_Folder(path=workspace, patterns=own, reserved=reserved)] if own else []), *volumes]


class _Taking:
    """What is taken from one folder or several, within one set of bounds.

    Args:
        keep: gets each file with its name, in the order of the folders, and of the names in each.
        bounds: of all folders together.
        requests: the numbers of the requests to come.
    """

    def __init__(self, keep: Callable[[str, _File], None], bounds: _Bounds, requests: Iterator[int]) -> None:
        self.taken = 0  # files
        self.has_read = False  # a folder could be listed
        self._keep = keep
        self._bounds = bounds
        self._requests = requests
        self._left = bounds.all_bytes
        self._lacks: list[str] = []
        self._left_out = 0
        self._listed: list[str] = []

    def take_all(self, folders: Sequence[_Folder]) -> _Asking[str]:
        """Take what is wanted of these folders; why some is missing, in words."""
        try:
            for folder in folders:
                yield from self._take_folder(folder)
        except _CapReached as cap:
            self._lacks.append(str(cap))
        return "; ".join(self._lacks)

    def not_collected(self) -> str:
        """The names that matched and were left out, with reasons; empty when there are none."""
        more = self._left_out - len(self._listed)
        return ", ".join([*self._listed, *([f"and {more} more"] if more else [])])

    def _take_folder(self, folder: _Folder) -> _Asking[None]:
        answers = yield ListFolder(request=next(self._requests), path=folder.path.encode())
        try:
            entries = self._listing(folder, answers)
        except _Missing as missing:
            self._lacks.append(str(missing))
            return
        for name, entry in entries:
            if lack := _kind_that_stays(entry) or _unclean(name) or _unusable(name, folder):
                self._leave_out(folder.prefix + name, lack)
            else:
                yield from self._take(folder, name, entry.size)

    def _listing(self, folder: _Folder, answers: list[Entries] | list[Piece]) -> list[tuple[str, FolderEntry]]:
        """What matches, in the order of the names. Raises _Missing where there is no list."""
        pages = [answer for answer in answers if isinstance(answer, Entries)]
        if not pages or not pages[-1].last:
            raise _Missing(f"{folder.what} could not be read: {_NONSENSE}")
        error, is_empty = pages[-1].errno, not any(page.entries for page in pages)
        if error == errno.ENOENT and is_empty and folder.may_be_missing:
            return []
        if error not in (0, errno.E2BIG) and is_empty:
            raise _Missing(f"{folder.what} could not be read: {os.strerror(error)}")
        self.has_read = True
        entries = [entry for page in pages for entry in page.entries]
        if error == errno.E2BIG or len(entries) > MOST_ENTRIES:
            most = f"{MOST_ENTRIES} files, or is more than {_MOST_DEPTH} folders deep"
            self._lacks.append(f"{folder.what} holds more than {most}: a part was not seen")
        elif error:
            self._lacks.append(f"a part of {folder.what} could not be read: {os.strerror(error)}")
        return sorted(_wanted(entries[:MOST_ENTRIES], folder.patterns), key=lambda found: found[0])

    def _take(self, folder: _Folder, name: str, size: int) -> _Asking[None]:
        shown = folder.prefix + name
        if self.taken >= self._bounds.files:
            raise _CapReached(f"more than {self._bounds.files} files match")
        most = min(self._left, self._bounds.file_bytes)
        if size > most:
            raise self._too_large(shown)
        answers = yield Fetch(request=next(self._requests), path=f"{folder.path}/{name}".encode(), most=most)
        try:
            file = self._file(shown, answers, most)
        except _Missing as missing:
            self._leave_out(shown, str(missing))
            return
        self._keep(shown, file)
        self.taken += 1
        self._left -= len(file.content)

    def _file(self, shown: str, answers: list[Entries] | list[Piece], most: int) -> _File:
        """What the pieces of a file are together. Raises _Missing and _CapReached."""
        pieces = [answer for answer in answers if isinstance(answer, Piece)]
        if not pieces or not pieces[-1].last:
            raise _Missing(_NONSENSE)
        if error := pieces[-1].errno:
            raise self._too_large(shown) if error == errno.EFBIG else _Missing(_LACKS.get(error, f"not read: {os.strerror(error)}"))
        if [piece.offset for piece in pieces] != _offsets(pieces):
            raise _Missing(_NONSENSE)
        content = b"".join(piece.data for piece in pieces)
        if len(content) > most:
            raise self._too_large(shown)
        return _File(content=content, mode=pieces[0].mode, mtime_s=pieces[0].mtime_s)

    def _too_large(self, shown: str) -> _CapReached:
        return _CapReached(f"they are larger than {self._bounds.largest}: {_shown(shown)} and what follows are missing")

    def _leave_out(self, name: str, why: str) -> None:
        self._left_out += 1
        if len(self._listed) < _MAX_LISTED:
            self._listed.append(f"{_shown(name)} ({why})")


def _offsets(pieces: Sequence[Piece]) -> list[int]:
    offsets = [0]
    for piece in pieces[:-1]:
        offsets.append(offsets[-1] + len(piece.data))
    return offsets


def _wanted(entries: Iterable[FolderEntry], patterns: Sequence[str]) -> Iterator[tuple[str, FolderEntry]]:
    """What matches and is neither a folder nor ours, by name."""
    for entry in entries:
        name = entry.path.decode("utf-8", "surrogateescape")
        if entry.kind is not PathKind.FOLDER and _is_inside(name) and _matches(name, patterns):
            yield name, entry


def _is_inside(name: str) -> bool:
    parts = name.split("/")
    return not name.startswith(".jobmanager") and not {"", ".", ".."} & set(parts)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) or name.startswith(f"{pattern.rstrip('/')}/") for pattern in patterns)


def _kind_that_stays(entry: FolderEntry) -> str:
    """What it is, where it is no regular file."""
    if entry.kind is PathKind.FILE:
        return ""
    return "a symbolic link" if entry.kind is PathKind.LINK else "no regular file"


def _unclean(name: str) -> str:
    """What is wrong with a name: it would be shown, or taken elsewhere, for something that it is not."""
    if len(name) > _MAX_NAME_LENGTH:
        return "its name is too long"
    kinds = {unicodedata.category(char) for char in name}
    if "Cs" in kinds:
        return "its name is no UTF-8"
    if kinds & {"Cc", "Zl", "Zp"} or any(char in _TURNS_TEXT for char in name):
        return "control characters in its name"
    if ".." in re.split(r"[/\\]", name) or name.startswith("\\") or _DRIVE.match(name):
        return "its name leads elsewhere on Windows"
    return ""


def _unusable(name: str, folder: _Folder) -> str:
    """What is wrong with a clean name in this folder."""
    if len(f"{folder.path}/{name}".encode()) > PATH_BYTES:
        return "its name is too long"
    return "its name is that of a volume's file" if name.startswith(folder.reserved) else ""


def _shown(name: str) -> str:
    """A stranger's name for a message: one line, of bounded length."""
    text = name[:_MAX_SHOWN_LENGTH].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    clean = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return f"'{clean}'" if len(name) <= _MAX_SHOWN_LENGTH else f"'{clean}...'"


def _add(out: tarfile.TarFile, name: str, file: _File) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(file.content), max(0, min(file.mtime_s, _MAX_MTIME_S))
    member.mode = 0o755 if file.mode & 0o100 else 0o644
    out.addfile(member, io.BytesIO(file.content))
