"""Builds the runner for both architectures, always to the same bytes: those that are committed in `jobmanager/runner/bin`.

    python -m dev.runner_build            writes them (`make runner`)
    python -m dev.runner_build --check    builds them, too, and compares (`make lint`)

The compiler is one wheel for every machine, and has its own C library: so nothing of the machine is in the bytes. The first
build on a machine makes that library, which takes up to a minute; later ones take a second.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

RUNNER = Path(__file__).resolve().parent.parent / "jobmanager" / "runner"
SOURCES, BINARIES = RUNNER / "src", RUNNER / "bin"
ARCHITECTURES = ("x86_64", "aarch64")
COMPILER_VERSION = "0.17.1"  # as setup.cfg has it
FLAGS = (
    *("-mcpu=baseline", "-std=gnu11", "-Os", "-static", "-s", "-fstack-protector-strong"),
    *("-Wl,--build-id=none", "-Wall", "-Wextra", "-Werror"),
)
LICENSES = {"LICENSE.musl": "lib/libc/musl/COPYRIGHT", "LICENSE.zig": "LICENSE"}  # of what is linked in, as the compiler brings it
_VARIABLES = ("HOME", "PATH", "TMPDIR", "XDG_CACHE_HOME", "ZIG_GLOBAL_CACHE_DIR")  # no other may change what is built
_TIMEOUT_S = 900.0


class BuildError(Exception):
    """The runner cannot be built, or is not what is committed; the message is a line that says what to do."""


def build_id(sources: Path = SOURCES) -> str:
    """What the runner says in its status, in hex: SHA-256 of the sources and of how they are built."""
    parts = [COMPILER_VERSION.encode(), *map(str.encode, (*ARCHITECTURES, *FLAGS))]
    for file in _source_files(sources):
        parts += [file.name.encode(), file.read_bytes()]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def built_files(sources: Path = SOURCES) -> dict[str, bytes]:
    """All that belongs in `jobmanager/runner/bin`, by name. Raises BuildError."""
    compiler = _compiler_folder()
    identity = build_id(sources)
    files = {f"runner-{architecture}": _compiled(architecture, sources, identity) for architecture in ARCHITECTURES}
    files["build_id"] = f"{identity}\n".encode()
    return files | {name: (compiler / path).read_bytes() for name, path in LICENSES.items()}


def write(files: Mapping[str, bytes], folder: Path = BINARIES) -> None:
    """Make the folder hold these files and no others."""
    folder.mkdir(exist_ok=True)
    for stale in set(_files_in(folder)) - set(files):
        (folder / stale).unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o755 if name.startswith("runner-") else 0o644)


def check(files: Mapping[str, bytes], folder: Path = BINARIES) -> None:
    """Raises BuildError where the folder holds anything else than these files."""
    committed = _files_in(folder)
    wrong = sorted(name for name in files.keys() | committed.keys() if files.get(name) != committed.get(name))
    if wrong:
        names = ", ".join(wrong)
        raise BuildError(f"{folder} is not what these sources make ({names}): run `make runner`, and commit what it writes")


def _source_files(sources: Path) -> list[Path]:
    return sorted(sources.glob("*.[ch]"))


def _files_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} if folder.is_dir() else {}


def _compiler_folder() -> Path:
    package = importlib.util.find_spec("ziglang")
    found = _output([sys.executable, "-m", "ziglang", "version"]).strip() if package and package.origin else "none"
    if package is None or package.origin is None or found != COMPILER_VERSION:
        install = f"{sys.executable} -m pip install ziglang=={COMPILER_VERSION}"
        raise BuildError(f"the compiler ziglang {COMPILER_VERSION} is needed, and here is {found}: run `{install}`")
    return Path(package.origin).parent


def _compiled(architecture: str, sources: Path, identity: str) -> bytes:
    """The names of the sources are relative, so that no folder's name is in the program."""
    programs = [file.name for file in _source_files(sources) if file.suffix == ".c"]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "runner"
        target = ("-target", f"{architecture}-linux-musl")
        options = (*target, *FLAGS, f'-DBUILD_ID="{identity}"', "-o", str(program))
        _output([sys.executable, "-m", "ziglang", "cc", *options, *programs], cwd=sources)
        return program.read_bytes()


def _output(command: Sequence[str], *, cwd: Path | None = None) -> str:
    environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    try:
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise BuildError(f"`{' '.join(command)}` took longer than {_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise BuildError(f"`{' '.join(command)}` failed with status {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.runner_build", description="Builds the runner for both architectures")
    parser.add_argument("--check", action="store_true", help="write nothing: fail if the committed files are others")
    options = parser.parse_args(arguments)
    try:
        files = built_files()
        if options.check:
            check(files)
        else:
            write(files)
    except BuildError as error:
        print(f"runner: {error}", file=sys.stderr)
        return 1
    print("".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
