"""The built runners: how they are made, and that each does the same, on the other architecture too."""

from __future__ import annotations

import configparser
import hashlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import runner_build
from jobmanager.errors import InvalidHost
from jobmanager.runner.binaries import ENGINE_ARCHITECTURES, binary, build_id
from jobmanager.runner.frames import (
    BringPath,
    Clear,
    Cleared,
    FromProgram,
    HowEnded,
    Kill,
    Leave,
    Put,
    RefusalReason,
    Started,
    Status,
    StoppedBy,
    ToProgram,
)
from tests.support.bare_runner import BareRunner
from tests.support.foreign_programs import able_to_run, qemu

pytestmark = pytest.mark.timeout(600)  # the first build on a machine makes the C library, too
TOP = Path(__file__).resolve().parents[2]
NOT_PID_1 = 123
PYTHON = str(Path(sys.executable).resolve())
ECHO = "import socket; s = socket.socket(fileno=3); s.send(s.recv(100).upper())"


@pytest.fixture(scope="module")
def built() -> dict[str, bytes]:
    return runner_build.built_files()


# How they are made


def test_the_same_bytes_come_from_sources_in_another_folder(built: dict[str, bytes], tmp_path: Path) -> None:
    elsewhere = tmp_path / "a folder of another name and depth" / "src"
    shutil.copytree(runner_build.SOURCES, elsewhere)

    assert runner_build.built_files(elsewhere) == built


def test_variables_that_compilers_read_change_nothing(built: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.setenv("ZIG_VERBOSE_CC", "1")

    assert runner_build.built_files() == built


def test_each_change_of_the_sources_makes_another_build(tmp_path: Path) -> None:
    sources = tmp_path / "src"
    shutil.copytree(runner_build.SOURCES, sources)
    assert runner_build.build_id(sources) == runner_build.build_id()
    ids = {runner_build.build_id()}
    changes = [
        lambda: (sources / "main.c").write_text((sources / "main.c").read_text() + "\n"),
        lambda: (sources / "main.c").rename(sources / "other.c"),
        lambda: (sources / "new.h").write_text(""),
    ]
    for number, change in enumerate(changes, start=2):
        change()
        ids.add(runner_build.build_id(sources))
        assert len(ids) == number


@pytest.mark.parametrize("harm", ["changed", "missing", "too many"])
def test_a_folder_that_the_sources_do_not_make_is_told_in_one_line(harm: str, tmp_path: Path) -> None:
    files = {"runner-x86_64": b"\x7fELF one", "build_id": b"11\n"}
    runner_build.write({**files, "stale": b""}, tmp_path)
    runner_build.write(files, tmp_path)
    runner_build.check(files, tmp_path)
    harmed = {
        "changed": lambda: (tmp_path / "runner-x86_64").write_bytes(b"\x7fELF two"),
        "missing": lambda: (tmp_path / "runner-x86_64").unlink(),
        "too many": lambda: (tmp_path / "runner-x86_64.old").write_bytes(b""),
    }
    harmed[harm]()

    with pytest.raises(runner_build.BuildError, match=r"\(runner-x86_64(\.old)?\): run `make runner`, and commit what it writes$"):
        runner_build.check(files, tmp_path)


def test_a_mistake_in_the_sources_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("int main(void) { int unused; return 0; }\n")

    with pytest.raises(runner_build.BuildError, match=r"main\.c:1:22: error: unused variable"):
        runner_build.built_files(tmp_path)


def test_the_compiler_is_the_one_that_setup_cfg_names() -> None:
    declared = configparser.ConfigParser()
    declared.read(TOP / "setup.cfg")

    assert f"ziglang=={runner_build.COMPILER_VERSION}" in declared["options.extras_require"]["dev"].split()


def test_without_the_compiler_one_line_says_what_to_install() -> None:
    command = [sys.executable, "-S", "-m", "dev.runner_build"]  # without site-packages
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "-m pip install ziglang==" in done.stderr


# What the package has


@pytest.mark.parametrize("word", ENGINE_ARCHITECTURES)
def test_each_word_of_an_engine_has_its_program(word: str) -> None:
    found = binary(word)

    machine = {"x86_64": 0x3E, "aarch64": 0xB7}[found.architecture]
    assert found.content[:4] == b"\x7fELF" and int.from_bytes(found.content[18:20], "little") == machine
    assert found.sha256 == hashlib.sha256(found.content).hexdigest()
    assert build_id().hex().encode() in found.content


@pytest.mark.parametrize("word", ["armv7l", "riscv64", "X86_64", "", "../build_id"])
def test_another_architecture_is_named_in_one_line(word: str) -> None:
    with pytest.raises(InvalidHost) as caught:
        binary(word)

    assert repr(word) in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("architecture", runner_build.ARCHITECTURES)
def test_a_program_needs_nothing_of_its_image(architecture: str) -> None:
    content = binary(architecture).content

    kinds = _segment_kinds(content)
    assert 1 in kinds  # PT_LOAD
    assert not {2, 3} & kinds  # PT_DYNAMIC, PT_INTERP
    assert os.fsencode(TOP) not in content and b"/home/" not in content


def _segment_kinds(elf: bytes) -> set[int]:
    start, size, count = (int.from_bytes(elf[at : at + width], "little") for at, width in ((32, 8), (54, 2), (56, 2)))
    return {int.from_bytes(elf[start + number * size :][:4], "little") for number in range(count)}


def test_the_programs_are_executable_where_they_are() -> None:
    for architecture in runner_build.ARCHITECTURES:
        assert stat.S_IMODE((runner_build.BINARIES / f"runner-{architecture}").stat().st_mode) & 0o111 == 0o111


# What they do


def _program(architecture: str, folder: Path) -> Path:
    program = folder / "runner"
    program.write_bytes(binary(architecture).content)
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("architecture", runner_build.ARCHITECTURES)
def test_it_refuses_to_be_anything_but_pid_1(architecture: str, tmp_path: Path) -> None:
    program = [str(_program(architecture, tmp_path)), "5"]
    if os.uname().machine != architecture:
        program.insert(0, qemu(architecture))

    assert subprocess.run(program, stdin=subprocess.DEVNULL, timeout=20, check=False).returncode == NOT_PID_1


@pytest.fixture(params=runner_build.ARCHITECTURES)
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BareRunner]:
    with able_to_run(request.param), BareRunner(binary=_program(request.param, tmp_path)) as bare:
        yield bare


