"""Files that come and go through the bare runner, as another user than root, in trees that a program has made hostile."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmanager.runner.frames import (
    BringPath,
    Clear,
    Cleared,
    Entries,
    Fault,
    Fetch,
    FolderEntry,
    Kill,
    ListFolder,
    PathKind,
    Piece,
    Put,
    PutKind,
    RefusalReason,
    Remove,
)
from tests.support.bare_runner import NOBODY, BareRunner

PYTHON = str(Path(sys.executable).resolve())
LONG_AGO_S = 1_000_000_000
PLACES = (b"/job", b"/tmp", b"/dev/shm")


@pytest.fixture
def runner() -> Iterator[BareRunner]:
    with BareRunner() as bare:
        yield bare


def put(path: str, content: bytes = b"", mode: int = 0o644, **fields: object) -> Put:
    return Put(path=path.encode(), mode=mode, mtime_s=LONG_AGO_S, data=content, **fields)


def sh(runner: BareRunner, script: str) -> bytes:
    """What a script prints in the workspace; it must succeed."""
    run = runner.run(["sh", "-c", script], cwd=b"/job")
    assert (run.ended.code, run.stderr) == (0, b"")
    return run.stdout


def python(runner: BareRunner, script: str) -> bytes:
    run = runner.run([PYTHON, "-c", script], cwd=b"/job")
    assert (run.ended.code, run.stderr) == (0, b"")
    return run.stdout


def listed(runner: BareRunner, path: str) -> tuple[dict[str, FolderEntry], int]:
    """All entries by their paths, and the error that was told at the end."""
    runner.send(ListFolder(request=7, path=path.encode()))
    found: dict[str, FolderEntry] = {}
    while True:
        page = runner.wait_for(Entries)
        for entry in page.entries:
            assert entry.path.decode() not in found
            found[entry.path.decode()] = entry
        if page.last:
            return found, page.errno


def fetched(runner: BareRunner, path: str, most: int = 2**30) -> tuple[bytes, Piece]:
    """A file's bytes, and its last piece."""
    runner.send(Fetch(request=8, files=(BringPath(path=path.encode(), most=most),)))
    content = b""
    while True:
        piece = runner.wait_for(Piece)
        assert piece.offset == len(content)
        content += piece.data
        if piece.last:
            return content, piece


def cleared(runner: BareRunner) -> tuple[bool, bytes]:
    runner.send(Clear(request=9, places=PLACES))
    answer = runner.wait_for(Cleared, timeout_s=60)
    return answer.clean, answer.why


# ---- PUT


def test_files_and_folders_are_there_with_their_modes_and_times(runner: BareRunner) -> None:
    runner.send(put("/job/a/b/c.txt", b"hello", 0o640))
    runner.send(put("/job/run", b"#!/bin/sh\necho ran\n", 0o755))
    runner.send(put("/job/empty", mode=0o700, kind=PutKind.FOLDER))
    shown = sh(runner, "cat a/b/c.txt; ./run; stat -c '%n %a %Y' a/b/c.txt run empty a")
    first, *rest = shown.decode().splitlines()
    assert first == "helloran"
    assert rest[:3] == [f"a/b/c.txt 640 {LONG_AGO_S}", f"run 755 {LONG_AGO_S}", f"empty 700 {LONG_AGO_S}"]
    assert rest[3].startswith("a 755 ")


def test_a_file_comes_in_pieces_and_is_whole_when_it_is_sent_again_from_the_start(runner: BareRunner) -> None:
    pieces = [bytes([65 + number]) * 60_000 for number in range(4)]
    for times in (2, 4):
        for number, data in enumerate(pieces[:times]):
            runner.send(put("/job/big", data, offset=number * 60_000, last=number == 3))
    assert python(runner, "import hashlib; print(hashlib.md5(open('big', 'rb').read()).hexdigest())").strip()
    assert fetched(runner, "/job/big")[0] == b"".join(pieces)


