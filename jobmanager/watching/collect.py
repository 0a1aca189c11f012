"""Collecting files from a workspace and from volumes: the runner lists a folder, and is asked for many small files at once.

No program runs any more, but the trees that it has left may be hostile, and containers that share a volume may still change it.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import re
import tarfile
import unicodedata
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from fnmatch import fnmatchcase
from itertools import count
from typing import TypeAlias, TypeVar

from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model._utf8 import from_utf8, to_utf8
from jobmanager.model.limits import Limits
from jobmanager.model.volume import mount_path, volume_of
from jobmanager.results.facts import Collected
from jobmanager.runner.fields import PATH_BYTES
from jobmanager.runner.frames import FETCH_BYTES, BringPath, Entries, Fetch, FolderEntry, ListFolder, PathKind, Piece

GRADERS_ARCHIVE = ".jobmanager/archive"
MOST_ENTRIES = 100_000  # that a runner lists
_MOST_DEPTH = 64  # of the folders that it lists
_MAX_FILES = 10_000
_MAX_NAME_LENGTH = 1024
_MAX_READ_FILES = 1000
_MAX_READ_FILE_MIB = 4
_MAX_READ_MIB = 16
_COMPRESSION = 6
_TURN_BYTES = 4 * 2**20  # are compressed, at most, before the monitor has its turn
_BATCH_BYTES = 2**20  # of the files that are asked for at once, unless it is one file
_MOST_BYTES = 2**32 - 1  # of one file, in a request
_COUNT_BYTES, _ASKED_BYTES = 4, 8  # of a list in a request, and of each file in it, beside the path
_LIST_SLACK = 1000  # names that may be kept beyond those that can come
_MAX_LISTED = 5  # names in the list of what was left out
_MAX_SHOWN_LENGTH = 100
_MAX_MTIME_S = 2**33
_TURNS_TEXT = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # what it shows is another name
_DRIVE = re.compile(r"[A-Za-z]:")
_NONSENSE = "the runner's answer makes no sense"
_NO_SENSE = -1  # beside the kernel's errors
_OTHER_IN_ITS_PLACE = "something else is in its place by now"
_LACKS = {  # by the kernel's errors, whose numbers are the same on all systems
    errno.ENOENT: "it is gone by now",
    errno.ENOTDIR: _OTHER_IN_ITS_PLACE,
    errno.EINVAL: _OTHER_IN_ITS_PLACE,
    errno.EACCES: "it cannot be opened",
    _NO_SENSE: _NONSENSE,
}


class Working(Enum):
    """What is under way where no message is waited for."""

    COMPRESSING = "compressing"


_Result = TypeVar("_Result")
_Asking: TypeAlias = Generator[ListFolder | Fetch | Working | None, Entries | Piece | None, _Result]
Collecting: TypeAlias = _Asking[Collected]


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
class _Wanted:
    """A file as it was listed."""

    name: str  # below its folder
    size: int


@dataclass(slots=True, kw_only=True)
class _File:
    """A file as it came."""

    pieces: list[bytes] = field(default_factory=list)
    size: int = 0  # bytes of them
    mode: int = 0
    mtime_s: int = 0
    errno: int = 0  # why it did not come

    def take(self, message: Entries | Piece, wanted: BringPath) -> None:
        """Add what an answer has next."""
        is_next = isinstance(message, Piece) and (message.path, message.offset) == (wanted.path, self.size)
        if not isinstance(message, Piece) or not is_next or self.size + len(message.data) > wanted.most:
            self.errno = self.errno or _NO_SENSE
        elif message.data:
            self.pieces.append(message.data)
            self.size += len(message.data)
        self.errno = self.errno or message.errno
        if isinstance(message, Piece) and not message.offset:
            self.mode, self.mtime_s = message.mode, message.mtime_s
        if self.errno:
            self.pieces.clear()


class _CapReached(Exception):
    """A cap was reached; what was taken so far stands."""


class _Missing(Exception):
    """Why a folder does not come."""


def collecting(job: MonitorContainer) -> Collecting:
    """Ask for the files that a job is to bring back, with one request at a time.

    What it yields is a request that is to be sent; or None, until the answer is over: it is sent each message of it as it comes; or
    ``Working``: it goes on when it is sent None, and whoever has it does something else in between.

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
    folders = _folders(job.workspace, job.collect)
    if job.grading is not None:
        folders.insert(0, _Folder(path=f"{job.workspace}/{GRADERS_ARCHIVE}", patterns=["*"], may_be_missing=True))
    archive = _Archive()
    taking = _Taking(archive.add, _archive_bounds(job.limits), requests)
    error = yield from taking.take_all(folders)
    packed = archive.close()
    has_some = taking.has_read and (job.collect or taking.taken or error)
    return Collected(archive=packed if has_some else None, error=error, not_collected=taking.not_collected())