def test_it_says_which_build_it_is_and_is_closed_to_programs(runner: BareRunner) -> None:
    status = runner.wait_for(Status)

    assert status.build == build_id()
    assert not status.dumpable


def test_a_program_is_run_and_what_it_wrote_and_how_it_ended_are_reported(runner: BareRunner) -> None:
    record = runner.run(["sh", "-c", "cat; echo error >&2; cat /proc/self/oom_score_adj; exit 42"], stdin=b"input\n" * 20_000)

    assert record.stdout == b"input\n" * 20_000 + b"1000\n"
    assert record.stderr == b"error\n"
    assert (record.ended.how, record.ended.code, record.ended.stopped_by) == (HowEnded.EXITED, 42, StoppedBy.NOBODY)
    assert record.ended.wall_us > 0


def test_limits_stop_a_program(runner: BareRunner) -> None:
    wall = runner.run(["sleep", "60"], wall_ms=2000)  # qemu may be slow to begin, which counts
    output = runner.run(["sh", "-c", "while :; do echo line; done"], output_bytes=100_000)

    assert (wall.ended.how, wall.ended.code, wall.ended.stopped_by) == (HowEnded.SIGNALLED, 9, StoppedBy.WALL)
    assert output.ended.stopped_by == StoppedBy.OUTPUT and len(output.stdout) == 100_000


def test_a_program_that_is_not_there_is_refused(runner: BareRunner) -> None:
    assert runner.run(["/nowhere/program"]).refused.why == RefusalReason.NO_SUCH_PROGRAM


def test_it_can_be_killed_with_all_that_it_started(runner: BareRunner) -> None:
    run = runner.start(["sh", "-c", "sleep 60 & setsid sleep 60 & wait"])
    runner.wait_for(Started)
    runner.send(Kill(run=run))

    ended = runner.finish(run).ended
    assert (ended.stopped_by, ended.left) == (StoppedBy.KILL, False)


def test_messages_go_both_ways(runner: BareRunner) -> None:
    run = runner.start([PYTHON, "-S", "-c", ECHO], channel=True)
    runner.send(ToProgram(run=run, number=0, data=b"word"))

    assert [message.data for message in runner.finish(run).all_of(FromProgram)] == [b"WORD"]


def test_files_come_go_and_are_cleared(runner: BareRunner) -> None:
    runner.send(Put(path=b"/job/deep/given", mode=0o640, mtime_s=1_000_000_000, data=b"content"))
    record = runner.run(
        ["sh", "-c", "stat -c '%a %Y' deep/given; tr a-z A-Z < deep/given > made"], bring=(BringPath(path=b"/job/made", most=100),)
    )
    runner.send(Clear(request=1, places=(b"/job",)))
    cleared = runner.wait_for(Cleared)

    assert record.stdout == b"640 1000000000\n"
    assert [piece.data for piece in record.pieces] == [b"CONTENT"]
    assert (cleared.clean, cleared.why) == (True, b"")
    assert runner.run(["ls", "-A", "/job"]).stdout == b""


def test_it_leaves_when_it_is_told_to(runner: BareRunner) -> None:
    runner.send(Leave())

    assert runner.exit_code() == 0
