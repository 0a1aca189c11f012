"""Performs the steps of a program (``jobmanager.testing.steps``)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from jobmanager.testing import steps as public
from jobmanager.testing.fake.files import FileProblem
from jobmanager.testing.fake.process import (
    PIECE,
    Await,
    Died,
    Effect,
    Exited,
    MessageEffect,
    OutputEffect,
    Pause,
    Pid1Died,
    Process,
    Running,
    encoded,
    fail,
)
from jobmanager.testing.steps import ProgramStep

_KILLED = 9
_MESSAGE_PIECE = 60_000
_BREATH_S = 0.001  # steps that repeat and do nothing outside let others run for so long
_WORDS_OF_A_LINK = ("started", "taken", "output", "end")
Performing = Generator[Effect, None, None]


def perform(process: Process, steps: Sequence[ProgramStep]) -> Running:
    """A program of steps."""
    for step in steps:
        yield from _PERFORMERS[type(step)](process, step)
    return 0


def _print(process: Process, step: public.Print) -> Performing:  # noqa: ARG001
    yield OutputEffect(step.stderr, encoded(step.data))


def _print_file(process: Process, step: public.PrintFile) -> Performing:
    try:
        content = process.machine.files.read(process.path(step.path))
    except FileProblem as problem:
        raise Exited((yield from fail(f"{step.path}: {problem}"))) from None
    yield OutputEffect(False, bytes(content))


def _echo(process: Process, step: public.Echo) -> Performing:
    lines = 0
    while step.lines is None or lines < step.lines:
        yield from awaiting(lambda: process.stdin.is_ready)
        piece = process.stdin.take() if step.lines is None else process.stdin.take_line()
        if not piece:
            return
        lines += piece.endswith(b"\n")
        yield OutputEffect(False, piece)


def _sleep(process: Process, step: public.Sleep) -> Performing:  # noqa: ARG001
    yield Pause(step.seconds)


def _burn(process: Process, step: public.Burn) -> Performing:  # noqa: ARG001
    yield Pause(step.seconds, burns=True)


def _exit(process: Process, step: public.Exit) -> Performing:  # noqa: ARG001
    yield from ()
    raise Exited(step.code)


def _die(process: Process, step: public.Die) -> Performing:  # noqa: ARG001
    yield from ()
    raise Died(step.number)


def _use_memory(process: Process, step: public.UseMemory) -> Performing:
    yield from ()
    if not process.machine.take_memory(step.mib * 2**20):
        raise Pid1Died if step.kills_pid_1 else Died(_KILLED)


def _fork(process: Process, step: public.Forks) -> Performing:
    machine = process.machine
    refused = max(0, step.count - (machine.most_processes - 1))  # it is one itself
    machine.fork_refusals += refused
    if refused:
        yield OutputEffect(True, b"can't fork: Resource temporarily unavailable\n")


def _write_file(process: Process, step: public.WriteFile) -> Performing:
    try:
        process.machine.files.put(process.path(step.path), encoded(step.content), step.mode)
    except FileProblem as problem:
        raise Exited((yield from fail(f"{step.path}: {problem}"))) from None


def _fill_workspace(process: Process, step: public.FillWorkspace) -> Performing:
    process.machine.files.fill(process.machine.workspace, inodes=step.inodes)
    yield from ()


def _repeat(process: Process, step: public.Repeat) -> Performing:
    times = 0
    while step.times is None or times < step.times:
        times += 1
        is_idle = True
        for effect in perform(process, step.steps):
            is_idle = False
            yield effect
        if is_idle:
            yield Pause(_BREATH_S, burns=True)


# ---- the channel


def _send(process: Process, step: public.Send) -> Performing:
    yield from _need_channel(process, "Send")
    if not step.is_whole:
        yield MessageEffect(encoded(step.message))  # type: ignore[arg-type]
        return
    yield from _sent(step.message)


def _receive(process: Process, step: public.Receive) -> Performing:
    yield from _need_channel(process, "Receive")
    for _ in range(step.count):
        yield OutputEffect(False, (yield from _next_message(process)).rstrip(b"\n") + b"\n")


def _ask_student(process: Process, step: public.AskStudent) -> Performing:
    yield from _need_channel(process, "AskStudent")
    yield from _sent({"type": "student", "id": step.id, "command": step.command, "environment": step.environment})
    while True:
        message = json.loads((yield from _next_message(process)))
        if message.get("id") != step.id or message.get("type") not in _WORDS_OF_A_LINK:
            continue
        if message["type"] == "started":
            yield from _student_input(step)
        elif message["type"] == "output":
            yield OutputEffect(message["stderr"], base64.b64decode(message["data"]))
        elif message["type"] == "end":
            if message.get("outcome") == "error":
                yield OutputEffect(True, encoded(f"{message.get('text')}\n"))
            return


def _student_input(step: public.AskStudent) -> Performing:
    data = encoded(step.stdin)
    for at in range(0, len(data), PIECE):
        yield from _sent({"type": "stdin", "id": step.id, "data": base64.b64encode(data[at : at + PIECE]).decode()})
    yield from _sent({"type": "stdin", "id": step.id, "data": ""})


def _need_channel(process: Process, step: str) -> Performing:
    if process.mail is None:
        raise Exited((yield from fail(f"{step}: this program has no channel: only a grading container's has one")))


def _sent(message: str | bytes | Mapping[str, Any]) -> Performing:
    data = json.dumps(message).encode() if isinstance(message, Mapping) else encoded(message)
    for at in range(0, len(data), _MESSAGE_PIECE) or (0,):
        is_last = at + _MESSAGE_PIECE >= len(data)
        yield MessageEffect((b"\0" if is_last else b"\1") + data[at : at + _MESSAGE_PIECE])


def _next_message(process: Process) -> Generator[Effect, None, bytes]:
    mail = process.mail
    assert mail is not None
    while (message := mail.take_whole()) is None:
        came = mail.received
        yield from awaiting(lambda came=came: mail.received > came)  # type: ignore[misc]
    return message


def awaiting(condition: Callable[[], object]) -> Performing:
    """Nothing until this holds."""
    if not condition():
        yield Await(condition)


_PERFORMERS: Mapping[type, Callable[[Process, Any], Performing]] = {
    public.Print: _print,
    public.PrintFile: _print_file,
    public.Echo: _echo,
    public.Sleep: _sleep,
    public.Burn: _burn,
    public.Exit: _exit,
    public.Die: _die,
    public.UseMemory: _use_memory,
    public.Forks: _fork,
    public.WriteFile: _write_file,
    public.FillWorkspace: _fill_workspace,
    public.Send: _send,
    public.Receive: _receive,
    public.AskStudent: _ask_student,
    public.Repeat: _repeat,
}
