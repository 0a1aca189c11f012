"""Collecting files from a workspace: a tar from a hostile place, read as a stream, never extracted."""

from __future__ import annotations

import io
import tarfile
import unicodedata
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from jobmanager.engine.protocol import Engine, EngineError, Unreachable
from jobmanager.model.container import WORKSPACE
from jobmanager.model.limits import Limits

_MOST_MEMBERS = 10_000
_MOST_SEEN_MEMBERS = 100_000
_MOST_HOLES_MIB = 256  # of sparse files: they cost a program nothing, come as zeros, and keep the engine busy
_LONGEST_NAME = 1024
_COMPRESSION = 6


class _TooMuch(Exception):
    """A cap was reached; what was taken so far stands."""


def collected(engine: Engine, container: str, patterns: Sequence[str], limits: Limits) -> tuple[bytes | None, str]:
    """A tar.gz of the regular files that match, and why some are missing (empty when none are).

    Links, devices, fifos and names that leave the workspace are passed over. ``archive_mib`` counts bytes before
    compression; what is passed over may be as large as the workspace and not much larger.

    Raises:
        Unreachable: the engine went away meanwhile; another try may get all.
    """
    packed = io.BytesIO()
    trouble = ""
    try:
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=_COMPRESSION, format=tarfile.PAX_FORMAT) as out:
            try:
                _copy(engine.archive(container, WORKSPACE), patterns, limits, out)
            except _TooMuch as cap:
                trouble = str(cap)
    except Unreachable:
        raise
    except (EngineError, tarfile.TarError, ValueError, EOFError, OSError, RecursionError) as error:  # of headers upon headers
        return None, f"the workspace could not be read: {error}"
    return packed.getvalue(), trouble


def _copy(pieces: Iterator[bytes], patterns: Sequence[str], limits: Limits, out: tarfile.TarFile) -> None:
    taken = seen = 0
    left = limits.archive_mib * 2**20
    left_to_pass = (limits.workspace_mib + _MOST_HOLES_MIB) * 2**20
    source = _Pieces(pieces)
    with tarfile.open(fileobj=source, mode="r|") as tar:
        for member in tar:
            if seen == 0 and member.isdir() and member.uid == 0:  # the program's user owns a workspace, and cannot give it away
                raise tarfile.ReadError("the engine was restarted meanwhile, and shows another folder in its place")
            seen += 1
            if seen > _MOST_SEEN_MEMBERS:
                raise _TooMuch(f"the workspace holds more than {_MOST_SEEN_MEMBERS} files")
            tar.members = []  # type: ignore[attr-defined]  # a stream is read once: let go of what was passed
            name = _workspace_name(member)
            if name is None or not _wanted(name, patterns):
                left_to_pass -= member.size
                if left_to_pass < 0:
                    raise _TooMuch(f"the workspace is too large to be read: {name!r} and what follows are missing")
                continue
            if taken >= _MOST_MEMBERS:
                raise _TooMuch(f"more than {_MOST_MEMBERS} files match")
            if member.size > left:
                raise _TooMuch(f"they are larger than archive_mib = {limits.archive_mib}: {name!r} and what follows are missing")
            content = tar.extractfile(member)
            assert content is not None, "a regular file has content"
            _add(out, name, member, content.read(member.size))
            taken += 1
            left -= member.size
        if source.given < tar.offset + tarfile.BLOCKSIZE:  # an engine in trouble ends its answer as if it were whole
            raise Unreachable("the engine broke off before the end of the files")


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
