"""The built runners are in each form of the package, byte for byte; where it is installed, no compiler is needed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from dev.runner_build import ARCHITECTURES, BINARIES, SOURCES

TOP = Path(__file__).resolve().parents[2]
PARTS = ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.cfg")
LOOK = """
import json, site, sys
installed, surrounding = sys.argv[1:]
# What runs the tests may have the surrounding checkout installed so that it can be edited: by a path, or by a finder of this name
sys.path[:] = [installed, *(folder for folder in sys.path if folder != surrounding)]
sys.meta_path[:] = [finder for finder in sys.meta_path if not getattr(finder, "__module__", "").startswith("__editable__")]
for name in [name for name in sys.modules if name.startswith("__editable__")]:
    del sys.modules[name]
site.addsitedir(installed)
from jobmanager.runner import binaries
found = {word: binaries.binary(word).sha256 for word in binaries.ENGINE_ARCHITECTURES}
print(json.dumps({"file": binaries.__file__, "build_id": binaries.build_id().hex(), "found": found}))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, since building writes beside the sources."""
    copy = tmp_path_factory.mktemp("checkout") / "jobmanager"
    shutil.copytree(TOP / "jobmanager", copy / "jobmanager", ignore=shutil.ignore_patterns("__pycache__"))
    for part in PARTS:
        shutil.copy(TOP / part, copy)
    return copy


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(_build("sdist", checkout, folder)) as archive:
        archive.extractall(folder / "unpacked")  # our own
    (unpacked,) = (folder / "unpacked").iterdir()
    return unpacked


def _build(kind: str, checkout: Path, folder: Path) -> Path:
    code = f"import setuptools.build_meta as backend; backend.build_{kind}({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = (file for file in folder.iterdir() if file.is_file())
    return built


def _install(wheel: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    subprocess.run(command, env={"PATH": "/nowhere"}, check=True, timeout=100)  # where no compiler is


def _assert_has_the_binaries(installed: Path, package: Path) -> None:
    command = [sys.executable, "-c", LOOK, str(installed), str(TOP)]
    done = subprocess.run(command, cwd=installed, env={"PATH": "/nowhere"}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert Path(seen["file"]).parent == package / "jobmanager" / "runner"
    assert seen["build_id"] == (BINARIES / "build_id").read_text().strip()
    assert len(set(seen["found"].values())) == len(ARCHITECTURES)
    _assert_same_files(package / "jobmanager" / "runner" / "bin", BINARIES)


def _assert_same_files(found: Path, committed: Path) -> None:
    assert {file.name: file.read_bytes() for file in found.iterdir()} == {
        file.name: file.read_bytes() for file in committed.iterdir()
    }


def test_a_wheel_of_the_sdist_has_them(sdist: Path, tmp_path: Path) -> None:
    wheel = _build("wheel", sdist, tmp_path)
    installed = tmp_path / "installed"
    _install(wheel, installed)

    _assert_has_the_binaries(installed, installed)
    assert not (installed / "jobmanager" / "runner" / "src").exists()


def test_a_checkout_that_can_be_edited_has_them(checkout: Path, tmp_path: Path) -> None:
    wheel = _build("editable", checkout, tmp_path)
    installed = tmp_path / "installed"
    _install(wheel, installed)

    assert not (installed / "jobmanager").exists()
    _assert_has_the_binaries(installed, checkout)


def test_the_sdist_has_the_sources_and_the_licenses_of_what_is_linked_in(sdist: Path) -> None:
    runner = sdist / "jobmanager" / "runner"

    _assert_same_files(runner / "src", SOURCES)
    assert "Permission is hereby granted" in (runner / "bin" / "LICENSE.musl").read_text()
    assert "Permission is hereby granted" in (runner / "bin" / "LICENSE.zig").read_text()
