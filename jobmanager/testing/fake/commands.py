"""Texts as programs of a fake container: a few commands, one after the other, and nothing that a shell would expand."""

from __future__ import annotations

import math
import posixpath
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from jobmanager.model._utf8 import from_utf8
from jobmanager.runner.frames import RefusalReason
from jobmanager.testing.fake.files import FileProblem
from jobmanager.testing.fake.performing import awaiting, perform
from jobmanager.testing.fake.process import (
    PIECE,
    Died,
    Exited,
    OutputEffect,
    Pause,
    Pid1Died,
    Process,
    Running,
    encoded,
    fail,
)
from jobmanager.testing.steps import ProgramStep

NOT_UNDERSTOOD = 127
_TOKEN = re.compile(
    r"""(?P<space>[ \t]+)
    | (?P<end>&&|\|\||;|\n)
    | (?P<word>(?: [^\s;&|<>()$`'"\\*?\[\]{}~\#] | \$\$ | \\[^\n] | '[^']*' | "[^"$`\\]*" )+)""",
    re.VERBOSE,
)
_PART = re.compile(r"""'([^']*)'|"([^"]*)"|\\(.)|([^'"\\]+)""", re.DOTALL)
_BIN = ("/bin", "/usr/bin", "/usr/local/bin")
_OWN_PID = "$$"
_OF_THE_SHELL = ("exec", "exit", "kill")  # they end the text itself
_SIGNALS_FROM = 128  # in exit codes of shells
Words = Sequence[str]
Command = Callable[[Process, Words], Running]  # with the words after its name


@dataclass(frozen=True, slots=True)
class NotUnderstood:
    """A text that is no sequence of simple commands."""

    text: str


@dataclass(frozen=True, slots=True)
class Simple:
    """A command, and what stands between it and the one before."""

    after: str  # ``;`` always, ``&&`` or ``||``
    words: tuple[str, ...]


def found(process: Process, argv: Words) -> RefusalReason | None:
    """Why these words cannot be run; None: they can."""
    if not argv or not argv[0]:
        return RefusalReason.NO_SUCH_PROGRAM
    if _given(process, argv) is not None or _command(argv[0]) is not None:
        return None
    files, path = process.machine.files, process.path(argv[0])
    if "/" not in argv[0] or not files.exists(path):
        return RefusalReason.NO_SUCH_PROGRAM
    file = files.find(path)
    if file is None:
        return RefusalReason.IS_A_FOLDER
    return None if file.mode & 0o111 else RefusalReason.NOT_EXECUTABLE


def run(process: Process, argv: Words) -> Running:
    """The program that these words name, whatever ends it."""
    try:
        return (yield from _run(process, argv))
    except RecursionError:
        return (yield from fail(f"{argv[0]}: it runs itself", NOT_UNDERSTOOD))


def _run(process: Process, argv: Words) -> Running:
    program = _given(process, argv)
    if program is None:
        command = _command(argv[0])
        if command is not None:
            return (yield from command(process, argv[1:]))
        return (yield from _file(process, argv[0]))
    if isinstance(program, str):
        return (yield from _text(process, program))
    return (yield from perform(process, program))


def _given(process: Process, argv: Words) -> str | tuple[ProgramStep, ...] | None:
    """The program that a test has given for these words."""
    programs = process.machine.programs
    if not programs:
        return None
    whole = argv[2] if len(argv) == 3 and tuple(argv[:2]) == ("sh", "-c") else " ".join(argv)
    return programs.get(whole, programs.get(argv[0]))


def _command(name: str) -> Command | None:
    folder, base = posixpath.split(name)
    return COMMANDS.get(base) if not folder or folder in _BIN else None


def _text(process: Process, text: str) -> Running:
    commands = simple_commands(text)
    if isinstance(commands, NotUnderstood):
        return (yield from _not_understood(text, commands.text))
    code = 0
    for command in commands:
        if (command.after == "&&" and code) or (command.after == "||" and not code):
            continue
        if found(process, command.words) is RefusalReason.NO_SUCH_PROGRAM:
            return (yield from _not_understood(text, command.words[0]))
        code = yield from (_run if command.words[0] in _OF_THE_SHELL else _child)(process, command.words)
    return code


def _child(process: Process, argv: Words) -> Running:
    """A program that a text runs, whose end is not the end of the text."""
    try:
        return (yield from _run(process, argv))
    except Exited as exited:
        return exited.code
    except Died as died:
        return _SIGNALS_FROM + died.number


def _not_understood(text: str, what: str) -> Running:
    shown = text if len(text) <= 60 else text[:60] + "..."
    advice = "give its steps: FakeEngineServer(programs={" + repr(shown) + ": [Print(...), ...]}), from jobmanager.testing.steps"
    return (yield from fail(f"the fake engine has no {what.strip() or what!r}: {advice}", NOT_UNDERSTOOD))


