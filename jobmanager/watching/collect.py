"""Collecting files from a workspace: a tar from a hostile place, read as a stream, never extracted."""

from __future__ import annotations

import io
import re
import tarfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from jobmanager.engine.protocol import Engine, EngineError, Unreachable
from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model.container import WORKSPACE
from jobmanager.model.limits import Limits
from jobmanager.results.facts import Collected
from jobmanager.watching.inspector import ContainerInspector

GRADERS_ARCHIVE = ".jobmanager/archive"
_TRIES = 3
_MAX_MEMBERS = 10_000
_MAX_SEEN_MEMBERS = 100_000
_MAX_HOLES_MIB = 256  # of sparse files: they cost a program nothing, come as zeros, and keep the engine busy
_MAX_NAME_LENGTH = 1024
_COMPRESSION = 6
_MAX_LISTED = 5  # names in the list of what was left out
_MAX_SHOWN_LENGTH = 100
_TURNS_TEXT = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # a name would be shown as another
_DRIVE = re.compile(r"[A-Za-z]:")
_ANOTHER_FOLDER = "the engine was restarted meanwhile, and shows another folder in its place"


class _CapReached(Exception):
    """A cap was reached; what was taken so far stands."""


def collected(
    engine: Engine, container: str, patterns: Sequence[str], limits: Limits, *, workspace: str = WORKSPACE, grading: bool = False
) -> Collected:
    """The regular files that match, each under every name that it has.

    Symbolic links, devices, fifos and names that are not clean are left out. ``archive_mib`` counts bytes before
    compression; what is left out may be as large as the workspace and not much larger. From a grading container the files of the
    grader's archive come, too; without any, and without patterns, there is no archive.

    Raises:
        Unreachable: the engine could not be reached any more; another try may get all.
    """
    packed = io.BytesIO()
    error_text = ""

    def reading(folder: str) -> Callable[[], Iterator[bytes]]:
        return lambda: engine.archive(container, folder)

    try:
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=_COMPRESSION, format=tarfile.PAX_FORMAT) as out:
            taking = _Taking(out, limits)
            try:
                if grading:
                    taking.take(reading(f"{workspace}/{GRADERS_ARCHIVE}"), ["*"])
                if patterns:
                    taking.take(reading(workspace), patterns, holds_the_job=True)
            except _CapReached as cap:
                error_text = str(cap)
    except Unreachable:
        raise
    except (EngineError, tarfile.TarError, ValueError, EOFError, OSError, RecursionError) as error:  # of headers upon headers
        return Collected(error=f"the workspace could not be read: {error}")
    has_some = patterns or taking.taken or error_text
    return Collected(archive=packed.getvalue() if has_some else None, error=error_text, not_collected=taking.not_collected())


def collected_of(job: MonitorContainer, engine: Engine, inspector: ContainerInspector) -> Collected:
    """The same for a job whose container exists; an unreachable engine is waited for."""
    tries = 0
    while True:
        try:
            found = collected(
                engine, job.container_id, job.collect, job.limits, workspace=job.workspace, grading=job.grading is not None
            )
        except Unreachable as error:  # the workspace is there for as long as the container is
            tries += 1
            if tries > _TRIES or not inspector.is_still_there():
                return Collected(error=f"the workspace could not be read: {error}")
        else:
            return Collected(error="the container ended before its files were read") if inspector.has_ended() else found


class _Taking:
    """What is taken into one archive, from one folder or several, within one set of limits."""

    def __init__(self, out: tarfile.TarFile, limits: Limits) -> None:
        self.taken = 0
        self._out = out
        self._limits = limits
        self._seen = 0
        self._left = limits.archive_mib * 2**20
        self._left_to_pass = (limits.workspace_mib + _MAX_HOLES_MIB) * 2**20
        self._links: dict[str, list[str]] = {}  # further names of a file, by its first name in the tar
        self._waiting = 0  # how many these are
        self._left_out = 0
        self._listed: list[str] = []

    def take(self, read: Callable[[], Iterator[bytes]], patterns: Sequence[str], *, holds_the_job: bool = False) -> None:
        """Files of a folder that match; ``read`` gives its tar, and again where a file has several names.

        Of these only the first comes with its content, and that need not be one that matches, nor one that is clean.

        An engine that was restarted under its containers may show another folder in a volume's place: the one below, which is
        not the program's user's, or a new and empty one. With ``holds_the_job`` the folder is known to hold what PID 1 unpacked.
        """
        members = 0
        for tar, member in _members(read()):
            if members == 0 and member.isdir() and member.uid == 0:
                raise tarfile.ReadError(_ANOTHER_FOLDER)
            members += 1
            self._consider(tar, member, patterns)
        if holds_the_job and members <= 1:
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

    def _consider(self, tar: tarfile.TarFile, member: tarfile.TarInfo, patterns: Sequence[str]) -> None:
        self._seen += 1
        if self._seen > _MAX_SEEN_MEMBERS:
            raise _CapReached(f"the workspace holds more than {_MAX_SEEN_MEMBERS} files")
        name = _workspace_name(member)
        if name and not member.isdir() and _wanted(name, patterns):
            lack = _kind_that_stays(member) or _unclean(name)
            if not lack:
                self._take(tar, member, name)
                return
            self._leave_out(name, lack)
        self._left_to_pass -= member.size
        if self._left_to_pass < 0:
            raise _CapReached(f"the workspace is too large to be read: {_shown(name or member.name)} and what follows are missing")

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        if self.taken + self._waiting >= _MAX_MEMBERS:
            raise _CapReached(f"more than {_MAX_MEMBERS} files match")
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
            if member.size > self._left:
                most = self._limits.archive_mib
                raise _CapReached(f"they are larger than archive_mib = {most}: {_shown(name)} and what follows are missing")
            if content is None:
                file = tar.extractfile(member)
                assert file is not None, "a regular file has content"
                content = file.read(member.size)
            _add(self._out, name, member, content)
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


def _workspace_name(member: tarfile.TarInfo) -> str:
    """Its name inside the workspace; empty for what is not of it, or ours."""
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
