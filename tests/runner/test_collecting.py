"""Collecting through the bare runner, from trees that a program has made hostile."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobmanager import Limits
from jobmanager.ipc.messages import MonitorContainer
from jobmanager.results.facts import Collected
from jobmanager.results.result_file import RESULT_FILE_LIMIT, ResultFileError, parse_result_file
from jobmanager.runner.frames import Entries, Fetch, ListFolder, Piece
from jobmanager.watching.brought import brought_paths, result_file_of
from tests.support import collecting
from tests.support.bare_runner import BareRunner

PYTHON = str(Path(sys.executable).resolve())


@pytest.fixture
def runner() -> Iterator[BareRunner]:
    with BareRunner() as bare:
        yield bare


def job(**fields: Any) -> MonitorContainer:
    given = {"job_id": "j", "container_id": "c", "container_name": "n", "command": "true", "env": {}, "files": {}}
    return MonitorContainer(**{**given, "stdin": b"", "limits": Limits(), "collect": ("*",), **fields})


def collected(
    runner: BareRunner, wanted: MonitorContainer | None = None, before_each: Callable[[ListFolder | Fetch], None] = lambda _: None
) -> Collected:
    """What comes back of a job whose program has ended."""

    def answer(request: ListFolder | Fetch) -> Iterator[Entries | Piece]:
        before_each(request)
        runner.send(request)
        kind: type[Entries | Piece] = Entries if isinstance(request, ListFolder) else Piece
        while True:
            message = runner.wait_for(kind)
            assert message.request == request.request
            yield message

    return collecting.collected(wanted or job(), answer)


def unpacked(found: Collected) -> dict[str, bytes]:
    assert found.archive is not None
    with tarfile.open(fileobj=io.BytesIO(found.archive), mode="r:gz") as packed:
        return {info.name: packed.extractfile(info).read() for info in packed}  # type: ignore[union-attr]


def sh(runner: BareRunner, script: str) -> None:
    run = runner.run(["sh", "-c", script], cwd=b"/job")
    assert (run.ended.code, run.stderr) == (0, b"")


def python(runner: BareRunner, script: str) -> None:
    run = runner.run([PYTHON, "-c", script], cwd=b"/job", timeout_s=120)
    assert (run.ended.code, run.stderr) == (0, b"")


def test_files_come_back_byte_for_byte_under_each_of_their_names(runner: BareRunner) -> None:
    python(
        runner,
        """if True:
            import os
            os.makedirs("a/b")
            open("a/b/all", "wb").write(bytes(range(256)) * 1000)
            os.link("a/b/all", "again")
            open("empty", "w").close()
            open("holes", "wb").truncate(100_000)
        """,
    )
    found = collected(runner)
    everything = bytes(range(256)) * 1000
    assert unpacked(found) == {"a/b/all": everything, "again": everything, "empty": b"", "holes": bytes(100_000)}
    assert (found.error, found.not_collected) == ("", "")


def test_links_fifos_and_sockets_lead_nowhere_and_are_told(runner: BareRunner) -> None:
    python(
        runner,
        """if True:
            import os, socket
            os.symlink("/etc/passwd", "file"); os.symlink("/etc", "folder"); os.symlink(".", "loop")
            os.mkfifo("fifo"); socket.socket(socket.AF_UNIX).bind("socket")
            open("good", "w").write("1")
        """,
    )
    found = collected(runner, job(collect=("*", "folder/*")))
    assert unpacked(found) == {"good": b"1"}
    assert found.not_collected.split(", ") == [
        "'fifo' (no regular file)", "'file' (a symbolic link)", "'folder' (a symbolic link)", "'loop' (a symbolic link)",
        "'socket' (no regular file)",
    ]  # fmt: skip


def test_names_that_are_not_clean_do_not_come_back(runner: BareRunner) -> None:
    python(
        runner,
        r"""if True:
            import os
            for name in (b"x\ny", b"x\xff", "x\u202egpj.exe".encode(), b"C:x", b"\\x", b"\x1b[2J", b"good"):
                open(name, "w").write("1")
        """,
    )
    found = collected(runner)
    assert unpacked(found) == {"good": b"1"}
    assert found.not_collected.endswith(", and 1 more")


def test_what_was_closed_comes_back(runner: BareRunner) -> None:
    sh(runner, "mkdir -p a/b; echo 1 > a/b/x; echo 2 > y; chmod 0 a/b/x y; chmod 0 a/b; chmod 0 a")
    found = collected(runner)
    assert unpacked(found) == {"a/b/x": b"1\n", "y": b"2\n"}
    assert (found.error, found.not_collected) == ("", "")


def test_folders_of_great_depth_are_cut_and_what_is_above_them_comes(runner: BareRunner) -> None:
    python(
        runner,
        """if True:
            import os
            for _ in range(600):
                os.mkdir("d" * 50); os.chdir("d" * 50)
            open("bottom", "w").write("1")
            open("/job/top", "w").write("1")
        """,
    )
    found = collected(runner)
    assert unpacked(found) == {"top": b"1"}
    assert found.error == "the workspace holds more than 100000 files, or is more than 64 folders deep: a part was not seen"


def test_what_is_beside_a_tree_that_is_too_deep_or_a_path_that_is_too_long_comes(runner: BareRunner) -> None:
    python(
        runner,
        """if True:
            import os
            for tree, name, depth in (("deep", "d", 100), ("long", "l" * 250, 30)):
                os.chdir("/job"); os.mkdir(tree); os.chdir(tree)
                for level in range(depth):
                    open(f"at{level}", "w").write("1"); os.mkdir(name); os.chdir(name)
            os.chdir("/job")
            for number in range(300):
                open(f"file{number}", "w").write("1")
        """,
    )
    found = unpacked(collected(runner))
    assert {f"file{number}" for number in range(300)} <= set(found)
    assert {name.count("/") for name in found if name.startswith("deep")} == set(range(1, 65))
    assert {name.rpartition("/")[2] for name in found if name.startswith("long")} == {f"at{level}" for level in range(5)}


def test_a_thousand_small_files_come_with_a_few_requests(runner: BareRunner) -> None:
    python(runner, "for n in range(1000): open(f'{n:03}', 'w').write(f'{n:03}')")
    asked: list[ListFolder | Fetch] = []
    found = collected(runner, before_each=asked.append)
    assert unpacked(found) == {f"{number:03}": f"{number:03}".encode() for number in range(1000)}
    assert [type(request) for request in asked] == [ListFolder, Fetch]


def test_a_name_that_is_longer_than_a_request_may_have_is_told(runner: BareRunner) -> None:
    python(
        runner,
        """if True:
            import os
            wide = "\U00020000" * 63
            os.mkdir("w" * 100); os.chdir("w" * 100)
            for _ in range(15):
                os.mkdir(wide); os.chdir(wide)
            open(wide, "w").close(); open("short", "w").close()
        """,
    )
    found = collected(runner, job(workspace="/job/" + "w" * 100))
    assert [name.rpartition("/")[2] for name in unpacked(found)] == ["short"]
    assert found.not_collected.endswith("(its name is too long)")


def test_a_hundred_thousand_files_are_listed_and_ten_thousand_come(runner: BareRunner) -> None:
    python(runner, "import os\nfor n in range(100_100): os.close(os.open(f'{n:06}', os.O_CREAT))")
    few = collected(runner, job(collect=("none",)))
    assert unpacked(few) == {}
    assert few.error == "the workspace holds more than 100000 files, or is more than 64 folders deep: a part was not seen"
    many = collected(runner)
    assert len(unpacked(many)) == 10_000
    assert many.error.endswith("; more than 10000 files match")


def test_of_many_huge_files_none_is_read(runner: BareRunner) -> None:
    python(runner, "for n in range(60): open(f'{n}', 'wb').truncate(100 * 2**20)")
    asked: list[ListFolder | Fetch] = []
    found = collected(runner, before_each=asked.append)
    assert unpacked(found) == {}
    assert found.error == "they are larger than archive_mib = 16: '0' and what follows are missing"
    assert [type(request) for request in asked] == [ListFolder]


CHANGES = {
    "is gone": ("rm b", "'b' (it is gone by now)"),
    "is a link": ("ln -sf /etc/passwd b", "'b' (something else is in its place by now)"),
    "is a folder": ("rm b; mkdir b", "'b' (something else is in its place by now)"),
    "is a fifo": ("rm b; mkfifo b", "'b' (something else is in its place by now)"),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_a_file_that_another_container_changes_after_the_list_is_told(runner: BareRunner, change: str, words: str) -> None:
    sh(runner, "echo 1 > a; echo 2 > b; echo 3 > c")

    def before_each(request: ListFolder | Fetch) -> None:
        if isinstance(request, Fetch):
            sh(runner, change)

    found = collected(runner, before_each=before_each)
    assert unpacked(found) == {"a": b"1\n", "c": b"3\n"}
    assert (found.error, found.not_collected) == ("", words)


@pytest.mark.parametrize(
    ("size", "names", "error"),
    [
        (2 * 2**20, {"a"}, "they are larger than archive_mib = 1: 'b' and what follows are missing"),
        (1000, {"a", "b", "c"}, ""),
        (0, {"a", "b", "c"}, ""),
    ],
    ids=["too large", "larger", "shorter"],
)
def test_a_file_has_the_size_that_it_has_when_it_is_read(runner: BareRunner, size: int, names: set[str], error: str) -> None:
    sh(runner, "echo 1 > a; echo 2 > b; echo 3 > c")

    def before_each(request: ListFolder | Fetch) -> None:
        if isinstance(request, Fetch) and len(request.files) > 1:
            sh(runner, f"truncate -s {size} b")

    found = collected(runner, job(limits=Limits(archive_mib=1)), before_each)
    assert (set(unpacked(found)), found.error) == (names, error)
    assert "b" not in names or len(unpacked(found)["b"]) == size


def test_a_workspace_that_was_replaced_gives_nothing_away(runner: BareRunner) -> None:
    sh(runner, "mkdir in; echo 1 > in/passwd")

    def before_each(request: ListFolder | Fetch) -> None:
        if isinstance(request, Fetch):
            sh(runner, "rm -r in; ln -s /etc in")

    found = collected(runner, before_each=before_each)
    assert (unpacked(found), found.not_collected) == ({}, "'in/passwd' (something else is in its place by now)")


def test_folders_that_are_not_there_are_told(runner: BareRunner) -> None:
    found = collected(runner, job(workspace="/nowhere"))
    assert found == Collected(error="the workspace could not be read: No such file or directory")


# ---- the result file


def brought(runner: BareRunner, script: str) -> bytes | None:
    run = runner.run(["sh", "-c", f"mkdir -p .jobmanager; {script}"], cwd=b"/job", bring=brought_paths(job()))
    assert (run.ended.code, run.stderr) == (0, b"")
    return result_file_of(run.pieces)


def test_a_result_file_is_brought_also_when_it_is_closed(runner: BareRunner) -> None:
    assert brought(runner, "printf '{}' > .jobmanager/result.json; chmod 0 .jobmanager/result.json .jobmanager") == b"{}"


@pytest.mark.parametrize(
    "script",
    [
        "true",
        "rm -r .jobmanager",
        "rm -r .jobmanager; ln -s /tmp .jobmanager; echo '{}' > /tmp/result.json",
        "rm -r .jobmanager; echo > .jobmanager",
    ],
    ids=["none", "no folder", "a link on the way", "a file on the way"],
)
def test_nothing_in_its_place_is_no_result_file(runner: BareRunner, script: str) -> None:
    assert brought(runner, script) is None


@pytest.mark.parametrize("make", ["ln -s /etc/passwd", "mkfifo", "mkdir", ": >"])
def test_what_is_no_regular_file_or_is_empty_is_a_result_file_without_content(runner: BareRunner, make: str) -> None:
    assert brought(runner, f"{make} .jobmanager/result.json") == b""


@pytest.mark.parametrize("size", [RESULT_FILE_LIMIT + 1, RESULT_FILE_LIMIT + 2, 2**40])
def test_a_result_file_that_is_too_large_is_told_as_such(runner: BareRunner, size: int) -> None:
    content = brought(runner, f"truncate -s {size} .jobmanager/result.json")
    assert content is not None
    with pytest.raises(ResultFileError, match="larger than 1024 KiB"):
        parse_result_file(content)


def test_a_result_file_may_have_all_of_its_bytes(runner: BareRunner) -> None:
    content = brought(runner, f"head -c {RESULT_FILE_LIMIT} /dev/zero > .jobmanager/result.json")
    assert content == bytes(RESULT_FILE_LIMIT)
