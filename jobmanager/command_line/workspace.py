"""What a program finds in its workspace, and what comes back of it: ``--file``, ``--env``, ``--archive-to``."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

import click

from jobmanager.model.limits import Limits
from jobmanager.model.task import names_below

_HERE = "."  # as the name of a folder: its files go into the workspace itself


def pairs(option: str, given: Iterable[str]) -> dict[str, str]:
    """Each NAME=VALUE of an option that can be repeated."""
    found: dict[str, str] = {}
    for each in given:
        name, sign, value = each.partition("=")
        if not name or not sign:
            raise click.UsageError(f"{option}: give NAME=VALUE, not {each!r}")
        if name in found:
            raise click.UsageError(f"{option}: {name!r} is given twice")
        found[name] = value
    return found


def workspace_files(given: Iterable[str], limits: Limits) -> dict[str, Path]:
    """Paths by their names in the workspace, of PATHs and NAME=PATHs. The files of a folder come below its name."""
    found: dict[str, Path] = {}
    for each in given:
        name, path = _named(each)
        for inner, file in _files_of(name, path, limits):
            if inner in found:
                raise click.UsageError(f"--file: two files would be {inner!r} in the workspace: give one another name, NAME=PATH")
            found[inner] = file
    return found


def _named(given: str) -> tuple[str, Path]:
    name, sign, path = given.partition("=")
    if not sign or os.path.lexists(given):
        path = given
        return Path(path).resolve().name if Path(path).name in ("", "..") else Path(path).name, Path(path)
    if not name or not path:
        raise click.UsageError(f"--file: give PATH or NAME=PATH, not {given!r}")
    return name, Path(path)


def _files_of(name: str, path: Path, limits: Limits) -> Iterator[tuple[str, Path]]:
    if not path.is_dir():
        if not path.exists():
            raise click.UsageError(f"--file: there is no {str(path)!r}")
        yield name, path
        return
    files = sorted(islice(_regular_files(path), limits.most_files + 1))  # too many are refused by the task
    for inner, file in names_below(path, files).items():
        yield inner if name == _HERE else f"{name.rstrip('/')}/{inner}", file


def _regular_files(folder: Path) -> Iterator[Path]:
    """Those below a folder; links are not followed."""
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


# ---- what comes back


def check_target(folder: Path) -> None:
    """Refuse a folder with something in it: what comes back has names that the program has chosen."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise click.UsageError(f"--archive-to: {str(folder)!r} is no folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise click.UsageError(f"--archive-to: {str(folder)!r} is not empty, and a collected file could replace one that is there")


def unpack(archive: bytes, folder: Path) -> None:
    """Write the collected files below a folder that holds nothing else. Other members, and names that lead out, are left out.

    Raises:
        click.UsageError: they could not be written.
    """
    try:
        _unpack(archive, folder)
    except OSError as problem:
        raise click.UsageError(f"--archive-to: {str(folder)!r} cannot be written: {problem.strerror}") from None


def _unpack(archive: bytes, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() and _stays_below(member.name) else None
            if content is not None:
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
                target.chmod(0o755 if member.mode & 0o111 else 0o644)


def _stays_below(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
