"""Collecting files from a workspace and from volumes: a tar from a hostile place, read as a stream, never extracted."""

from __future__ import annotations

import io
import re
import tarfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import PurePosixPath

from jobmanager.engine.protocol import Engine, EngineError, Unreachable
from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model.container import WORKSPACE
from jobmanager.model.limits import Limits
from jobmanager.model.volume import mount_path, volume_of
from jobmanager.results.facts import Collected
from jobmanager.watching.inspector import ContainerInspector

GRADERS_ARCHIVE = ".jobmanager/archive"
_TRIES = 3
_MAX_MEMBERS = 10_000
_MAX_SEEN_MEMBERS = 100_000
_MAX_HOLES_MIB = 256  # of sparse files: they cost a program nothing, come as zeros, and keep the engine busy
_MAX_NAME_LENGTH = 1024
_MAX_READ_FILES = 1000
_MAX_READ_FILE_MIB = 4
_MAX_READ_MIB = 16
_COMPRESSION = 6
_MAX_LISTED = 5  # names in the list of what was left out
_MAX_SHOWN_LENGTH = 100
_TURNS_TEXT = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # a name would be shown as another
_DRIVE = re.compile(r"[A-Za-z]:")
_ANOTHER_FOLDER = "the engine was restarted meanwhile, and shows another folder in its place"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bounds:
    """How much is taken, and how much is read to find it."""

    files: int
    all_bytes: int
    file_bytes: int  # of one file
    passed_bytes: int  # of files that are not taken
    largest: str  # the two sizes, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    """A folder of a container, and what is wanted of it."""

    path: str
    patterns: Sequence[str]
    what: str = "the workspace"
    prefix: str = ""  # of its files' names
    reserved: tuple[str, ...] = ()  # beginnings of names that others have
    holds_the_job: bool = False  # it is known to hold what PID 1 unpacked


class _CapReached(Exception):
    """A cap was reached; what was taken so far stands."""


class _Unreadable(Exception):
    """A folder could not be read, or what came is no tar."""


def collected(
    engine: Engine,
    container: str,
    patterns: Sequence[str],
    limits: Limits,
    *,
    workspace: str = WORKSPACE,
    grading: bool = False,
    volume_mib: int = 0,
) -> Collected:
    """The regular files that match, each under every name that it has. Those of ``/volumes/NAME`` are named ``volumes/NAME/...``.

    Symbolic links, devices, fifos and names that are not clean are left out. ``archive_mib`` counts bytes before
    compression; what is left out may be as large as the workspace and the volumes (``volume_mib``: all together) and not much
    larger. From a grading container the files of the grader's archive come, too; without any, and without patterns, there is no
    archive.

    Raises:
        Unreachable: the engine could not be reached any more; another try may get all.
    """
    packed = io.BytesIO()
    bounds = _Bounds(
        files=_MAX_MEMBERS,
        all_bytes=limits.archive_mib * 2**20,
        file_bytes=limits.archive_mib * 2**20,
        passed_bytes=_passed_bytes(limits, volume_mib),
        largest=f"archive_mib = {limits.archive_mib}",
    )
    folders = _folders(workspace, patterns)
    if grading:
        folders.insert(0, _Folder(path=f"{workspace}/{GRADERS_ARCHIVE}", patterns=["*"]))
    try:
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=_COMPRESSION, format=tarfile.PAX_FORMAT) as out:
            taking = _Taking(partial(_add, out), bounds)
            error_text = taking.take_all(engine, container, folders)
    except _Unreadable as error:
        return Collected(error=str(error))
    has_some = patterns or taking.taken or error_text
    return Collected(archive=packed.getvalue() if has_some else None, error=error_text, not_collected=taking.not_collected())


def read_files(
    engine: Engine,
    container: str,
    patterns: Sequence[str],
    limits: Limits,
    *,
    workspace: str = WORKSPACE,
    volume_mib: int = 0,
) -> tuple[dict[str, bytes], str]:
    """The content of matching files by their names, and why some are missing. For a few small files, such as test reports.

    The names and rules are those of ``collected``, the limits smaller: the first file that is too large ends the reading.

    Raises:
        Unreachable: as there.
    """
    found: dict[str, bytes] = {}
    bounds = _Bounds(
        files=_MAX_READ_FILES,
        all_bytes=_MAX_READ_MIB * 2**20,
        file_bytes=_MAX_READ_FILE_MIB * 2**20,
        passed_bytes=_passed_bytes(limits, volume_mib),
        largest=f"{_MAX_READ_FILE_MIB} MiB, or {_MAX_READ_MIB} MiB all together",
    )
    taking = _Taking(lambda name, _, content: found.update({name: content}), bounds)
    try:
        error_text = taking.take_all(engine, container, _folders(workspace, patterns))
    except _Unreadable as error:
        error_text = str(error)
    return found, "; ".join(filter(None, (error_text, taking.not_collected())))