def _read(job: MonitorContainer, requests: Iterator[int]) -> _Asking[tuple[dict[str, bytes], str]]:
    """The content of test reports by their names, and why some are missing. The first that is too large ends the reading."""
    found: dict[str, bytes] = {}
    bounds = _Bounds(
        files=_MAX_READ_FILES,
        all_bytes=_MAX_READ_MIB * 2**20,
        file_bytes=_MAX_READ_FILE_MIB * 2**20,
        largest=f"{_MAX_READ_FILE_MIB} MiB, or {_MAX_READ_MIB} MiB all together",
    )

    def keep(name: str, file: _File) -> Iterable[Working]:
        found[name] = b"".join(file.pieces)
        return ()

    taking = _Taking(keep, bounds, requests)
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


class _Archive:
    """A tar archive that is compressed a few MiB at a time."""

    def __init__(self) -> None:
        self._packed = io.BytesIO()
        self._out = gzip.GzipFile(fileobj=self._packed, mode="wb", compresslevel=_COMPRESSION)
        self._since_turn = 0  # bytes

    def add(self, name: str, file: _File) -> Iterator[Working]:
        """Add a file; each item is an occasion to do something else."""
        member = tarfile.TarInfo(name)
        member.size, member.mtime = file.size, max(0, min(file.mtime_s, _MAX_MTIME_S))
        member.mode = 0o755 if file.mode & 0o100 else 0o644
        head = member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
        for part in (head, *file.pieces, bytes(-file.size % tarfile.BLOCKSIZE)):
            self._out.write(part)
            self._since_turn += len(part)
            if self._since_turn > _TURN_BYTES:
                self._since_turn = 0
                yield Working.COMPRESSING

    def close(self) -> bytes:
        """The whole archive."""
        self._out.write(bytes(2 * tarfile.BLOCKSIZE))
        self._out.close()
        return self._packed.getvalue()


class _Listing:
    """What is kept of a folder's list while it comes: names that can come, and a few of those that stay.

    Args:
        most: how many files can come; the first by name do.
    """

    def __init__(self, folder: _Folder, most: int) -> None:
        self.is_cut = False  # more than `most` match
        self.seen = 0  # entries
        self.left_out = 0  # names that match and stay
        self._folder = folder
        self._most = most
        self._files: list[_Wanted] = []
        self._stays: list[tuple[str, str]] = []

    def add(self, page: Entries) -> None:
        """Look at the next entries; those past ``MOST_ENTRIES`` are only counted."""
        room = max(0, MOST_ENTRIES - self.seen)
        self.seen += len(page.entries)
        for name, entry in _wanted(page.entries[:room], self._folder.patterns):
            if lack := _kind_that_stays(entry) or _unclean(name) or _unusable(name, self._folder):
                self.left_out += 1
                self._stays.append((name, lack))
            else:
                self._files.append(_Wanted(name=name, size=entry.size))
        self._stays = sorted(self._stays)[:_MAX_LISTED]
        if len(self._files) > self._most + _LIST_SLACK:
            self._cut()

    def files(self) -> deque[_Wanted]:
        """Those that can come, in the order of their names."""
        self._cut()
        return deque(self._files)

    def stays(self) -> list[tuple[str, str]]:
        """The first names that stay, with reasons."""
        return self._stays

    def _cut(self) -> None:
        self._files.sort(key=lambda wanted: wanted.name)
        self.is_cut = self.is_cut or len(self._files) > self._most
        del self._files[self._most :]


