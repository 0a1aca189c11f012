"""Collecting files from a workspace: a tar from a hostile place, read as a stream, never extracted."""

from __future__ import annotations

import io
import tarfile
import unicodedata
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from jobmanager._looks import Looks
from jobmanager.engine.protocol import Engine, EngineError, Unreachable
from jobmanager.model.container import WORKSPACE
from jobmanager.model.limits import Limits
from jobmanager.model.messages import Watch

GRADERS_ARCHIVE = ".jobmanager/archive"
_TRIES = 3
_MOST_MEMBERS = 10_000
_MOST_SEEN_MEMBERS = 100_000
_MOST_HOLES_MIB = 256  # of sparse files: they cost a program nothing, come as zeros, and keep the engine busy
_LONGEST_NAME = 1024
_COMPRESSION = 6
_ANOTHER_FOLDER = "the engine was restarted meanwhile, and shows another folder in its place"


class _TooMuch(Exception):
    """A cap was reached; what was taken so far stands."""


def collected(
    engine: Engine, container: str, patterns: Sequence[str], limits: Limits, *, workspace: str = WORKSPACE, grading: bool = False
) -> tuple[bytes | None, str]:
    """A tar.gz of the regular files that match, and why some are missing (empty when none are).

    Links, devices, fifos and names that leave the workspace are passed over. ``archive_mib`` counts bytes before
    compression; what is passed over may be as large as the workspace and not much larger. Of a grading container, what the
    grader put into its archive comes along; None when there is none of it, and nothing was to be collected either.

    Raises:
        Unreachable: the engine went away meanwhile; another try may get all.
    """
    packed = io.BytesIO()
    trouble = ""
    try:
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=_COMPRESSION, format=tarfile.PAX_FORMAT) as out:
            taking = _Taking(out, limits)
            try:
                if grading:
                    taking.take(engine.archive(container, f"{workspace}/{GRADERS_ARCHIVE}"), ["*"])
                if patterns:
                    taking.take(engine.archive(container, workspace), patterns, holds_the_job=True)
            except _TooMuch as cap:
                trouble = str(cap)
    except Unreachable:
        raise
    except (EngineError, tarfile.TarError, ValueError, EOFError, OSError, RecursionError) as error:  # of headers upon headers
        return None, f"the workspace could not be read: {error}"
    has_some = patterns or taking.taken or trouble
    return (packed.getvalue() if has_some else None), trouble


def collected_of(job: Watch, engine: Engine, looks: Looks) -> tuple[bytes | None, str]:
    """The same for a job whose container is there; an engine that is away is waited for."""
    tries = 0
    while True:
        try:
            found = collected(
                engine, job.container_id, job.collect, job.limits, workspace=job.workspace, grading=job.grading is not None
            )
        except Unreachable as error:  # the workspace is there for as long as the container is
            tries += 1
            if tries > _TRIES or not looks.is_still_there():
                return None, f"the workspace could not be read: {error}"
        else:
            return (None, "the container ended before its files were read") if looks.has_ended() else found


class _Taking:
    """What is taken into one archive, from one folder or several, within one set of limits."""

    def __init__(self, out: tarfile.TarFile, limits: Limits) -> None:
        self.taken = 0
        self._out = out
        self._limits = limits
        self._seen = 0
        self._left = limits.archive_mib * 2**20
        self._left_to_pass = (limits.workspace_mib + _MOST_HOLES_MIB) * 2**20

    def take(self, pieces: Iterator[bytes], patterns: Sequence[str], *, holds_the_job: bool = False) -> None:
        """Files of a folder's tar that match.

        An engine that was restarted under its containers may show another folder in a volume's place: the one below, which is
        not the program's user's, or a new and empty one. With ``holds_the_job`` the folder is known to hold what PID 1 unpacked.
        """
        source = _Pieces(pieces)
        members = 0
        with tarfile.open(fileobj=source, mode="r|") as tar:
            for member in tar:
                if members == 0 and member.isdir() and member.uid == 0:
                    raise tarfile.ReadError(_ANOTHER_FOLDER)
                members += 1
                tar.members = []  # type: ignore[attr-defined]  # a stream is read once: let go of what was passed
                self._consider(tar, member, patterns)
            if source.given < tar.offset + tarfile.BLOCKSIZE:  # an engine in trouble ends its answer as if it were whole
                raise Unreachable("the engine broke off before the end of the files")
        if holds_the_job and members <= 1:
            raise tarfile.ReadError(_ANOTHER_FOLDER)

    def _consider(self, tar: tarfile.TarFile, member: tarfile.TarInfo, patterns: Sequence[str]) -> None:
        self._seen += 1
        if self._seen > _MOST_SEEN_MEMBERS:
            raise _TooMuch(f"the workspace holds more than {_MOST_SEEN_MEMBERS} files")
        name = _workspace_name(member)
        if name is None or not _wanted(name, patterns):
            self._left_to_pass -= member.size
            if self._left_to_pass < 0:
                raise _TooMuch(f"the workspace is too large to be read: {name!r} and what follows are missing")
            return
        if self.taken >= _MOST_MEMBERS:
            raise _TooMuch(f"more than {_MOST_MEMBERS} files match")
        if member.size > self._left:
            raise _TooMuch(f"they are larger than archive_mib = {self._limits.archive_mib}: {name!r} and what follows are missing")
        content = tar.extractfile(member)
        assert content is not None, "a regular file has content"
        _add(self._out, name, member, content.read(member.size))
        self.taken += 1
        self._left -= member.size


def _workspace_name(member: tarfile.TarInfo) -> str | None:
    """A regular file's name inside the workspace; None for everything that is not taken."""
    path = PurePosixPath(member.name)
    parts = path.parts[1:]  # the engine puts the folder's own name first
    if not member.isreg() or path.is_absolute() or not parts or ".." in parts or len(member.name) > _LONGEST_NAME:
        return None
    if parts[0].startswith(".jobmanager") or any(unicodedata.category(char) in ("Cc", "Cs") for char in member.name):
        return None
    return "/".join(parts)


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
