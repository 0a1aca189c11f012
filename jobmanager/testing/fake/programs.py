"""The programs of a fake container's image, a small part of busybox, and a few that only tests need."""

# ruff: noqa: ARG001 - every program is called with the same arguments

from __future__ import annotations

import math
import re
import signal
from collections.abc import Callable

from jobmanager.testing.fake.process import (
    FIRST_PID,
    PIECE,
    AllKilled,
    FileProblem,
    Killed,
    Pid1Died,
    Process,
    Sleep,
    Source,
    Steps,
    Writing,
    encoded,
)

Program = Callable[[Process, "list[str]"], Steps]

_ESCAPE = re.compile(rb"\\(0[0-7]{1,3}|[0-7]{1,3}|x[0-9a-fA-F]{1,2}|[abefnrtv\\])")
_NAMED = {b"a": 7, b"b": 8, b"e": 27, b"f": 12, b"n": 10, b"r": 13, b"t": 9, b"v": 11, b"\\": 92}
_CONVERSION = re.compile(rb"%(-?0?[0-9]*)(?:\.([0-9]+))?([sdiuxXocb%])")
_SIZE = re.compile(r"([0-9]+)([kKMG]?)B?")
_HARMLESS = (signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH)
_STOPPING = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


def true(process: Process, args: list[str]) -> Steps:
    yield from ()
    return 0


def false(process: Process, args: list[str]) -> Steps:
    yield from ()
    return 1


def echo(process: Process, args: list[str]) -> Steps:
    options = args[0][1:] if args and re.fullmatch("-[neE]+", args[0]) else ""
    text = encoded(" ".join(args[1 if options else 0 :]))
    if "e" in options:
        text = _unescaped(text)
    yield from process.stdout.write(text + (b"" if "n" in options else b"\n"))
    return 0


def printf(process: Process, args: list[str]) -> Steps:
    if not args:
        return (yield from process.fail("printf: usage: printf FORMAT [ARG]...", 2))
    pattern, words = encoded(args[0]), [encoded(word) for word in args[1:]]
    while True:
        before = len(words)
        yield from process.stdout.write(_formatted(pattern, words))
        if not words or len(words) == before:
            return 0


def cat(process: Process, args: list[str]) -> Steps:
    code = 0
    for name in args or ["-"]:
        try:
            source = process.stdin if name == "-" else process.open(name)
        except FileProblem as problem:
            code = yield from process.fail(_reading(name, "cat", problem))
            continue
        while piece := (yield from source.read()):
            yield from process.stdout.write(piece)
    return code


def head(process: Process, args: list[str]) -> Steps:
    option, amount, names = _head_options(args)
    for name in names or ["-"]:
        try:
            source = process.stdin if name == "-" else process.open(name)
        except FileProblem as problem:
            return (yield from process.fail(f"head: {name}: {problem}"))
        yield from _first_bytes(process, source, amount) if option == "c" else _first_lines(process, source, amount)
    return 0


def wc(process: Process, args: list[str]) -> Steps:
    counts = {"-l": 0, "-w": 0, "-c": 0}
    in_word = False
    while piece := (yield from process.stdin.read()):
        counts["-l"] += piece.count(b"\n")
        counts["-w"] += len(piece.split()) - int(in_word and not piece[:1].isspace())
        counts["-c"] += len(piece)
        in_word = not piece[-1:].isspace()
    wanted = [counts[option] for option in args if option in counts] or list(counts.values())
    yield from process.say(" ".join(str(count) for count in wanted) + "\n")
    return 0


