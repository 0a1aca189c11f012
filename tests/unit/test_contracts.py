"""The walls between the packages: each contract of ``setup.cfg`` is broken on purpose, and names every package that it must."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
SHARED = {
    "__main__", "_version", "errors", "model", "ipc", "engine", "results",
    "grading", "runner", "ssh", "task_folder", "testing",
}
SCHEDULING_MAY_IMPORT = {"model", "results", "errors", "scheduling"}
BREAKS = [
    ("control/timers.py", "jobmanager.watching.limit_clock", "the caller's side knows nothing"),
    ("manager.py", "jobmanager._submitter", "the caller's side knows nothing"),
    ("watching/limit_clock.py", "jobmanager.control.timers", "what runs in child processes knows nothing"),
    ("_deleter.py", "jobmanager.hooks", "what runs in child processes knows nothing"),
    ("scheduling/priority_heap.py", "jobmanager.ipc.messages", "scheduling decides and does nothing"),
    ("results/facts.py", "docker", "only engine/docker imports docker"),
    ("engine/connect.py", "docker.errors", "only engine/docker imports docker"),
    ("control/timers.py", "redis", "only remote imports redis and rq"),
    ("control/timers.py", "rq", "only remote imports redis and rq"),
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(TOP / "jobmanager", tmp_path / "jobmanager", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TOP / "setup.cfg", tmp_path)
    return tmp_path


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "setup.cfg", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False)


def test_an_unchanged_copy_breaks_nothing(copy: Path) -> None:
    done = lint(copy)

    assert done.returncode == 0 and "Contracts: 5 kept, 0 broken." in done.stdout


def test_every_import_through_a_wall_is_found(copy: Path) -> None:
    for file, imported, _ in BREAKS:
        path = copy / "jobmanager" / file
        path.write_text(path.read_text() + f"\n\ndef _lazily() -> None:\n    import {imported}\n")

    done = lint(copy)

    assert done.returncode != 0
    for file, imported, contract in BREAKS:
        assert [line for line in done.stdout.splitlines() if line.startswith(contract) and " BROKEN" in line], contract
        importer = "jobmanager." + file.removesuffix(".py").replace("/", ".")
        assert f"{importer} -> {imported.partition('.')[0] if imported.startswith('docker') else imported}" in done.stdout


def modules(option: str) -> set[str]:
    return {name.removeprefix("jobmanager.") for name in option.split()}


def test_each_module_at_the_top_is_on_one_side_or_for_both() -> None:
    declared = configparser.ConfigParser()
    declared.read(TOP / "setup.cfg")
    contract = "importlinter:contract:"
    caller, child = (modules(declared[f"{contract}{side}"]["source_modules"]) for side in ("caller", "child"))
    there = {path.stem for path in (TOP / "jobmanager").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}

    assert there - {"__init__"} == {name for name in caller | child if "." not in name} | SHARED
    assert not caller & child and not (caller | child) & SHARED
    assert modules(declared[f"{contract}caller"]["forbidden_modules"]) == child
    assert modules(declared[f"{contract}child"]["forbidden_modules"]) == caller
    forbidden = modules(declared[f"{contract}scheduling"]["forbidden_modules"])
    assert there - {"__init__"} == forbidden | SCHEDULING_MAY_IMPORT