@pytest.mark.parametrize("there", ["ln -s /tmp/other x", "mkfifo x", "echo old > x; chmod 0 x", "echo old > y; ln y x"])
def test_what_is_there_is_replaced_and_not_written_through(runner: BareRunner, there: str) -> None:
    sh(runner, f"echo kept > /tmp/other; {there}")
    runner.send(put("/job/x", b"new\n"))
    others = ["old"] if " y" in there else []
    assert sh(runner, "cat x /tmp/other; test ! -e y || cat y").decode().split() == ["new", "kept", *others]


def test_no_link_on_the_way_is_followed_and_the_next_run_says_so(runner: BareRunner) -> None:
    sh(runner, "mkdir /tmp/target; ln -s /tmp/target way")
    runner.send(put("/job/way/file", b"x"))
    refused = runner.run(["true"]).refused
    assert (refused.why, refused.errno, refused.what) == (RefusalReason.PUT_FAILED, errno.ENOTDIR, b"/job/way/file")
    assert sh(runner, "ls -A /tmp/target") == b""  # and a refused run has taken the refusal with it


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/etc/passwd", errno.EROFS),
        ("/nowhere/x", errno.EROFS),
        ("/job/../x", errno.EINVAL),
        ("job/x", errno.EINVAL),
        ("/job/.", errno.EINVAL),
    ],
)
def test_what_cannot_be_put_refuses_the_next_run(runner: BareRunner, path: str, error: int) -> None:
    runner.send(put(path, b"x"))
    runner.send(put("/job/fine", b"x"))
    refused = runner.run(["true"]).refused
    assert (refused.why, refused.errno, refused.what) == (RefusalReason.PUT_FAILED, error, path.encode())


def test_a_full_workspace_refuses_the_next_run(runner: BareRunner) -> None:
    for number in range(1200):
        runner.send(put("/job/big", bytes(60_000), offset=number * 60_000, last=number == 1199))
    refused = runner.run(["true"]).refused
    assert (refused.why, refused.errno, refused.what) == (RefusalReason.PUT_FAILED, errno.ENOSPC, b"/job/big")


def test_requests_during_a_run_are_a_fault(runner: BareRunner) -> None:
    runner.start(["sleep", "60"])
    runner.send(ListFolder(request=1, path=b"/job"))
    assert runner.wait_for(Fault).text == b"a request while a run is going on"
    assert runner.exit_code() == 121


# ---- REMOVE


@pytest.mark.parametrize(
    ("made", "parts", "left"),
    [
        ("mkdir r; touch r/a.json r/b.json r/c d.json", ["r", "*.json"], "d.json\nr\nr/c"),
        ("mkdir -p deep/er; touch deep/er/x keep", ["deep", "*"], "deep\nkeep"),
        ("touch .hidden seen", ["*"], ".hidden"),
        ("mkdir .d; touch .d/x .e", [".*"], ""),
        ("mkdir -p /tmp/t; touch /tmp/t/x; ln -s /tmp/t link; touch a", ["link", "*"], "a"),
        ("mkdir -p c/in; touch c/in/x; chmod 0 c/in; chmod 0 c", ["c"], ""),
        ("mkdir -p c/in; touch c/in/x; chmod 0 c/in; chmod 0 c", ["c", "in", "x"], "c\nc/in"),
        ("mkdir -p c/in; touch c/in/x; chmod 0400 c/in c", ["c", "*", "x"], "c\nc/in"),
        ("touch a", ["none", "*"], "a"),
        ("touch a", ["a", "x"], "a"),
        ("touch 'a b1' a b1", ["a b*"], "a\nb1"),
    ],
)
def test_what_matches_is_gone_and_the_rest_stays(runner: BareRunner, made: str, parts: list[str], left: str) -> None:
    sh(runner, made)
    runner.send(Remove(base=b"/job", parts=tuple(part.encode() for part in parts)))
    found = sh(runner, "find . -mindepth 1 | cut -c3- | sort").decode().splitlines()
    assert found == left.splitlines()
    assert sh(runner, "test ! -d /tmp/t || ls /tmp/t") in (b"", b"x\n")


@pytest.mark.parametrize("base", ["/volumes/none", "/.jobmanager"])
def test_what_cannot_be_removed_refuses_the_next_run(runner: BareRunner, base: str) -> None:
    runner.send(Remove(base=base.encode(), parts=(b"r*",)))
    refused = runner.run(["true"]).refused
    assert (refused.why, refused.what) == (RefusalReason.REMOVE_FAILED, f"{base}/r*".encode())