def dd(process: Process, args: list[str]) -> Steps:
    options = dict(word.partition("=")[::2] for word in args)
    block, count = _size(options.get("bs", "512")), int(options.get("count", "1"))
    read, code = 0, 0
    files, target = process.machine.files, process.path(options.get("of", "/dev/stdout"))
    try:
        source = process.open(options["if"]) if "if" in options else process.stdin
        sink = process.create(options["of"], append=False) if "of" in options else process.stdout
        while read < block * count and (piece := (yield from source.read(min(block * count - read, PIECE)))):
            read += len(piece)
            yield from sink.write(piece)
    except FileProblem as problem:
        read = -(-read // block) * block
        code = yield from process.fail(f"dd: error writing '{options.get('of', 'standard output')}': {problem}")
    stored = files.find(target)
    written = read if stored is None else len(stored.data)
    return (yield from process.fail(f"{_records(read, block)} in\n{_records(written, block)} out", code))


def seq(process: Process, args: list[str]) -> Steps:
    first, last = (1, int(args[0])) if len(args) == 1 else (int(args[0]), int(args[-1]))
    for start in range(first, last + 1, 1000):
        yield from process.say("".join(f"{number}\n" for number in range(start, min(start + 1000, last + 1))))
    return 0


def sleep(process: Process, args: list[str]) -> Steps:
    try:
        seconds = sum(_duration(word) for word in args)
    except ValueError:
        return (yield from process.fail(f"sleep: invalid number '{args[0]}'"))
    yield Sleep(seconds)
    return 0


def yes(process: Process, args: list[str]) -> Steps:
    line = encoded(" ".join(args) or "y") + b"\n"
    piece = line * max(1, PIECE // len(line))
    while True:
        yield from process.stdout.write(piece)


def mkdir(process: Process, args: list[str]) -> Steps:
    code = 0
    for name in [word for word in args if not word.startswith("-")]:
        try:
            process.machine.files.make_folder(process.path(name), parents="-p" in args)
        except FileProblem as problem:
            code = yield from process.fail(f"mkdir: can't create directory '{name}': {problem}")
    return code


def rm(process: Process, args: list[str]) -> Steps:
    code = 0
    options = "".join(word for word in args if word.startswith("-"))
    for name in [word for word in args if not word.startswith("-")]:
        try:
            process.machine.files.remove(process.path(name))
        except FileProblem as problem:
            if "f" not in options:
                code = yield from process.fail(f"rm: can't remove '{name}': {problem}")
    return code


def touch(process: Process, args: list[str]) -> Steps:
    code = 0
    for name in args:
        try:
            process.create(name, append=True)
        except FileProblem as problem:
            code = yield from process.fail(f"touch: {name}: {problem}")
    return code


def chmod(process: Process, args: list[str]) -> Steps:
    mode = args[0] if args else ""
    for name in args[1:]:
        file = process.machine.files.find(process.path(name))
        if file is None:
            return (yield from process.fail(f"chmod: {name}: No such file or directory"))
        file.mode = int(mode, 8) if mode.isdigit() else file.mode & ~0o111 if "-x" in mode else file.mode | 0o111
    yield from ()
    return 0


def ls(process: Process, args: list[str]) -> Steps:
    files = process.machine.files
    everything = any("a" in word or "A" in word for word in args if word.startswith("-"))
    for name in [word for word in args if not word.startswith("-")] or ["."]:
        path = process.path(name)
        if files.find(path) is not None:
            yield from process.say(name + "\n")
        elif files.is_folder(path):
            names = [entry for entry in files.children(path) if everything or not entry.startswith(".")]
            yield from process.say("".join(f"{entry}\n" for entry in names))
        else:
            return (yield from process.fail(f"ls: {name}: No such file or directory"))
    return 0


def pwd(process: Process, args: list[str]) -> Steps:
    yield from process.say(process.cwd + "\n")
    return 0


def kill(process: Process, args: list[str]) -> Steps:
    number, targets = _signal_and_targets(args)
    if number is None:
        return (yield from process.fail(f"sh: bad signal name '{args[0].lstrip('-')}'"))
    code = 0
    for target in targets:
        if target == "-1" and process.pid == FIRST_PID:  # all but PID 1 and the caller: nobody is left
            code = yield from process.fail("sh: can't kill pid -1: No such process")
            continue
        if target in ("-1", "0") and number not in (0, *_HARMLESS):
            raise AllKilled(number)
        if target == str(process.pid):
            yield from _taken(number)
        elif target != "1":  # the kernel keeps signals from inside away from PID 1
            code = yield from process.fail(f"sh: can't kill pid {target}: No such process")
    return code


def test(process: Process, args: list[str]) -> Steps:
    yield from ()
    try:
        return 0 if _true(process, args) else 1
    except ValueError:
        return (yield from process.fail("sh: bad number", 2))
    except IndexError:
        return (yield from process.fail("sh: argument expected", 2))


def bracket(process: Process, args: list[str]) -> Steps:
    if not args or args[-1] != "]":
        return (yield from process.fail("sh: missing ]", 2))
    return (yield from test(process, args[:-1]))


def fake_oom(process: Process, args: list[str]) -> Steps:
    """The kernel kills the program for its memory."""
    process.machine.oom_kills += 1
    yield from ()
    raise Killed(signal.SIGKILL)


def fake_forks(process: Process, args: list[str]) -> Steps:
    """So many forks are refused."""
    process.machine.fork_refusals += int(args[0]) if args else 1
    return (yield from process.fail("sh: can't fork: Resource temporarily unavailable"))


def fake_pid1_oom(process: Process, args: list[str]) -> Steps:
    """The kernel kills PID 1 for the container's memory."""
    process.machine.oom_kills += 1
    yield from ()
    raise Pid1Died


PROGRAMS: dict[str, Program] = {
    "[": bracket,
    "cat": cat,
    "chmod": chmod,
    "dd": dd,
    "echo": echo,
    "fake-forks": fake_forks,
    "fake-oom": fake_oom,
    "fake-pid1-oom": fake_pid1_oom,
    "false": false,
    "head": head,
    "kill": kill,
    "ls": ls,
    "mkdir": mkdir,
    "printf": printf,
    "pwd": pwd,
    "rm": rm,
    "seq": seq,
    "sleep": sleep,
    "test": test,
    "touch": touch,
    "true": true,
    "wc": wc,
    "yes": yes,
}


def _records(size: int, block: int) -> str:
    return f"{size // block}+{int(size % block > 0)} records"


def _reading(name: str, program: str, problem: FileProblem) -> str:
    if str(problem) == "Is a directory":
        return f"{program}: read error: {problem}"
    return f"{program}: can't open '{name}': {problem}"


def _unescaped(text: bytes) -> bytes:
    def byte(found: re.Match[bytes]) -> bytes:
        code = found.group(1)
        if code in _NAMED:
            return bytes((_NAMED[code],))
        return bytes(((int(code[1:], 16) if code[:1] == b"x" else int(code, 8)) & 255,))

    return _ESCAPE.sub(byte, text)


def _formatted(pattern: bytes, words: list[bytes]) -> bytes:
    """printf's output; takes the words that it uses."""

    def value(found: re.Match[bytes]) -> bytes:
        width, precision, kind = found.groups()
        if kind == b"%":
            return b"%"
        word = words.pop(0) if words else b""
        if kind in b"sb":
            text = _unescaped(word) if kind == b"b" else word
            return b"%*s" % (_width(width), text if precision is None else text[: int(precision)])
        if kind == b"c":
            return word[:1]
        return (b"%" + width + kind.replace(b"u", b"d")) % int(word or b"0", 0)

    out, at = b"", 0
    for found in _CONVERSION.finditer(pattern):
        out += _unescaped(pattern[at : found.start()]) + value(found)
        at = found.end()
    return out + _unescaped(pattern[at:])


def _width(text: bytes) -> int:
    return int(text) if text not in (b"", b"-") else 0


def _head_options(args: list[str]) -> tuple[str, int, list[str]]:
    option, amount, names = "n", 10, []
    words = iter(args)
    for word in words:
        if word[:2] in ("-c", "-n"):
            option, amount = word[1], _size(word[2:] or next(words, ""))
        elif word[:1] == "-" and word[1:].isdigit():
            amount = int(word[1:])
        else:
            names.append(word)
    return option, amount, names


def _first_bytes(process: Process, source: Source, amount: int) -> Writing:
    while amount > 0 and (piece := (yield from source.read(min(amount, PIECE)))):
        amount -= len(piece)
        yield from process.stdout.write(piece)


def _first_lines(process: Process, source: Source, amount: int) -> Writing:
    while amount > 0 and (piece := (yield from source.read())):
        lines = piece.splitlines(keepends=True)[:amount]
        amount -= sum(line.endswith(b"\n") for line in lines)
        yield from process.stdout.write(b"".join(lines))


def _size(text: str) -> int:
    found = _SIZE.fullmatch(text)
    if found is None:
        return 0
    return int(found.group(1)) * {"": 1, "k": 2**10, "K": 2**10, "M": 2**20, "G": 2**30}[found.group(2)]


def _duration(word: str) -> float:
    if word in ("inf", "infinity"):
        return math.inf
    return float(word.rstrip("smhd")) * {"m": 60, "h": 3600, "d": 86400}.get(word[-1:], 1)


def _signal_and_targets(args: list[str]) -> tuple[int | None, list[str]]:
    if not args or not args[0].startswith("-"):
        return signal.SIGTERM, args
    name, rest = (args[1], args[2:]) if args[0] == "-s" and len(args) > 1 else (args[0][1:], args[1:])
    if rest[:1] == ["--"]:
        rest = rest[1:]
    if name.isdigit():
        return int(name), rest
    number = getattr(signal, "SIG" + name.upper().removeprefix("SIG"), None)
    return (int(number), rest) if number is not None else (None, rest)


def _taken(number: int) -> Writing:
    """A process takes a signal."""
    if number in _STOPPING:
        yield Sleep(math.inf)
    if number != 0 and number not in _HARMLESS:
        raise Killed(number)
    yield from ()


def _true(process: Process, words: list[str]) -> bool:
    files = process.machine.files
    if not words:
        return False
    if words[0] == "!":
        return not _true(process, words[1:])
    if len(words) == 1:
        return words[0] != ""
    if len(words) == 2:
        path = process.path(words[1])
        file = files.find(path)
        answers: dict[str, Callable[[], bool]] = {
            "-e": lambda: files.exists(path),
            "-f": lambda: file is not None,
            "-d": lambda: files.is_folder(path),
            "-s": lambda: file is not None and bool(file.data),
            "-r": lambda: files.exists(path),
            "-x": lambda: files.is_folder(path) or (file is not None and bool(file.mode & 0o111)),
            "-w": lambda: files.is_writable(path),
            "-n": lambda: words[1] != "",
            "-z": lambda: words[1] == "",
        }
        return answers[words[0]]() if words[0] in answers else False
    left, operator, right = words[0], words[1], words[2]
    if operator in ("=", "==", "!="):
        return (left == right) == (operator != "!=")
    a, b = int(left), int(right)
    return {"-eq": a == b, "-ne": a != b, "-lt": a < b, "-le": a <= b, "-gt": a > b, "-ge": a >= b}.get(operator, False)