def collected_of(job: MonitorContainer, engine: Engine, inspector: ContainerInspector) -> Collected:
    """Both for a job whose container exists; an unreachable engine is waited for."""
    tries = 0
    while True:
        try:
            found = _collected_once(job, engine)
        except Unreachable as error:  # the workspace is there for as long as the container is
            tries += 1
            if tries > _TRIES or not inspector.is_still_there():
                return Collected(error=f"the workspace could not be read: {error}")
        else:
            return Collected(error="the container ended before its files were read") if inspector.has_ended() else found


def _collected_once(job: MonitorContainer, engine: Engine) -> Collected:
    grading = job.grading is not None
    source, limits, place, volume_mib = job.container_id, job.limits, job.workspace, job.volume_mib
    found = Collected()
    if job.collect or grading:
        found = collected(engine, source, job.collect, limits, workspace=place, grading=grading, volume_mib=volume_mib)
    if not job.tests:
        return found
    files, lack = read_files(engine, source, job.tests, limits, workspace=place, volume_mib=volume_mib)
    errors = filter(None, (found.error, lack and f"test reports: {lack}"))
    return replace(found, test_files=files, error="; ".join(errors))


def _passed_bytes(limits: Limits, volume_mib: int) -> int:
    return (limits.workspace_mib + volume_mib + _MAX_HOLES_MIB) * 2**20


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
    return [*([_Folder(path=workspace, patterns=own, reserved=reserved, holds_the_job=True)] if own else []), *volumes]