# ---- LIST, FETCH, bring


def test_a_folder_is_listed_with_all_below_it_whatever_it_is(runner: BareRunner) -> None:
    sh(runner, "mkdir -p a/b; printf 12345 > a/b/f; ln -s /etc/passwd l; mkfifo p; touch -d @5 t; chmod 0 a/b")
    found, error = listed(runner, "/job")
    kinds = {path: entry.kind for path, entry in found.items()}
    assert error == 0
    assert kinds == {
        "a": PathKind.FOLDER,
        "a/b": PathKind.FOLDER,
        "a/b/f": PathKind.FILE,
        "l": PathKind.LINK,
        "p": PathKind.OTHER,
        "t": PathKind.FILE,
    }
    assert (found["a/b/f"].size, found["t"].mtime_s, found["a/b"].mode) == (5, 5, 0)


@pytest.mark.parametrize("mode", ["0", "0200", "0400", "0600"])
def test_a_folder_that_its_owner_has_closed_hides_nothing(runner: BareRunner, mode: str) -> None:
    sh(runner, f"mkdir -p a/b; echo kept > a/b/f; chmod {mode} a/b a")
    assert fetched(runner, "/job/a/b/f")[0] == b"kept\n"
    sh(runner, f"chmod {mode} a/b a")
    found, error = listed(runner, "/job")
    assert (sorted(found), error) == (["a", "a/b", "a/b/f"], 0)


def test_many_files_come_once_each(runner: BareRunner) -> None:
    python(runner, "import os\nfor d in range(10):\n os.mkdir(str(d))\n for n in range(1500): open(f'{d}/{n:0100}', 'w').close()")
    found, error = listed(runner, "/job")
    assert (len(found), error) == (15_010, 0)


def test_what_has_too_long_a_path_is_left_out_and_the_rest_is_listed(runner: BareRunner) -> None:
    python(
        runner,
        """if True:
            import os
            for _ in range(20):
                os.mkdir("d" * 250); os.chdir("d" * 250); open("f", "w").close()
            for number in range(200):
                open(f"/job/{number}", "w").close()
        """,
    )
    found, error = listed(runner, "/job")
    assert error == errno.E2BIG
    assert {str(number) for number in range(200)} <= set(found)
    assert max(map(len, found)) == 16 * 251 + 1


def test_files_that_are_asked_for_together_come_in_that_order_and_one_that_is_not_there_ends_no_other(runner: BareRunner) -> None:
    python(runner, "open('a', 'w').write('A'); open('big', 'wb').write(bytes(200_000)); open('empty', 'w')")
    asked = [("big", 200_000), ("none", 5), ("a", 0), ("empty", 0), ("a", 1), ("big", 199_999)]
    runner.send(Fetch(request=3, files=tuple(BringPath(path=f"/job/{name}".encode(), most=most) for name, most in asked)))

    pieces: list[Piece] = []
    while sum(piece.last for piece in pieces) < len(asked):
        pieces.append(runner.wait_for(Piece))

    ends = [(piece.path.decode().removeprefix("/job/"), piece.errno) for piece in pieces if piece.last]
    assert ends == [("big", 0), ("none", errno.ENOENT), ("a", errno.EFBIG), ("empty", 0), ("a", 0), ("big", errno.EFBIG)]
    assert b"".join(piece.data for piece in pieces) == bytes(200_000) + b"A"
    assert {piece.request for piece in pieces} == {3}


def test_what_is_too_deep_is_left_out_and_said(runner: BareRunner) -> None:
    python(runner, "import os\nfor n in range(300): os.mkdir('d'); os.chdir('d')\nopen('x', 'w')")
    found, error = listed(runner, "/job")
    assert error == errno.E2BIG
    assert len(found) == 65


@pytest.mark.parametrize(("name", "error"), [("none", errno.ENOENT), ("file", errno.ENOTDIR), ("link", errno.ENOTDIR)])
def test_what_is_no_folder_cannot_be_listed(runner: BareRunner, name: str, error: int) -> None:
    sh(runner, "touch file; ln -s /tmp link")
    assert listed(runner, f"/job/{name}") == ({}, error)


