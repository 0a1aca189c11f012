"""The steps of the fake engine's programs: what they do, and that a wrong one is told when it is made."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator
from typing import get_args

import pytest

from jobmanager import DockerHost, Grader, JobManager, Outcome, Task
from jobmanager.engine.connect import connect
from jobmanager.engine.labels import Owner
from jobmanager.engine.protocol import Engine
from jobmanager.engine.runner_volume import RunnerVolumes
from jobmanager.errors import InvalidValue
from jobmanager.model.container import ContainerSpec, ImageDefaults, VolumeMount
from jobmanager.model.host import Address
from jobmanager.model.limits import Limits
from jobmanager.runner.binaries import binary
from jobmanager.runner.frames import (
    BringPath,
    FromProgram,
    InputFrom,
    OutputData,
    Put,
    PutKind,
    RefusalReason,
    Remove,
    Started,
    ToProgram,
    VolumeDevice,
)
from jobmanager.testing import (
    AskStudent,
    Burn,
    Die,
    Echo,
    Exit,
    FakeEngineServer,
    Forks,
    Print,
    PrintFile,
    ProgramStep,
    Receive,
    Repeat,
    Send,
    Sleep,
    UseMemory,
    WriteFile,
)
from tests.support.channel_runner import ChannelRunner

PROGRAMS: dict[str, str | list[ProgramStep]] = {
    "asks": [AskStudent(["cat", "f"], stdin="for the student"), Print("asked\n")],
    "says": [Send({"a": "b"}), Send("text"), Send(b"\7raw", is_whole=False), Send("x" * 100_000)],
    "hears": [Receive(2)],
    "writes": [WriteFile("d/e/f", "content", mode=0o755), PrintFile("d/e/f"), PrintFile("none")],
    "writes outside": [WriteFile("/etc/f")],
    "forks": [Forks(11), Forks(14)],
    "remembers": [UseMemory(40), UseMemory(40), Print("not reached")],
    "kills pid 1": [UseMemory(100, kills_pid_1=True)],
}
VOLUME = VolumeMount(name="jobmanager-work", path="/volumes/work", size_mib=1)
LIMITS = Limits(memory_mib=64, processes=12)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with FakeEngineServer(programs=PROGRAMS) as server:
        engine = connect(Address(host="fake", url=server.url), 5.0)
        RunnerVolumes(manager_id="m", owner=Owner.this_process(), binary_for=binary).ensure(engine, "fake")
        yield engine
        engine.close()


@pytest.fixture
def runner(engine: Engine) -> Iterator[ChannelRunner]:
    runner = started(engine, "driven")
    yield runner
    runner.close()


def started(engine: Engine, name: str, *volumes: VolumeMount) -> ChannelRunner:
    sha256 = binary("x86_64").sha256
    spec = ContainerSpec(name=name, image="busybox", labels={}, limits=LIMITS, volumes=volumes, runner=sha256)
    engine.create(spec, ImageDefaults(command=(), volumes=()))
    engine.start(name)
    return ChannelRunner(engine, name)


# ---- what is refused


WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: Print(7), "Print: data must be a text or bytes, not 7"),  # type: ignore[arg-type]
    (lambda: Print("a", stderr=1), "Print: stderr must be True or False, not 1"),  # type: ignore[arg-type]
    (lambda: PrintFile(""), "PrintFile: path must be the path of a file, not ''"),
    (lambda: WriteFile(".", "x"), "WriteFile: path must be the path of a file, not '.'"),
    (lambda: WriteFile("a", mode=0o10000), "WriteFile: mode must be permission bits such as 0o644, not 4096"),
    (lambda: Sleep(-1), "Sleep: seconds must be a number from 0 on, not -1"),
    (lambda: Burn(math.nan), "Burn: seconds must be a number from 0 on, not nan"),
    (lambda: Exit(256), "Exit: code must be a whole number from 0 to 255, not 256"),
    (lambda: Die("SEGV"), "Die: signal must be the name of a signal, such as 'SIGSEGV', not 'SEGV'"),
    (lambda: Echo(lines=0), "Echo: lines must be a whole number from 1 on, not 0"),
    (lambda: UseMemory(True), "UseMemory: mib must be a whole number from 1 on, not True"),
    (lambda: AskStudent([]), "AskStudent: command must be a text or a sequence of words, not \\(\\)"),
    (lambda: Repeat(["echo"]), "Repeat: 'echo' is no step: take one of Print, PrintFile"),  # type: ignore[list-item]
    (lambda: Repeat("echo"), "Repeat: its steps must be a sequence of steps, not 'echo'"),  # type: ignore[arg-type]
    (lambda: FakeEngineServer(programs={"a": [Print]}), "program 'a': <class .*Print'> is no step"),  # type: ignore[list-item]
    (lambda: FakeEngineServer(programs={"": []}), "programs: a program's name must be a text, not ''"),
    (lambda: FakeEngineServer(programs=["a"]), "programs must be a mapping from names to texts or steps"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("made", "reason"), WRONG, ids=[reason[:30] for _, reason in WRONG])
def test_a_step_that_makes_no_sense_is_refused_when_it_is_made(made: Callable[[], object], reason: str) -> None:
    with pytest.raises(InvalidValue, match=reason):
        made()


def test_every_step_is_frozen() -> None:
    for kind in get_args(ProgramStep):
        assert kind.__dataclass_params__.frozen, kind


class Louder(str):
    """No other process knows it."""


def test_a_step_holds_exact_values_whatever_it_was_made_with() -> None:
    step = AskStudent(("cat", Louder("f")), stdin=bytearray(b"x"))  # type: ignore[arg-type]
    assert [type(value) for value in (*step.command, step.stdin)] == [str, str, bytes]


# ---- what they do


def test_files_are_written_on_the_workspace_and_nowhere_else(runner: ChannelRunner) -> None:
    record = runner.do("writes", bring=(BringPath(path=b"/job/d/e/f", most=100), BringPath(path=b"/job/d/e/f", most=6)))
    assert (record.stdout, record.stderr, record.ended.code) == (b"content", b"none: No such file or directory\n", 1)
    whole, too_large = record.pieces
    assert (whole.data, whole.mode, whole.errno, too_large.size, too_large.errno) == (b"content", 0o755, 0, 7, 27)
    assert runner.shell("writes outside").stderr == b"/etc/f: Read-only file system\n"


def test_processes_count_up_to_the_limit(runner: ChannelRunner) -> None:
    ended = runner.do("forks").ended
    assert (ended.code, ended.fork_refusals) == (0, 3)


def test_memory_is_kept_and_the_sum_reaches_the_limit(runner: ChannelRunner) -> None:
    record = runner.do("remembers")
    assert (record.ended.code, record.ended.oom_kills, record.ended.peak_bytes, record.stdout) == (9, 1, 64 * 2**20, b"")
    assert runner.do("true").ended.oom_kills == 0


def test_messages_go_in_pieces_each_of_which_says_whether_more_follows(runner: ChannelRunner) -> None:
    sent = runner.do("says", stdin=InputFrom.NOTHING, channel=True).from_program
    assert sent[:3] == [b'\0{"a": "b"}', b"\0text", b"\7raw"]
    assert (sent[3][:1], sent[4][:1], sent[3][1:] + sent[4][1:]) == (b"\1", b"\0", b"x" * 100_000)


def test_messages_are_put_together_and_printed(runner: ChannelRunner) -> None:
    run = runner.start(["hears"], channel=True)
    for number, piece in enumerate((b"\1on", b"\0e", b"\0two")):
        runner.send(ToProgram(run=run, number=number, data=piece))
    record = runner.finish(run)
    assert (record.stdout, record.taken.messages) == (b"one\ntwo\n", 3)


def test_a_program_without_a_channel_cannot_send(runner: ChannelRunner) -> None:
    record = runner.do("says")
    assert record.ended.code == 1 and record.stderr.startswith(b"Send: this program has no channel")


def test_a_supervisor_asks_for_a_student_and_prints_what_it_prints(runner: ChannelRunner) -> None:
    run = runner.start(["asks"], channel=True)
    asked = json.loads(runner.wait_for(FromProgram).data[1:])
    assert asked == {"type": "student", "id": 1, "command": ["cat", "f"], "environment": ""}
    out = {"stderr": False, "data": base64.b64encode(b"out").decode()}
    err = {"stderr": True, "data": base64.b64encode(b"err").decode()}
    printed = [{"type": "output", **out}, {"type": "output", **err}]
    answers = [{"type": "started"}, *printed, {"type": "taken", "bytes": 15}, {"type": "end"}]
    for number, answer in enumerate(answers):
        runner.send(ToProgram(run=run, number=number, data=b"\0" + json.dumps({"id": 1, **answer}).encode()))
    record = runner.finish(run)
    given = [json.loads(message[1:]) for message in record.from_program[1:]]
    assert [base64.b64decode(message["data"]) for message in given] == [b"for the student", b""]
    assert (record.stdout, record.stderr) == (b"outasked\n", b"err")


def test_a_grading_job_runs_its_students_as_the_steps_say() -> None:
    supervisor = [
        AskStudent("cat; exit 3", stdin="to a student\n"),
        AskStudent(["nosuch"], id=2),
        WriteFile(".jobmanager/result.json", '{"result": "success"}'),
    ]
    with FakeEngineServer(["graders"], programs={"python3": supervisor}) as fake, JobManager(DockerHost(fake.url)) as manager:
        limits = Limits(wall_time_s=20, memory_mib=64)
        result = manager.submit(Task("graders", grader=Grader("true"), limits=limits)).result(60)
    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"to a student\n")
    assert b"there is no 'nosuch' that can be run" in result.stderr


# ---- files, volumes and refusals


def test_a_volume_is_told_by_its_device_which_is_another_once_it_was_empty(engine: Engine) -> None:
    first, second = started(engine, "one", VOLUME), started(engine, "two", VOLUME)
    wanted = VolumeDevice(path=b"/volumes/work", device=b"")
    (there,) = first.do("true", volumes=(wanted,)).started.volumes
    assert second.do("true", volumes=(there,)).started.volumes == (there,)
    for runner in (first, second):
        runner.close()
        engine.kill(runner.container)
    third = started(engine, "three", VOLUME)
    refused = third.do("true", volumes=(there,)).refused
    assert (refused.why, refused.what) == (RefusalReason.OTHER_DEVICE, b"/volumes/work")
    third.close()


def test_what_is_to_be_removed_is_gone_before_the_run(engine: Engine) -> None:
    runner = started(engine, "one", VOLUME)
    for name in (b"a/x.o", b"a/.x.o", b"b/y.o", b"b/y.c"):
        runner.send(Put(path=b"/volumes/work/" + name, mode=0o644, mtime_s=1))
    runner.send(Remove(base=b"/volumes/work", parts=(b"*", b"*.o")))
    assert runner.shell("ls /volumes/work/a; ls /volumes/work/b").stdout == b"y.c\n"
    runner.close()


def test_what_cannot_be_put_is_a_refusal_of_the_run_and_of_no_other(runner: ChannelRunner) -> None:
    runner.send(Put(path=b"/etc/f", mode=0o644, mtime_s=1))
    refused = runner.do("true").refused
    assert (refused.why, refused.errno, refused.what) == (RefusalReason.PUT_FAILED, 30, b"/etc/f")
    assert runner.do("true").ended.code == 0


REFUSED = [("nosuch", RefusalReason.NO_SUCH_PROGRAM), ("./d", RefusalReason.IS_A_FOLDER), ("./f", RefusalReason.NOT_EXECUTABLE)]


@pytest.mark.parametrize(("name", "why"), REFUSED)
def test_what_is_no_program_is_refused(runner: ChannelRunner, name: str, why: RefusalReason) -> None:
    runner.send(Put(kind=PutKind.FOLDER, path=b"/job/d", mode=0o755, mtime_s=1))
    runner.put({"f": b"echo no"})
    assert runner.do(name).refused.why is why


def test_a_file_that_may_be_executed_is_a_text(runner: ChannelRunner) -> None:
    runner.put({"run": b"#!/bin/sh\necho from the file\nexit 3\n"}, mode=0o755)
    for command in (["./run"], ["sh", "run"]):
        record = runner.do(*command)
        assert (record.stdout, record.ended.code) == (b"from the file\n", 3)


def test_a_file_in_pieces_that_are_sent_again_is_put_once(runner: ChannelRunner) -> None:
    pieces = [Put(path=b"/job/f", mode=0o644, mtime_s=1, offset=at, last=at == 4, data=b"abcdef"[at : at + 2]) for at in (0, 2, 4)]
    for piece in [*pieces[:2], *pieces, pieces[2]]:
        runner.send(piece)
    assert runner.shell("cat f").stdout == b"abcdef"


def test_output_comes_while_the_program_runs(runner: ChannelRunner) -> None:
    runner.start(["sh", "-c", "echo first; sleep 1000"])
    runner.wait_for(Started)
    assert runner.wait_for(OutputData).data == b"first\n"
