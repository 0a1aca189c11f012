"""What a folder holds is kept by the bare runner in sealed memory, and put back when the container was cleared."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator

import pytest

from jobmanager.runner.frames import Clear, Cleared, Fault, Keep, Kept, Put
from tests.support.bare_runner import BareRunner

PLACES = (b"/job", b"/tmp", b"/dev/shm")
MOST = 2**26
SHOWS = "find . -mindepth 1 -printf '%P %y %m %T@ %s %l\\n' | sort; find . -type f -exec sha256sum {} + | sort"


@pytest.fixture
def runner() -> Iterator[BareRunner]:
    with BareRunner() as bare:
        yield bare


def sh(runner: BareRunner, script: str) -> bytes:
    """What a script prints in the workspace; it must succeed."""
    run = runner.run(["sh", "-c", script], cwd=b"/job")
    assert (run.ended.code, run.stderr) == (0, b"")
    return run.stdout


def keep(runner: BareRunner, *, path: bytes = b"/job", most: int = MOST) -> Kept:
    runner.send(Keep(request=5, path=path, most=most))
    return runner.wait_for(Kept, timeout_s=60)


def put_back(runner: BareRunner) -> tuple[bool, bytes]:
    runner.send(Clear(request=6, put_back=True, places=PLACES))
    answer = runner.wait_for(Cleared, timeout_s=60)
    return answer.clean, answer.why


TREE = """
mkdir -p d/e 'with blanks' empty; head -c 300000 /dev/urandom > d/e/big; printf x > d/small; : > nothing
echo '#!/bin/sh' > run; chmod 755 run; chmod 640 d/small; ln -s d/small link; ln -s /nowhere dangling
printf '%0250d' 0 > long; mv long "$(printf '%0250d' 0)"; ln d/small hard
touch -d '2001-02-03 04:05:06.789 UTC' d/small run; chmod 555 d/e; touch -hd '2002-02-03 UTC' link; touch -d '2003-02-03 UTC' d d/e
"""


def test_everything_is_as_before_but_what_a_run_has_changed(runner: BareRunner) -> None:
    sh(runner, TREE)
    before = sh(runner, SHOWS)
    kept = keep(runner)
    assert (kept.errno, kept.entries) == (0, 12) and kept.bytes > 300_000

    sh(runner, "chmod 755 d/e; rm -rf d/e; echo changed > d/small; chmod 0 run; mkdir new; ln -sf new link; echo > /tmp/x")
    assert put_back(runner) == (True, b"")
    assert sh(runner, SHOWS) == before
    assert sh(runner, "ls -A /tmp /dev/shm") == b"/dev/shm:\n\n/tmp:\n"


def test_it_can_be_put_back_any_number_of_times_and_costs_memory_once(runner: BareRunner) -> None:
    sh(runner, "head -c 5000000 /dev/urandom > product; sha256sum product > sum")
    assert keep(runner).errno == 0
    for _ in range(20):
        sh(runner, "sha256sum --quiet -c sum; echo x >> product")
        assert put_back(runner) == (True, b"")


def test_what_a_program_writes_by_a_shared_mapping_leaves_no_time_and_is_gone_all_the_same(runner: BareRunner) -> None:
    sh(runner, "printf right > product")
    assert keep(runner).errno == 0
    writes = "import mmap; file = open('product', 'r+b'); shared = mmap.mmap(file.fileno(), 5); shared[0]; shared[:] = b'wrong'"
    assert runner.run(["python3", "-c", writes], cwd=b"/job").ended.code == 0
    assert sh(runner, "cat product") == b"wrong"
    assert put_back(runner) == (True, b"")
    assert sh(runner, "cat product") == b"right"


def test_no_program_can_reach_what_is_kept(runner: BareRunner) -> None:
    sh(runner, "echo product-of-the-build > product")
    assert keep(runner).errno == 0
    assert sh(runner, "ls -l /proc/self/fd | grep -c kept || :") == b"0\n"
    assert b"memfd" not in sh(runner, "for f in /proc/[0-9]*/fd/*; do readlink $f || :; done 2> /dev/null")


def test_a_closed_product_is_kept_and_is_closed_again(runner: BareRunner) -> None:
    sh(runner, "mkdir d; echo secret > d/f; chmod 0 d/f d")
    assert keep(runner).errno == 0
    assert put_back(runner) == (True, b"")
    assert sh(runner, "stat -c %a d; chmod 700 d; stat -c %a d/f; chmod 600 d/f; cat d/f") == b"0\n0\nsecret\n"


def test_sockets_and_fifos_are_no_products(runner: BareRunner) -> None:
    sh(runner, "mkfifo fifo; echo x > file")
    assert keep(runner).entries == 1
    assert put_back(runner) == (True, b"")
    assert sh(runner, "ls") == b"file\n"


def test_an_empty_folder_can_be_kept(runner: BareRunner) -> None:
    assert (keep(runner).errno, keep(runner).bytes) == (0, 0)
    sh(runner, "echo > x")
    assert put_back(runner) == (True, b"")
    assert sh(runner, "ls -A") == b""


@pytest.mark.parametrize(
    ("make", "most", "error"),
    [
        ("head -c 100000 /dev/zero > x", 100_000, errno.EFBIG),
        ("d=.; for i in $(seq 70); do d=$d/d; done; mkdir -p $d", MOST, errno.E2BIG),
        ("true", MOST, errno.ENOENT),
    ],
    ids=["too large", "too deep", "no such folder"],
)
def test_what_cannot_be_kept_whole_is_not_kept_and_the_reason_is_told(runner: BareRunner, make: str, most: int, error: int) -> None:
    sh(runner, make)
    kept = keep(runner, path=b"/job/no" if make == "true" else b"/job", most=most)
    assert (kept.errno, kept.entries, kept.bytes) == (error, 0, 0)
    assert put_back(runner) == (False, b"nothing was kept")


def test_a_clear_without_it_leaves_the_folder_empty_and_the_kept_one_for_later(runner: BareRunner) -> None:
    sh(runner, "echo > product")
    assert keep(runner).errno == 0
    runner.send(Clear(request=1, places=PLACES))
    assert runner.wait_for(Cleared).clean
    assert sh(runner, "ls -A") == b""
    assert put_back(runner) == (True, b"")
    assert sh(runner, "ls -A") == b"product\n"


def test_a_second_one_takes_the_place_of_the_first(runner: BareRunner) -> None:
    sh(runner, "echo > first")
    assert keep(runner).errno == 0
    sh(runner, "mv first second")
    assert keep(runner).errno == 0
    assert put_back(runner) == (True, b"")
    assert sh(runner, "ls -A") == b"second\n"


def test_where_no_room_is_left_for_it_that_is_told(runner: BareRunner) -> None:
    """Files of the same names that came meanwhile: what is put back replaces nothing, as nothing is there after a clear."""
    sh(runner, "echo > product")
    assert keep(runner).errno == 0
    runner.send(Clear(request=1, put_back=True, places=(b"/tmp",)))
    answer = runner.wait_for(Cleared)
    assert (answer.clean, answer.why) == (False, b"what was kept cannot be put back")


def test_a_keep_while_a_run_is_going_on_is_a_fault(runner: BareRunner) -> None:
    runner.start(["sleep", "100"])
    runner.send(Keep(request=5, path=b"/job", most=MOST))
    assert b"while a run is going on" in runner.wait_for(Fault).text


def test_a_thousand_small_files_are_kept_and_come_back(runner: BareRunner) -> None:
    sh(runner, "for i in $(seq 1000); do echo $i > f$i; done")
    assert keep(runner).entries == 1000
    runner.send(Put(path=b"/job/case", mode=0o644, mtime_s=0, data=b"x"))
    assert put_back(runner) == (True, b"")
    assert sh(runner, "ls | wc -l; cat f1000") == b"1000\n1000\n"


ROOT = """
import errno, fcntl, json, os
def tried(call, *arguments):
    try: call(*arguments)
    except OSError as error: return errno.errorcode[error.errno]
    return "done"