class _Taking:
    """What is taken from one folder or several, within one set of bounds."""

    def __init__(self, keep: Callable[[str, tarfile.TarInfo, bytes], None], bounds: _Bounds) -> None:
        """``keep`` gets each file's name, its header and its content."""
        self.taken = 0
        self._keep = keep
        self._bounds = bounds
        self._seen = 0
        self._left = bounds.all_bytes
        self._left_to_pass = bounds.passed_bytes
        self._links: dict[str, list[str]] = {}  # further names of a file, by its first name in the tar
        self._waiting = 0  # how many these are
        self._left_out = 0
        self._listed: list[str] = []

    def take_all(self, engine: Engine, container: str, folders: Sequence[_Folder]) -> str:
        """Take what is wanted of these folders; why some is missing, in words. Raises Unreachable and _Unreadable."""
        for folder in folders:
            try:
                self._take_folder(partial(engine.archive, container, folder.path), folder)
            except _CapReached as cap:
                return str(cap)
            except Unreachable:
                raise
            except (EngineError, tarfile.TarError, ValueError, EOFError, OSError, RecursionError) as error:  # headers upon headers
                raise _Unreadable(f"{folder.what} could not be read: {error}") from error
        return ""

    def _take_folder(self, read: Callable[[], Iterator[bytes]], folder: _Folder) -> None:
        """Files of a folder that match; ``read`` gives its tar, and again where a file has several names.

        Of these only the first comes with its content, and that need not be one that matches, nor one that is clean.

        An engine that was restarted under its containers may show another folder in a volume's place: the one below, which is
        not the program's user's, or a new and empty one.
        """
        members = 0
        for tar, member in _members(read()):
            if members == 0 and member.isdir() and member.uid == 0:
                raise tarfile.ReadError(_ANOTHER_FOLDER)
            members += 1
            self._consider(tar, member, folder)
        if folder.holds_the_job and members <= 1:
            raise tarfile.ReadError(_ANOTHER_FOLDER)
        if self._links:
            for tar, member in _members(read()):
                self._take_links_to(tar, member)
            for name in (name for names in self._links.values() for name in names):
                self._leave_out(name, "a link to what does not come")
            self._links.clear()

    def not_collected(self) -> str:
        """The names that matched and were left out, with reasons; empty when there are none."""
        more = self._left_out - len(self._listed)
        return ", ".join([*self._listed, *([f"and {more} more"] if more else [])])

    def _consider(self, tar: tarfile.TarFile, member: tarfile.TarInfo, folder: _Folder) -> None:
        self._seen += 1
        if self._seen > _MAX_SEEN_MEMBERS:
            raise _CapReached(f"{folder.what} holds more than {_MAX_SEEN_MEMBERS} files")
        name = _name_inside(member)
        if name and not member.isdir() and _wanted(name, folder.patterns):
            lack = _kind_that_stays(member) or _unclean(name) or _taken_name(name, folder)
            if not lack:
                self._take(tar, member, folder.prefix + name)
                return
            self._leave_out(folder.prefix + name, lack)
        self._left_to_pass -= member.size
        if self._left_to_pass < 0:
            raise _CapReached(f"{folder.what} is too large to be read: {_shown(name or member.name)} and what follows are missing")

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        if self.taken + self._waiting >= self._bounds.files:
            raise _CapReached(f"more than {self._bounds.files} files match")
        if member.islnk():
            self._links.setdefault(member.linkname, []).append(name)
            self._waiting += 1
        else:
            self._add(member, [name], tar)

    def _take_links_to(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        if member.isreg() and (names := self._links.pop(member.name, [])):
            self._waiting -= len(names)
            self._add(member, names, tar)

    def _add(self, member: tarfile.TarInfo, names: Sequence[str], tar: tarfile.TarFile) -> None:
        content: bytes | None = None
        for name in names:
            if member.size > min(self._left, self._bounds.file_bytes):
                most = self._bounds.largest
                raise _CapReached(f"they are larger than {most}: {_shown(name)} and what follows are missing")
            if content is None:
                file = tar.extractfile(member)
                assert file is not None, "a regular file has content"
                content = file.read(member.size)
            self._keep(name, member, content)
            self.taken += 1
            self._left -= member.size

    def _leave_out(self, name: str, why: str) -> None:
        self._left_out += 1
        if len(self._listed) < _MAX_LISTED:
            self._listed.append(f"{_shown(name)} ({why})")


def _members(pieces: Iterator[bytes]) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members of a tar that comes once, each before the next is looked for."""
    source = _Pieces(pieces)
    with tarfile.open(fileobj=source, mode="r|", encoding="utf-8") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # a stream is read once: let go of what was passed
            yield tar, member
        if source.given < tar.offset + tarfile.BLOCKSIZE:  # an engine with an error of its own ends its answer as if it were whole
            raise Unreachable("the engine broke off before the end of the files")


def _name_inside(member: tarfile.TarInfo) -> str:
    """Its name inside the folder; empty for what is not of it, or ours."""
    path = PurePosixPath(member.name)
    parts = path.parts[1:]  # the engine puts the folder's own name first
    if path.is_absolute() or not parts or ".." in parts or parts[0].startswith(".jobmanager"):
        return ""
    return "/".join(parts)


def _kind_that_stays(member: tarfile.TarInfo) -> str:
    """What it is, where it is neither a regular file nor a further name of one."""
    if member.isreg() or member.islnk():
        return ""
    return "a symbolic link" if member.issym() else "a fifo" if member.isfifo() else "a device" if member.isdev() else "no file"


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


def _taken_name(name: str, folder: _Folder) -> str:
    return "its name is that of a volume's file" if name.startswith(folder.reserved) else ""


def _shown(name: str) -> str:
    """A stranger's name for a message: one line, of bounded length."""
    text = name[:_MAX_SHOWN_LENGTH].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    clean = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return f"'{clean}'" if len(name) <= _MAX_SHOWN_LENGTH else f"'{clean}...'"


def _wanted(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) or name.startswith(f"{pattern.rstrip('/')}/") for pattern in patterns)


def _add(out: tarfile.TarFile, name: str, member: tarfile.TarInfo, content: bytes) -> None:
    clean = tarfile.TarInfo(name)
    clean.size, clean.mtime = len(content), max(0, min(int(member.mtime), 2**33))
    clean.mode = 0o755 if member.mode & 0o100 else 0o644
    out.addfile(clean, io.BytesIO(content))


class _Pieces(io.RawIOBase):
    """Pieces of bytes as a file that can be read once."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""
        self.given = 0  # bytes so far

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts = []
        while size:
            if not self._held:
                self._held = next(self._pieces, b"")
                if not self._held:
                    break
            part, self._held = (self._held, b"") if size < 0 else (self._held[:size], self._held[size:])
            parts.append(part)
            self.given += len(part)
            size -= len(part) if size > 0 else 0
        return b"".join(parts)