@lru_cache(maxsize=1024)
def simple_commands(text: str) -> tuple[Simple, ...] | NotUnderstood:
    """The commands of a text."""
    commands, after, words, at = list[Simple](), ";", list[str](), 0
    text = text.strip()
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            return NotUnderstood(re.split(r"\s", text[at:], maxsplit=1)[0][:20])
        at = token.end()
        if token["word"]:
            words.append(_unquoted(token["word"]))
        elif token["end"]:
            if words:
                commands.append(Simple(after, tuple(words)))
            elif token["end"] not in ("\n", ";"):
                return NotUnderstood(token["end"])
            if words or after == ";":
                after = token["end"].replace("\n", ";")
            words = []
    if words:
        commands.append(Simple(after, tuple(words)))
    return tuple(commands)


def _unquoted(word: str) -> str:
    return "".join(part[part.lastindex or 0] for part in _PART.finditer(word))


# ---- the commands


def _true(process: Process, words: Words) -> Running:  # noqa: ARG001
    yield from ()
    return 0


def _false(process: Process, words: Words) -> Running:  # noqa: ARG001
    yield from ()
    return 1


def _echo(process: Process, words: Words) -> Running:  # noqa: ARG001
    has_end = tuple(words[:1]) != ("-n",)
    yield OutputEffect(False, encoded(" ".join(words if has_end else words[1:]) + ("\n" if has_end else "")))
    return 0


def _sleep(process: Process, words: Words) -> Running:  # noqa: ARG001
    seconds = _number(words[0]) if len(words) == 1 else None
    if seconds is None:
        return (yield from fail(f"sleep: invalid number {' '.join(words)!r}"))
    yield Pause(seconds)
    return 0


def _exit(process: Process, words: Words) -> Running:  # noqa: ARG001
    code = words[0] if words else "0"
    if not code.isdecimal():
        raise Exited((yield from fail(f"exit: illegal number: {code}", 2)))
    raise Exited(int(code) & 255)


def _exec(process: Process, words: Words) -> Running:
    raise Exited((yield from _run(process, words)) if words else 0)


def _cat(process: Process, words: Words) -> Running:
    code = 0
    for name in words or ("-",):
        if name in ("-", "/dev/stdin"):
            while True:
                yield from awaiting(lambda: process.stdin.is_ready)
                if not (piece := process.stdin.take()):
                    break
                yield OutputEffect(False, piece)
            continue
        try:
            content = bytes(process.machine.files.read(process.path(name)))
        except FileProblem as problem:
            code = yield from fail(f"cat: can't open '{name}': {problem}")
        else:
            yield OutputEffect(False, content)
    return code


def _head(process: Process, given: Words) -> Running:
    words = tuple(given)
    if words[:1] != ("-c",) or not words[1:2] or not words[1].isdecimal() or words[2:] not in ((), ("/dev/zero",)):
        return (yield from fail("head: the fake engine's takes -c, a number of bytes, and perhaps /dev/zero", NOT_UNDERSTOOD))
    left = int(words[1])
    if words[2:]:
        for at in range(0, left, PIECE):
            yield OutputEffect(False, bytes(min(PIECE, left - at)))
        return 0
    while left:
        yield from awaiting(lambda: process.stdin.is_ready)
        if not (piece := process.stdin.take(min(PIECE, left))):
            break
        left -= len(piece)
        yield OutputEffect(False, piece)
    return 0


def _wc(process: Process, words: Words) -> Running:
    if tuple(words) != ("-c",):
        return (yield from fail("wc: the fake engine's takes -c only", NOT_UNDERSTOOD))
    count = 0
    while True:
        yield from awaiting(lambda: process.stdin.is_ready)
        if not (piece := process.stdin.take()):
            break
        count += len(piece)
    yield OutputEffect(False, b"%d\n" % count)
    return 0


def _cp(process: Process, words: Words) -> Running:
    if len(words) != 2:
        return (yield from fail("cp: the fake engine's takes a file and its copy", NOT_UNDERSTOOD))
    files, (source, copy) = process.machine.files, map(process.path, words)
    try:
        files.put(copy, bytes(files.read(source)), 0o644)
    except FileProblem as problem:
        return (yield from fail(f"cp: can't copy '{words[0]}': {problem}"))
    return 0