class _Taking:
    """What is taken from one folder or several, within one set of bounds.

    Args:
        keep: gets each file with its name, in the order of the folders, and of the names in each.
        bounds: of all folders together.
        requests: the numbers of the requests to come.
    """

    def __init__(self, keep: Callable[[str, _File], Iterable[Working]], bounds: _Bounds, requests: Iterator[int]) -> None:
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
        listing = _Listing(folder, self._bounds.files - self.taken)
        try:
            yield from self._list(folder, listing)
        except _Missing as missing:
            self._lacks.append(str(missing))
            return
        for name, lack in listing.stays():
            self._leave_out(folder.prefix + name, lack)
        self._left_out += listing.left_out - len(listing.stays())
        files = listing.files()
        while files:
            batch = self._next_batch(folder, files)
            asked = [BringPath(path=_path(folder, wanted), most=wanted.size) for wanted in batch]
            for wanted, file in zip(batch, (yield from self._fetched(asked)), strict=True):
                yield from self._take(folder, wanted, file)
        if listing.is_cut:
            raise _CapReached(f"more than {self._bounds.files} files match")

    def _list(self, folder: _Folder, listing: _Listing) -> _Asking[None]:
        """Raises _Missing where there is no list."""
        number = next(self._requests)
        page = yield from _message(number, ListFolder(request=number, path=folder.path.encode()))
        while isinstance(page, Entries):
            listing.add(page)
            if page.last:
                return self._look_at_the_end(folder, listing, page.errno)
            page = yield from _message(number)
        raise _Missing(f"{folder.what} could not be read: {_NONSENSE}")

    def _look_at_the_end(self, folder: _Folder, listing: _Listing, error: int) -> None:
        if error == errno.ENOENT and not listing.seen and folder.may_be_missing:
            return
        if error not in (0, errno.E2BIG) and not listing.seen:
            raise _Missing(f"{folder.what} could not be read: {os.strerror(error)}")
        self.has_read = True
        if error == errno.E2BIG or listing.seen > MOST_ENTRIES:
            most = f"{MOST_ENTRIES} files, or is more than {_MOST_DEPTH} folders deep"
            self._lacks.append(f"{folder.what} holds more than {most}: a part was not seen")
        elif error:
            self._lacks.append(f"a part of {folder.what} could not be read: {os.strerror(error)}")

    def _next_batch(self, folder: _Folder, files: deque[_Wanted]) -> list[_Wanted]:
        """The files that are asked for next, at least one. Raises _CapReached."""
        batch: list[_Wanted] = []
        size, list_bytes = 0, _COUNT_BYTES
        while files and files[0].size <= min(self._left - size, self._bounds.file_bytes, _MOST_BYTES):
            size += files[0].size
            list_bytes += _ASKED_BYTES + len(_path(folder, files[0]))
            if batch and (size > _BATCH_BYTES or list_bytes > FETCH_BYTES):
                return batch
            batch.append(files.popleft())
        if not batch:
            raise self._too_large(folder.prefix + files[0].name)
        return batch

    def _fetched(self, asked: Sequence[BringPath]) -> _Asking[list[_File]]:
        """All of the answer is read, whatever it is: before that nothing else can be asked for."""
        number = next(self._requests)
        request: Fetch | None = Fetch(request=number, files=tuple(asked))
        files = []
        for wanted in asked:
            file, is_over = _File(), False
            while not is_over:
                message = yield from _message(number, request)
                request = None
                file.take(message, wanted)
                is_over = message.last
            files.append(file)
        return files

    def _take(self, folder: _Folder, wanted: _Wanted, file: _File) -> _Asking[None]:
        shown = folder.prefix + wanted.name
        most = min(self._left, self._bounds.file_bytes)
        if file.errno == errno.EFBIG and most > wanted.size:  # it has grown since
            (file,) = yield from self._fetched([BringPath(path=_path(folder, wanted), most=min(most, _MOST_BYTES))])
        if file.errno == errno.EFBIG or file.size > most:
            raise self._too_large(shown)
        if file.errno:
            self._leave_out(shown, _LACKS.get(file.errno, f"not read: {os.strerror(max(0, file.errno))}"))
            return
        yield from self._keep(shown, file)
        self.taken += 1
        self._left -= file.size

    def _too_large(self, shown: str) -> _CapReached:
        return _CapReached(f"they are larger than {self._bounds.largest}: {_shown(shown)} and what follows are missing")

    def _leave_out(self, name: str, why: str) -> None:
        self._left_out += 1
        if len(self._listed) < _MAX_LISTED:
            self._listed.append(f"{_shown(name)} ({why})")


def _message(number: int, request: ListFolder | Fetch | None = None) -> _Asking[Entries | Piece]:
    """The next message of an answer, after its request was sent."""
    message = yield request
    while message is None or message.request != number:
        message = yield None
    return message


def _path(folder: _Folder, wanted: _Wanted) -> bytes:
    return f"{folder.path}/{wanted.name}".encode()


def _wanted(entries: Iterable[FolderEntry], patterns: Sequence[str]) -> Iterator[tuple[str, FolderEntry]]:
    """What matches and is neither a folder nor ours, by name."""
    for entry in entries:
        name = from_utf8(entry.path)
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
    chars = set(name)
    kinds = set(map(unicodedata.category, chars))
    if "Cs" in kinds:
        return "its name is no UTF-8"
    if kinds & {"Cc", "Zl", "Zp"} or chars & _TURNS_TEXT:
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
    text = to_utf8(name[:_MAX_SHOWN_LENGTH]).decode("utf-8", "backslashreplace")
    clean = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return f"'{clean}'" if len(name) <= _MAX_SHOWN_LENGTH else f"'{clean}...'"