def test_a_file_comes_back_as_it_is_also_when_it_is_closed(runner: BareRunner) -> None:
    python(runner, "import os; open('f', 'wb').write(bytes(range(256)) * 1000); os.chmod('f', 0)")
    content, piece = fetched(runner, "/job/f")
    assert content == bytes(range(256)) * 1000
    assert (piece.size, piece.mode, piece.errno) == (256_000, 0, 0)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("none", errno.ENOENT),
        ("fifo", errno.EINVAL),
        ("link", errno.EINVAL),
        ("folder", errno.EINVAL),
        ("way/passwd", errno.ENOTDIR),
        ("big", errno.EFBIG),
    ],
)
def test_what_is_no_regular_file_or_too_large_is_an_error_and_blocks_nobody(runner: BareRunner, path: str, error: int) -> None:
    sh(runner, "mkfifo fifo; ln -s /etc/passwd link; mkdir folder; ln -s /etc way; truncate -s 1G big")
    content, piece = fetched(runner, f"/job/{path}", most=1000)
    assert (content, piece.errno) == (b"", error)
    assert path != "big" or piece.size == 2**30


def test_a_run_brings_files_before_its_end(runner: BareRunner) -> None:
    wanted = (BringPath(path=b"/job/a", most=100), BringPath(path=b"/job/none", most=100), BringPath(path=b"/job/big", most=2**20))
    run = runner.run(["sh", "-c", "printf one > a; head -c 200000 /dev/zero > big"], cwd=b"/job", bring=wanted)
    assert [kind for kind in map(type, run.messages) if kind is Piece] == [Piece] * len(run.pieces)
    assert [(piece.path, piece.errno) for piece in run.pieces if piece.last] == [
        (b"/job/a", 0),
        (b"/job/none", errno.ENOENT),
        (b"/job/big", 0),
    ]
    assert b"".join(piece.data for piece in run.pieces if piece.path == b"/job/big") == bytes(200_000)
    assert run.pieces[0].data == b"one"


def test_frames_are_read_while_a_long_answer_waits_for_room(runner: BareRunner) -> None:
    python(runner, "open('f', 'wb').write(bytes(4 << 20))")
    runner.acknowledging = False
    runner.send(Fetch(request=1, files=(BringPath(path=b"/job/f", most=2**30),)))
    runner.wait_for(Piece)
    runner.send(Kill(run=99))  # is read, and means nothing
    runner.acknowledging = True
    assert runner.wait_for(Piece, where=lambda piece: piece.last).offset > 4_000_000


def test_a_new_waiter_asks_though_the_dead_one_has_not_got_its_answer(runner: BareRunner) -> None:
    python(runner, "open('f', 'wb').write(bytes(4 << 20)); open('g', 'w').write('g')")
    runner.acknowledging = False
    runner.send(Fetch(request=1, files=(BringPath(path=b"/job/f", most=2**30),)))
    runner.wait_for(Piece)
    runner.detach()
    runner.acknowledging = True
    runner.resume()
    runner.send(Fetch(request=2, files=(BringPath(path=b"/job/g", most=2**30),)))
    answer = runner.wait_for(Piece, where=lambda piece: piece.request == 2)
    assert (answer.data, answer.offset, answer.last) == (b"g", 0, True)


def test_a_second_request_before_the_answer_is_a_fault(runner: BareRunner) -> None:
    python(runner, "open('f', 'wb').write(bytes(4 << 20))")
    runner.acknowledging = False
    runner.send(Fetch(request=1, files=(BringPath(path=b"/job/f", most=2**30),)))
    runner.send(Fetch(request=2, files=(BringPath(path=b"/job/f", most=2**30),)))
    runner.acknowledging = True
    assert runner.wait_for(Fault).text == b"a request before the last one was answered"


# ---- CLEAR


