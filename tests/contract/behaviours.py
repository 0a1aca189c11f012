"""What programs do: each as busybox does it, as steps of the fake engine, and what the runner must say of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jobmanager.model.limits import Limits
from jobmanager.runner.frames import HowEnded, StoppedBy
from jobmanager.testing import (
    Burn,
    Die,
    Echo,
    Exit,
    FillWorkspace,
    Forks,
    Print,
    PrintFile,
    ProgramStep,
    Repeat,
    Sleep,
    UseMemory,
    WriteFile,
)

LIMITS = Limits(memory_mib=32, workspace_mib=2, processes=12)
SIGSEGV, SIGKILL, SIGTERM = 11, 9, 15
SPINS = "while :; do :; done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """A program, and what becomes of it within these limits."""

    name: str
    command: str  # for ``sh -c``
    steps: Sequence[ProgramStep]  # the same, for the fake engine
    stdout: bytes | None = b""  # None: more than is looked at
    stderr: bytes | None = b""
    how: HowEnded = HowEnded.EXITED
    code: int = 0
    stopped_by: StoppedBy = StoppedBy.NOBODY
    stdin: bytes = b""
    wall_s: float = 60
    cpu_s: float = 60
    output_bytes: int = 2**20
    drops: bool = False  # what it prints past that
    counts: tuple[int, int] | None = None  # bytes of both streams; None: not looked at
    kills: bool = False  # for memory
    refuses: bool = False  # processes
    fills: tuple[bool, bool] = (False, False)  # the workspace's bytes, and its inodes
    leaves: dict[str, bytes] = field(default_factory=dict)  # files in the workspace, which are collected


def _killed(by: StoppedBy, **more: object) -> dict[str, object]:
    return {"how": HowEnded.SIGNALLED, "code": SIGKILL, "stopped_by": by, **more}


BEHAVIOURS = [
    Behaviour(name="does nothing", command="true", steps=[]),
    Behaviour(name="prints", command="echo hello", steps=[Print("hello\n")], stdout=b"hello\n"),
    Behaviour(
        name="prints to both streams",
        command="echo out; echo err >&2; printf 'no end'",
        steps=[Print("out\n"), Print("err\n", stderr=True), Print("no end")],
        stdout=b"out\nno end",
        stderr=b"err\n",
    ),
    Behaviour(name="exits with 42", command="exit 42", steps=[Exit(42)], code=42),
    Behaviour(name="exits with 139, as after a signal", command="exit 139", steps=[Exit(139)], code=139),
    Behaviour(
        name="dies by SIGSEGV",
        command="echo before; kill -SEGV $$",
        steps=[Print("before\n"), Die("SIGSEGV")],
        stdout=b"before\n",
        how=HowEnded.SIGNALLED,
        code=SIGSEGV,
    ),
    Behaviour(
        name="dies by its own SIGKILL", command="kill -KILL $$; sleep 9", steps=[Die()], how=HowEnded.SIGNALLED, code=SIGKILL
    ),
    Behaviour(
        name="dies by its own SIGTERM", command="kill $$; sleep 9", steps=[Die("SIGTERM")], how=HowEnded.SIGNALLED, code=SIGTERM
    ),
    Behaviour(name="reads standard input", command="cat; echo end", steps=[Echo(), Print("end\n")], stdin=b"in", stdout=b"inend\n"),
    Behaviour(name="reads one line", command="head -n 1", steps=[Echo(lines=1)], stdin=b"one\ntwo\nthree\n", stdout=b"one\n"),
    Behaviour(name="never reads standard input", command=": ignores it", steps=[], stdin=b"in" * 100_000),
    Behaviour(name="sleeps a little", command="sleep 0.2; echo awake", steps=[Sleep(0.2), Print("awake\n")], stdout=b"awake\n"),
    Behaviour(name="sleeps past its wall clock", command="sleep 100", steps=[Sleep(100)], wall_s=0.5, **_killed(StoppedBy.WALL)),
    Behaviour(
        name="prints, and sleeps past its wall clock",
        command="echo partial; sleep 100",
        steps=[Print("partial\n"), Sleep(100)],
        wall_s=0.5,
        stdout=b"partial\n",
        **_killed(StoppedBy.WALL),
    ),
    Behaviour(name="computes past its CPU time", command=SPINS, steps=[Burn(1e9)], cpu_s=0.3, **_killed(StoppedBy.CPU)),
    Behaviour(
        name="floods",
        command="yes 0123456789",
        steps=[Repeat([Print("0123456789\n" * 1000)])],
        output_bytes=100_000,
        stdout=(b"0123456789\n" * 10_000)[:100_000],
        **_killed(StoppedBy.OUTPUT),
    ),
    Behaviour(
        name="floods standard error",
        command="yes 0123456789 >&2",
        steps=[Repeat([Print("0123456789\n" * 1000, stderr=True)])],
        output_bytes=100_000,
        stderr=(b"0123456789\n" * 10_000)[:100_000],
        **_killed(StoppedBy.OUTPUT),
    ),
    Behaviour(
        name="floods, goes on, and ends by itself",
        command="yes 0123456789 | head -n 300000; echo end >&2; exit 3",
        steps=[Print("0123456789\n" * 300_000), Print("end\n", stderr=True), Exit(3)],
        output_bytes=100_000,
        drops=True,
        stdout=(b"0123456789\n" * 10_000)[:100_000],
        code=3,
        counts=(3_300_000, 4),
    ),
    Behaviour(
        name="floods, goes on, and past its wall clock",
        command="yes 9876543210",
        steps=[Repeat([Print("9876543210\n" * 1000)])],
        output_bytes=100_000,
        drops=True,
        wall_s=0.5,
        stdout=(b"9876543210\n" * 10_000)[:100_000],
        **_killed(StoppedBy.WALL),
    ),
    Behaviour(
        name="prints as much as it may, where more would be dropped",
        command="printf 123456; printf 789 >&2",
        steps=[Print("123456"), Print("789", stderr=True)],
        output_bytes=9,
        drops=True,
        stdout=b"123456",
        stderr=b"789",
        counts=(6, 3),
    ),
    Behaviour(
        name="takes too much memory",
        command="exec dd if=/dev/zero of=/dev/null bs=200M count=1",
        steps=[UseMemory(200)],
        stderr=None,
        how=HowEnded.SIGNALLED,
        code=SIGKILL,
        kills=True,
    ),
    Behaviour(
        name="starts too many processes",
        command="(while :; do sleep 60 & done) 2>/dev/null; echo on; exit 3",
        steps=[Forks(20), Print("on\n"), Exit(3)],
        stdout=b"on\n",
        stderr=None,
        code=3,
        refuses=True,
    ),
    Behaviour(
        name="fills the workspace",
        command="cat /dev/zero > big; exit 4",
        steps=[FillWorkspace(), Exit(4)],
        stderr=None,
        code=4,
        fills=(True, False),
    ),
    Behaviour(
        name="fills the workspace with empty files",
        command="i=0; while true 2>/dev/null >f$i; do i=$((i+1)); done; exit 4",
        steps=[FillWorkspace(inodes=True), Exit(4)],
        stderr=None,
        code=4,
        fills=(False, True),
    ),
    Behaviour(
        name="prints a file that was put",
        command="cat given",
        steps=[PrintFile("given")],
        stdout=b"what was given\n",
    ),
    Behaviour(
        name="writes files",
        command="printf one > a; mkdir -p d/e; printf two > d/e/b",
        steps=[WriteFile("a", "one"), WriteFile("d/e/b", "two")],
        leaves={"a": b"one", "d/e/b": b"two"},
    ),
    Behaviour(
        name="writes a result file",
        command="""mkdir -p .jobmanager; echo '{"result": "success"}' > .jobmanager/result.json""",
        steps=[WriteFile(".jobmanager/result.json", '{"result": "success"}\n')],
        leaves={".jobmanager/result.json": b'{"result": "success"}\n'},
    ),
]
FLOODED = b"0123456789\n" * 70_000  # less than a runner keeps
FLOOD = "yes 0123456789 | head -n 70000"
LEAVES = "mkdir -p /volumes/work/d && echo hello > /volumes/work/d/a"
CAT = "cat /volumes/work/d/a"
TALKS: dict[str, Sequence[ProgramStep]] = {  # programs that talk with one in another container
    "echo one; head -n 1": [Print("one\n"), Echo(lines=1)],
    "echo one; exit 3": [Print("one\n"), Exit(3)],
    "head -n 1; exit 0": [Echo(lines=1), Exit(0)],
    "head -n 1; exit 1": [Echo(lines=1), Exit(1)],
    "cat; exit 1": [Echo(), Exit(1)],
    "sleep 0.5; echo late": [Sleep(0.5), Print("late\n")],
    "exit 3": [Exit(3)],
    "sleep 60": [Sleep(60)],
}
PROGRAMS = {
    **{behaviour.command: behaviour.steps for behaviour in BEHAVIOURS},
    FLOOD: [Print(FLOODED)],
    LEAVES: [WriteFile("/volumes/work/d/a", "hello\n")],
    "./build-it": [WriteFile("product", "made\n")],
    **TALKS,
}
