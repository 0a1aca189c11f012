"""Programs of the other architecture run on this machine for as long as a test lasts: the kernel gives them to qemu."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_MACHINES = {"x86_64": 0x3E, "aarch64": 0xB7}  # e_machine of an ELF file
_IDENTITY = b"\x7fELF\x02\x01\x01" + bytes(9)
_MASK = b"\xff" * 7 + b"\x00" + b"\xff" * 8 + b"\xfe\xff" + b"\xff\xff"  # any system's, and both kinds of executables


def qemu(architecture: str) -> str:
    """The emulator for programs of an architecture."""
    names = (f"qemu-{architecture}-static", f"qemu-{architecture}")  # Debian 12 and 13
    found = [path for path in map(shutil.which, names) if path]
    if not found:
        pytest.skip("there is no qemu: run `python3 -m dev.machine compiler` as root")
    return found[0]


@contextmanager
def able_to_run(architecture: str) -> Iterator[None]:
    """Meanwhile this machine runs programs of the architecture, and the programs that they start."""
    if platform.machine() == architecture:
        yield
        return
    emulator = qemu(architecture)
    with _binfmt_misc() as folder:
        name = f"jobmanager-{architecture}-{uuid.uuid4().hex[:12]}"
        fields = (b"", name.encode(), b"M", b"", _escaped(_magic(architecture)), _escaped(_MASK), emulator.encode(), b"F")
        (folder / "register").write_bytes(b":".join(fields))
        try:
            yield
        finally:
            (folder / name).write_text("-1")


def _magic(architecture: str) -> bytes:
    return _IDENTITY + (2).to_bytes(2, "little") + _MACHINES[architecture].to_bytes(2, "little")


def _escaped(raw: bytes) -> bytes:
    return "".join(f"\\x{byte:02x}" for byte in raw).encode()


@contextmanager
def _binfmt_misc() -> Iterator[Path]:
    """The kernel's table of emulators, mounted at a place of our own: the usual place stays as it is."""
    if os.geteuid() != 0:
        pytest.skip("an emulator can be registered only as root")
    if "\tbinfmt_misc" not in Path("/proc/filesystems").read_text():
        pytest.skip("this kernel has no binfmt_misc, by which it gives another architecture's programs to qemu")
    folder = Path(tempfile.mkdtemp())
    try:
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(folder)], check=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    finally:
        folder.rmdir()