def test_nothing_is_left_after_a_clear(runner: BareRunner) -> None:
    python(
        runner,
        """if True:
            import ctypes, os, subprocess
            libc = ctypes.CDLL(None, use_errno=True)
            assert min(libc.shmget(77, 4096, 0o1600), libc.msgget(77, 0o1600), libc.semget(77, 1, 0o1600)) >= 0
            assert libc.mq_open(b"/q", os.O_CREAT | os.O_RDWR, 0o600, None) >= 0
            for place in ("/tmp", "/dev/shm"):
                open(f"{place}/x", "w").write("x")
            subprocess.Popen(["sleep", "100"], start_new_session=True)
            for number in range(5000):
                open(f"f{number}", "w").close()
            for number in range(3000):
                os.mkdir("d"); os.chdir("d")
            open("x", "w")
            os.chmod(".", 0)
            os.chdir("/job")
            os.mkdir("closed"); open("closed/x", "w"); os.chmod("closed", 0)
        """,
    )
    assert cleared(runner) == (True, b"")
    assert sh(runner, "find /job /tmp /dev/shm /dev/mqueue -mindepth 1; tail -qn +2 /proc/sysvipc/*") == b""
    assert b"sleep" not in sh(runner, "cat /proc/[0-9]*/comm")


def test_a_changed_limit_of_the_runner_is_not_clean(runner: BareRunner) -> None:
    """Here no seccomp profile refuses it."""
    python(runner, "import resource; resource.prlimit(1, resource.RLIMIT_NOFILE, (100, 100))")
    assert cleared(runner) == (False, b"a limit or priority of the runner was changed")


def test_what_cannot_be_emptied_is_not_clean_and_named(runner: BareRunner) -> None:
    runner.send(Clear(request=1, places=(b"/job", b"/.jobmanager")))
    answer = runner.wait_for(Cleared)
    assert (answer.clean, answer.why) == (False, b"/.jobmanager: something is left that cannot be removed")


def test_a_run_that_is_sent_behind_a_clear_starts_only_where_that_was_clean(runner: BareRunner) -> None:
    runner.send(Clear(request=1, places=(b"/job",)))
    assert runner.run(["true"]).ended.code == 0
    runner.send(Clear(request=2, places=(b"/job", b"/.jobmanager")))
    refused = runner.run(["true"]).refused
    assert refused is not None
    assert (refused.why, refused.what) == (RefusalReason.NOT_CLEAN, b"/.jobmanager: something is left that cannot be removed")


def test_a_file_whose_end_never_came_takes_no_space_after_a_clear(runner: BareRunner) -> None:
    runner.send(put("/job/x", bytes(60_000), last=False))
    assert cleared(runner) == (True, b"")


# ---- A tree that another container changes meanwhile


CHANGES = """if True:
    import ctypes, os
    os.chdir("/job")
    rename = ctypes.CDLL(None).renameat2
    make = [lambda: os.mkdir("folder"), lambda: os.mkdir("folder/in"), lambda: os.mkdir("folder/in/x")]
    make.append(lambda: os.symlink("/tmp/outside", "link"))
    print("begins", flush=True)
    while True:
        for each in make:
            try:
                each()
            except OSError:
                pass
        for _ in range(1000):
            rename(-100, b"folder", -100, b"link", 2)  # each becomes the other
"""


def test_no_link_leads_out_of_a_tree_that_is_changed_meanwhile(runner: BareRunner) -> None:
    sh(runner, "mkdir -p /tmp/outside/kept; echo kept > /tmp/outside/kept/file; chmod 500 /tmp/outside/kept")
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    beside = ["nsenter", f"--target={runner.pid}", "--mount", "--root", *as_nobody, PYTHON, "-c", CHANGES]
    with subprocess.Popen(beside, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"begins\n"
        try:
            for number in range(10_000):
                assert not [path for path in listed(runner, "/job")[0] if "kept" in path]
                if number % 50:
                    continue
                runner.send(Remove(base=b"/job", parts=(b"*", b"*", b"*")))
                runner.send(Clear(request=number, places=(b"/job",)))
                runner.wait_for(Cleared, timeout_s=60)
        finally:
            other.kill()
    runner.run(["true"])  # takes what a REMOVE has failed with
    shown = sh(runner, "cd /tmp/outside; stat -c %a kept; cat kept/file")
    assert shown == b"500\nkept\n"