acl = bytes.fromhex("02000000" "01000700ffffffff" "04000700ffffffff" "20000700ffffffff")
folder = os.open("/job", os.O_RDONLY)
print(json.dumps({
    "acl": tried(os.setxattr, "/job", "system.posix_acl_default", acl), "user": tried(os.setxattr, "/job", "user.left", b"x"),
    "flags": tried(fcntl.ioctl, folder, 0x40086602, (0x80).to_bytes(8, "little")),
    "times": tried(os.utime, "/job", (1, 1)), "mode": tried(os.chmod, "/job", 0o777)}))
"""
LEFT = """
import fcntl, json, os
folder = os.open("/job", os.O_RDONLY)
try: flags = int.from_bytes(fcntl.ioctl(folder, 0x80086601, bytes(8)), "little")
except OSError: flags = 0
found = os.fstat(folder)
print(json.dumps([os.listxattr("/job"), flags, oct(found.st_mode & 0o7777), int(found.st_mtime)]))
"""


def test_nothing_is_left_on_the_workspace_itself(runner: BareRunner) -> None:
    def told(program: str) -> object:
        run = runner.run(["python3", "-c", program], cwd=b"/")
        assert run.ended.code == 0, run.stderr
        return json.loads(run.stdout)

    tried = told(ROOT)
    assert isinstance(tried, dict) and {tried["mode"], tried["times"], tried["acl"]} == {"done"}
    runner.send(Clear(request=1, places=PLACES))
    assert runner.wait_for(Cleared).clean
    assert told(LEFT) == [[], 0, "0o700", 0]