def _yes(process: Process, words: Words) -> Running:  # noqa: ARG001
    line = encoded((" ".join(words) or "y") + "\n")
    lines = line * (PIECE // len(line) + 1)
    while True:
        yield OutputEffect(False, lines)


def _env(process: Process, words: Words) -> Running:
    if words:
        return (yield from fail("env: the fake engine's takes no words", NOT_UNDERSTOOD))
    yield OutputEffect(False, encoded("".join(f"{name}={value}\n" for name, value in process.env.items())))
    return 0


def _pwd(process: Process, words: Words) -> Running:  # noqa: ARG001
    yield OutputEffect(False, encoded(process.cwd + "\n"))
    return 0


def _kill(process: Process, words: Words) -> Running:  # noqa: ARG001
    name = words[0] if len(words) == 2 and words[1] == _OWN_PID else ""
    number = _signal_number(name[1:]) if name.startswith("-") else None
    if number is None:
        return (yield from fail("kill: the fake engine's takes a signal and $$ only, such as: kill -KILL $$", 2))
    raise Died(number)


def _sh(process: Process, words: Words) -> Running:
    if len(words) >= 2 and words[0] == "-c":
        return (yield from _text(process, words[1]))
    if len(words) != 1 or words[0].startswith("-"):
        return (yield from fail("sh: the fake engine's takes -c and a text, or a file", NOT_UNDERSTOOD))
    return (yield from _file(process, words[0]))


def _file(process: Process, name: str) -> Running:
    """A file's text as a program."""
    try:
        content = bytes(process.machine.files.read(process.path(name)))
    except FileProblem as problem:
        return (yield from fail(f"sh: can't open '{name}': {problem}", NOT_UNDERSTOOD))
    text = from_utf8(content)
    return (yield from _text(process, text.partition("\n")[2] if text.startswith("#!") else text))


def _mkdir(process: Process, words: Words) -> Running:
    code = 0
    for name in words:
        if name == "-p":
            continue
        try:
            process.machine.files.make_folder(process.path(name), parents="-p" in words)
        except FileProblem as problem:
            code = yield from fail(f"mkdir: can't create directory '{name}': {problem}")
    return code


def _touch(process: Process, words: Words) -> Running:
    code = 0
    files = process.machine.files
    for name in words:
        try:
            if not files.exists(process.path(name)):
                files.create(process.path(name))
        except FileProblem as problem:
            code = yield from fail(f"touch: {name}: {problem}")
    return code


def _rm(process: Process, words: Words) -> Running:
    options = {word for word in words if word.startswith("-")}
    code = 0
    for name in words:
        path = process.path(name)
        if name in options or (not process.machine.files.exists(path) and any("f" in option for option in options)):
            continue
        try:
            process.machine.files.remove(path)
        except FileProblem as problem:
            code = yield from fail(f"rm: can't remove '{name}': {problem}")
    return code


def _ls(process: Process, words: Words) -> Running:
    path = process.path(words[0] if words else ".")
    if len(words) > 1 or not process.machine.files.exists(path):
        return (yield from fail(f"ls: {' '.join(words)}: No such file or directory"))
    names = process.machine.files.children(path) if process.machine.files.is_folder(path) else [words[0]]
    yield OutputEffect(False, encoded("".join(f"{name}\n" for name in names if not name.startswith("."))))
    return 0


def _fake_oom(process: Process, words: Words) -> Running:  # noqa: ARG001
    """The kernel kills the program for its memory."""
    process.machine.oom_kills += 1
    yield from ()
    raise Died(signal.SIGKILL)


def _fake_forks(process: Process, words: Words) -> Running:
    """So many forks are refused."""
    process.machine.fork_refusals += int(words[0]) if words and words[0].isdecimal() else 1
    return (yield from fail("can't fork: Resource temporarily unavailable"))


def _fake_pid1_oom(process: Process, words: Words) -> Running:  # noqa: ARG001
    """The kernel kills PID 1 for the container's memory."""
    process.machine.oom_kills += 1
    yield from ()
    raise Pid1Died


COMMANDS: Mapping[str, Command] = {
    ":": _true,
    "cat": _cat,
    "cp": _cp,
    "echo": _echo,
    "env": _env,
    "exec": _exec,
    "exit": _exit,
    "fake-forks": _fake_forks,
    "fake-oom": _fake_oom,
    "fake-pid1-oom": _fake_pid1_oom,
    "false": _false,
    "head": _head,
    "kill": _kill,
    "ls": _ls,
    "mkdir": _mkdir,
    "pwd": _pwd,
    "rm": _rm,
    "sh": _sh,
    "sleep": _sleep,
    "touch": _touch,
    "true": _true,
    "wc": _wc,
    "yes": _yes,
}


def _number(word: str) -> float | None:
    if word in ("inf", "infinity"):
        return math.inf
    try:
        seconds = float(word)
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def _signal_number(name: str) -> int | None:
    if name.isdecimal():
        return int(name) if 0 < int(name) <= 64 else None
    found = signal.Signals.__members__.get("SIG" + name.removeprefix("SIG"))
    return None if found is None else int(found)
