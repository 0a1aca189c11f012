"""Runs programs in a fake container: the fake engine's small shell, scripts, and the programs of ``programs``."""

# ruff: noqa: ARG002 - every builtin is called with the same arguments

from __future__ import annotations

import ast
import fnmatch
import math
import operator
import re
import signal
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace

from jobmanager.testing.fake import grammar
from jobmanager.testing.fake.process import (
    BREATH_S,
    PIECE,
    Burn,
    Effect,
    FileProblem,
    Killed,
    Machine,
    Pipe,
    Process,
    Sink,
    Source,
    Steps,
    Writing,
    encoded,
)
from jobmanager.testing.fake.programs import PROGRAMS, Program

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
_TURNS = 20  # a loop lets others run after so many rounds
_TURN_S = 0.002
_MEMORY = 16 * 2**20
_QUIET_SIGNALS = (signal.SIGINT, signal.SIGPIPE)
_BINARIES = ("/bin/", "/usr/bin/")
_SHELL_ONLY = frozenset((":", ".", "break", "cd", "continue", "eval", "exec", "exit", "export", "return", "set", "shift", "unset"))
_SHELL_ONLY |= frozenset(("trap", "umask", "ulimit", "wait", "read", "command", "if", "while", "until", "for", "case", "{", "!"))
_OPERATIONS: Mapping[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda a, b: int(a / b),
    ast.Mod: lambda a, b: a - b * int(a / b),
}


class _Exit(Exception):
    """A shell ends."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _LoopExit(Exception):
    """``break`` or ``continue``."""

    def __init__(self, *, again: bool) -> None:
        super().__init__(again)
        self.again = again


def can_run(process: Process, name: str) -> bool:
    """What ``command -v`` says to a list command's first word."""
    return name in _SHELL_ONLY or _find(process, name) is not None


def run(process: Process, words: list[str]) -> Steps:
    """``exec`` of these words: the process becomes that program. Raises Killed."""
    found = _find(process, words[0])
    if found is not None:
        return (yield from found(process, words[1:]))
    if "/" in words[0] and process.machine.files.exists(process.path(words[0])):
        return (yield from process.fail(f"sh: {words[0]}: Permission denied", _NOT_EXECUTABLE))
    return (yield from process.fail(f"sh: {words[0]}: not found", _NOT_FOUND))


def run_child(process: Process, words: list[str]) -> Steps:
    """Run a program as a child of a shell: a deadly signal becomes an exit code, and the shell says which."""
    try:
        return (yield from run(process.child(), words))
    except FileProblem as problem:
        return (yield from process.fail(write_error(words[0], problem)))
    except Killed as killed:
        if type(killed) is not Killed:
            raise
        if killed.number not in _QUIET_SIGNALS:
            yield from process.stderr.write(encoded((signal.strsignal(killed.number) or "") + "\n"))
        return 128 + killed.number


def write_error(program: str, problem: FileProblem) -> str:
    """How busybox's programs say it, each in its own way."""
    said = {"head": "head: standard output: I/O error", "yes": f"yes: (null): {problem}"}
    return said.get(program, f"{program}: write error: {problem}")


def _find(process: Process, name: str) -> Program | None:
    """The program of that name or path."""
    if "/" not in name:
        return _program(process, name)
    path = process.path(name)
    file = process.machine.files.find(path)
    if file is not None:
        return _script(process, name, bytes(file.data)) if file.mode & 0o111 else None
    folder, _, base = path.rpartition("/")
    return _program(process, base) if folder + "/" in _BINARIES else None


def _program(process: Process, name: str) -> Program | None:
    if name in process.machine.scripts:
        script = process.machine.scripts[name]
        return lambda inner, args: sh(inner, ["-c", script, name, *args])
    return _OWN_PROGRAMS.get(name) or PROGRAMS.get(name)


def _script(process: Process, name: str, content: bytes) -> Program | None:
    """A file with ``#!``: its interpreter with the file as its argument; a file without is one for sh."""
    first_line = content.partition(b"\n")[0].decode("utf-8", "surrogateescape")
    interpreter = first_line[2:].split(maxsplit=1) if first_line.startswith("#!") else ["/bin/sh"]
    found = _find(process, interpreter[0]) if interpreter else None
    if found is None:
        return None
    program = found
    return lambda inner, args: program(inner, [*interpreter[1:], name, *args])


def sh(process: Process, args: list[str]) -> Steps:
    """A shell: ``sh [-e] -c script [name [argument ...]]`` or ``sh file``."""
    options = ""
    while args and args[0].startswith("-") and len(args[0]) > 1:
        options += args[0][1:]
        args = args[1:]
    if "c" in options:
        script, words = args[0] if args else "", args[1:] or ["sh"]
    else:
        words = args or ["sh"]
        try:
            script = yield from _script_text(process, args)
        except FileProblem:
            return (yield from process.fail(f"sh: can't open '{args[0]}': No such file or directory", 2))
    shell = Shell(process, words)
    shell.errexit = "e" in options
    return (yield from shell.main(script))


def _script_text(process: Process, args: list[str]) -> Generator[Effect, None, str]:
    source = process.open(args[0]) if args else process.stdin
    script = b""
    while piece := (yield from source.read()):
        script += piece
    return script.decode("utf-8", "surrogateescape")


def env(process: Process, args: list[str]) -> Steps:
    """``env``: tell the environment, or run a program in a changed one."""
    words = list(args)
    while words and "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        process.env[name] = value
    if not words:
        yield from process.say("".join(f"{name}={value}\n" for name, value in process.env.items()))
        return 0
    if _find(process, words[0]) is None:
        return (yield from process.fail(f"env: can't execute '{words[0]}': No such file or directory", _NOT_FOUND))
    return (yield from run(process, words))


_OWN_PROGRAMS: dict[str, Program] = {"sh": sh, "env": env}


class Shell:
    """One shell process."""

    def __init__(self, process: Process, words: list[str]) -> None:
        self._process = process
        self._words = words
        self._variables: dict[str, str] = {}
        self._status = 0
        self._status_of_substitution = 0
        self._tested = 0  # inside how many conditions: there set -e does not apply
        self.errexit = False

    def main(self, script: str) -> Steps:
        """Run a script to its end."""
        try:
            return (yield from self._execute(grammar.parse(script)))
        except grammar.ShellSyntaxError as error:
            return (yield from self._process.fail(f"sh: syntax error: {error}", 2))
        except _Exit as done:
            return done.code

    # ---- nodes

    def _execute(self, node: grammar.Node) -> Steps:
        self._status = yield from self._run_node(node)
        return self._status

    def _run_node(self, node: grammar.Node) -> Steps:
        if isinstance(node, grammar.Simple):
            return (yield from self._simple(node))
        if isinstance(node, grammar.Sequence):
            return (yield from self._sequence(node))
        if isinstance(node, grammar.AndOr):
            return (yield from self._and_or(node))
        if isinstance(node, grammar.Not):
            return int((yield from self._test(node.command)) == 0)
        if isinstance(node, grammar.PipelineNode):
            return (yield from self._pipeline(node))
        if isinstance(node, grammar.If):
            return (yield from self._if(node))
        if isinstance(node, grammar.LoopNode):
            return (yield from self._loop(node))
        if isinstance(node, grammar.Each):
            return (yield from self._each(node))
        return (yield from self._group(node))

    def _sequence(self, node: grammar.Sequence) -> Steps:
        code = 0
        for command in node.commands:
            code = yield from self._execute(command)
        return code

    def _test(self, node: grammar.Node) -> Steps:
        self._tested += 1
        try:
            return (yield from self._execute(node))
        finally:
            self._tested -= 1

    def _and_or(self, node: grammar.AndOr) -> Steps:
        code = yield from self._test(node.left)
        if (code == 0) != (node.operator == "&&"):
            return code
        return (yield from self._execute(node.right))

    def _if(self, node: grammar.If) -> Steps:
        if (yield from self._test(node.condition)) == 0:
            return (yield from self._execute(node.then))
        return (yield from self._execute(node.otherwise)) if node.otherwise is not None else 0

    def _loop(self, node: grammar.LoopNode) -> Steps:
        if _idle(node.condition) and _idle(node.body) and not node.until:
            yield Burn(math.inf)
        code, turns = 0, 0
        while ((yield from self._test(node.condition)) == 0) != node.until:
            turns += 1
            if turns % _TURNS == 0:
                yield Burn(_TURN_S)
            try:
                code = yield from self._execute(node.body)
            except _LoopExit as left:
                if not left.again:
                    return 0
        return code

    def _each(self, node: grammar.Each) -> Steps:
        code = 0
        for value in (yield from self._expanded(node.words)):
            self._assign(node.name, value)
            try:
                code = yield from self._execute(node.body)
            except _LoopExit as left:
                if not left.again:
                    return 0
        return code

    def _group(self, node: grammar.GroupNode) -> Steps:
        shell = self._subshell() if node.subshell else self
        before = shell._process
        try:
            shell._process = yield from self._redirected(shell._process, node.redirects)
        except FileProblem as problem:
            return (yield from self._process.fail(f"sh: {problem}"))
        try:
            return (yield from shell._execute(node.body))
        except _Exit as done:
            if not node.subshell:
                raise
            return done.code
        finally:
            before.cwd = shell._process.cwd
            shell._process = before

    def _pipeline(self, node: grammar.PipelineNode) -> Steps:
        source = self._process.stdin
        pipes = []
        for command in node.commands[:-1]:
            pipe = Pipe()
            pipe.written_by(self._subshell(replace(self._process, stdin=source, stdout=pipe))._alone(command))
            pipes.append(pipe)
            source = pipe
        last = self._subshell(replace(self._process, stdin=source))
        try:
            return (yield from last._alone(node.commands[-1]))
        finally:
            for pipe in reversed(pipes):
                pipe.close()

    def _alone(self, node: grammar.Node) -> Steps:
        try:
            return (yield from self._execute(node))
        except _Exit as done:
            return done.code

    def _subshell(self, process: Process | None = None) -> Shell:
        base = process or self._process
        shell = Shell(replace(base, env=dict(base.env)), self._words)
        shell._variables = dict(self._variables)
        shell._status, shell._tested, shell.errexit = self._status, self._tested, self.errexit
        return shell

    # ---- simple commands

    def _simple(self, node: grammar.Simple) -> Steps:
        self._status_of_substitution = 0
        words = yield from self._expanded(node.words)
        assigned = {}
        for name, word in node.assignments:
            assigned[name] = yield from self._value(word)
        try:
            process = yield from self._redirected(self._process, node.redirects)
        except FileProblem as problem:
            return self._checked((yield from self._process.fail(f"sh: {problem}")))
        if not words:
            for name, value in assigned.items():
                self._assign(name, value)
            return self._checked(self._status_of_substitution)
        if assigned:
            process = replace(process, env={**process.env, **assigned})
        return self._checked((yield from self._command(process, words)))

    def _command(self, process: Process, words: list[str]) -> Steps:
        builtin = _BUILTINS.get(words[0])
        try:
            if builtin is not None:
                return (yield from builtin(self, process, words[1:]))
            if words[0] in _IN_SHELL:
                return (yield from PROGRAMS[words[0]](process, words[1:]))
        except FileProblem as problem:
            return (yield from process.fail(f"sh: write error: {problem}"))
        return (yield from run_child(process, words))

    def _checked(self, code: int) -> int:
        if code != 0 and self.errexit and not self._tested:
            raise _Exit(code)
        return code

    def _redirected(
        self, process: Process, redirects: tuple[grammar.Redirect, ...]
    ) -> Generator[Effect, None, Process]:
        for redirect in redirects:
            name = yield from self._value(redirect.target)
            process = replace(process)
            if redirect.operator in (">&", "<&"):
                sink = {"1": process.stdout, "2": process.stderr}.get(name)
            elif redirect.operator == "<":
                process.stdin = _opened(process, name)
                continue
            else:
                sink = _created(process, name, append=redirect.operator == ">>")
            if sink is None or redirect.fd not in (1, 2):
                raise FileProblem(f"{name}: Bad file descriptor")
            if redirect.fd == 1:
                process.stdout = sink
            else:
                process.stderr = sink
        return process

    # ---- builtins: each is given the process with the command's redirections

    def _exit(self, process: Process, args: list[str]) -> Steps:
        yield from ()
        if args and not args[0].isdigit():
            raise _Exit((yield from process.fail(f"sh: exit: line 0: Illegal number: {args[0]}", 2)))
        raise _Exit(int(args[0]) & 255 if args else self._status)

    def _cd(self, process: Process, args: list[str]) -> Steps:
        name = args[0] if args else self._lookup("HOME")
        path = self._process.path(name)
        if not process.machine.files.is_folder(path):
            return (yield from process.fail(f"sh: cd: line 0: can't cd to {name}: No such file or directory", 2))
        self._process.cwd = path
        self._process.env["PWD"] = path
        return 0

    def _export(self, process: Process, args: list[str]) -> Steps:
        yield from ()
        for word in args:
            name, given, value = word.partition("=")
            self._process.env[name] = value if given else self._lookup(name)
            self._variables.pop(name, None)
        return 0

    def _unset(self, process: Process, args: list[str]) -> Steps:
        yield from ()
        for name in args:
            self._process.env.pop(name, None)
            self._variables.pop(name, None)
        return 0

    def _exec(self, process: Process, args: list[str]) -> Steps:
        if not args:
            self._process = process
            return 0
        raise _Exit((yield from run(process, args)))

    def _set(self, process: Process, args: list[str]) -> Steps:
        yield from ()
        for word in args:
            if word[:1] in ("-", "+") and "e" in word:
                self.errexit = word[0] == "-"
        return 0

    def _eval(self, process: Process, args: list[str]) -> Steps:
        return (yield from self._execute(grammar.parse(" ".join(args))))

    def _shift(self, process: Process, args: list[str]) -> Steps:
        yield from ()
        self._words = self._words[:1] + self._words[1 + int(args[0] if args else 1) :]
        return 0

    def _read(self, process: Process, args: list[str]) -> Steps:
        line = b""
        while (byte := (yield from process.stdin.read(1))) not in (b"", b"\n"):
            line += byte
        names = [word for word in args if not word.startswith("-")] or ["REPLY"]
        values = line.decode("utf-8", "surrogateescape").split(None, len(names) - 1)
        for at, name in enumerate(names):
            self._assign(name, values[at].rstrip(" \t") if at < len(values) else "")
        return int(byte == b"")

    def _command_v(self, process: Process, args: list[str]) -> Steps:
        if args[:1] != ["-v"]:
            return (yield from self._command(process, args))
        if len(args) < 2 or not can_run(process, args[1]):
            return _NOT_FOUND
        yield from process.say(args[1] + "\n")
        return 0

    def _break(self, process: Process, args: list[str]) -> Steps:
        yield from ()
        raise _LoopExit(again=False)

    def _continue(self, process: Process, args: list[str]) -> Steps:
        yield from ()
        raise _LoopExit(again=True)

    def _nothing(self, process: Process, args: list[str]) -> Steps:
        yield from ()
        return 0

    # ---- words

    def _expanded(self, words: tuple[grammar.Word, ...]) -> Generator[Effect, None, list[str]]:
        found: list[str] = []
        for word in words:
            plain = grammar.literal(word)
            if plain is not None and not _GLOB.search(plain):
                found.append(plain)
            else:
                found += yield from self._fields(word)
        return found

    def _fields(self, word: grammar.Word) -> Generator[Effect, None, list[str]]:
        fields: list[str] = []
        field: str | None = None
        pattern = False
        for kind, text, quoted in word:
            if kind == "text":
                field = (field or "") + text
                pattern = pattern or (not quoted and _GLOB.search(text) is not None)
                continue
            if quoted and text == "@":
                first, *others = self._words[1:] or [""]
                fields += [(field or "") + first, *others][:-1]
                field = others[-1] if others else (field or "") + first if self._words[1:] or field else None
                continue
            value = yield from self._part(kind, text)
            if quoted:
                field = (field or "") + value
                continue
            field = _split(value, field, fields)
        if field is not None:
            fields += self._matching(field) if pattern else [field]
        return fields

    def _value(self, word: grammar.Word) -> Generator[Effect, None, str]:
        value = ""
        for kind, text, _ in word:
            value += text if kind == "text" else (yield from self._part(kind, text))
        return value

    def _part(self, kind: str, text: str) -> Generator[Effect, None, str]:
        if kind == "var":
            name, _, default = text.partition(":-")
            return self._lookup(name) or default
        if kind == "cmd":
            return (yield from self._substituted(text))
        names = re.compile(r"\$?[A-Za-z_][A-Za-z0-9_]*")
        return str(_sum(names.sub(lambda found: self._lookup(found.group().lstrip("$")) or "0", text)))

    def _substituted(self, script: str) -> Generator[Effect, None, str]:
        collected = _Substitution(self._process.machine)
        shell = self._subshell(replace(self._process, stdout=collected))
        self._status_of_substitution = yield from shell._alone(grammar.parse(script))
        return collected.data.decode("utf-8", "surrogateescape").rstrip("\n")

    def _lookup(self, name: str) -> str:
        if name in self._variables:
            return self._variables[name]
        if name.isdigit():
            return self._words[int(name)] if int(name) < len(self._words) else ""
        if name in ("@", "*"):
            return " ".join(self._words[1:])
        special = {"?": self._status, "$": self._process.pid, "#": len(self._words) - 1}
        return str(special[name]) if name in special else self._process.env.get(name, "")

    def _assign(self, name: str, value: str) -> None:
        target = self._process.env if name in self._process.env else self._variables
        target[name] = value

    def _matching(self, pattern: str) -> list[str]:
        folder, slash, last = pattern.rpartition("/")
        names = self._process.machine.files.children(self._process.path(folder or ("/" if slash else ".")))
        hits = [name for name in fnmatch.filter(names, last) if last.startswith(".") or not name.startswith(".")]
        return [folder + slash + name for name in hits] or [pattern]


class _Substitution:
    """What a command substitution printed. More than its limit is more than the container's memory."""

    def __init__(self, machine: Machine) -> None:
        self.data = bytearray()
        self._machine = machine

    def write(self, data: bytes) -> Writing:
        before = len(self.data)
        self.data += data
        if len(self.data) > _MEMORY:
            self._machine.oom_kills += 1
            raise Killed(signal.SIGKILL)
        if before // PIECE // 16 != len(self.data) // PIECE // 16:
            yield Burn(BREATH_S)


_GLOB = re.compile(r"[*?\[]")
_IN_SHELL = frozenset(("[", "echo", "false", "kill", "printf", "pwd", "test", "true"))
_BUILTINS: dict[str, Callable[[Shell, Process, list[str]], Steps]] = {
    ":": Shell._nothing,
    "break": Shell._break,
    "cd": Shell._cd,
    "command": Shell._command_v,
    "continue": Shell._continue,
    "eval": Shell._eval,
    "exec": Shell._exec,
    "exit": Shell._exit,
    "export": Shell._export,
    "read": Shell._read,
    "set": Shell._set,
    "shift": Shell._shift,
    "trap": Shell._nothing,
    "umask": Shell._nothing,
    "unset": Shell._unset,
    "wait": Shell._nothing,
}


def _idle(node: grammar.Node) -> bool:
    return isinstance(node, grammar.Simple) and [grammar.literal(word) for word in node.words] in ([":"], ["true"])


def _opened(process: Process, name: str) -> Source:
    try:
        return process.open(name)
    except FileProblem as problem:
        raise FileProblem(f"can't open {name}: {_short(problem)}") from None


def _created(process: Process, name: str, *, append: bool) -> Sink:
    try:
        return process.create(name, append=append)
    except FileProblem as problem:
        raise FileProblem(f"can't create {name}: {problem}") from None


def _short(problem: FileProblem) -> str:
    """ash shortens this one when it opens a file to read."""
    return "no such file" if str(problem) == "No such file or directory" else str(problem)


def _split(value: str, field: str | None, fields: list[str]) -> str | None:
    """Split an unquoted value into fields; returns the one that is still open."""
    pieces = value.split()
    if value[:1].isspace() and field is not None:
        fields.append(field)
        field = None
    for piece in pieces[:-1]:
        fields.append((field or "") + piece)
        field = None
    if pieces:
        field = (field or "") + pieces[-1]
        if value[-1:].isspace():
            fields.append(field)
            return None
    return field


def _sum(text: str) -> int:
    try:
        return _evaluated(ast.parse(text.strip() or "0", mode="eval").body)
    except (SyntaxError, ZeroDivisionError, KeyError) as error:
        raise grammar.ShellSyntaxError(f"arithmetic: {text.strip()}") from error


def _evaluated(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluated(node.operand)
    if isinstance(node, ast.BinOp):
        return _OPERATIONS[type(node.op)](_evaluated(node.left), _evaluated(node.right))
    raise KeyError(type(node))


__all__ = ["Shell", "can_run", "run", "run_child", "write_error"]
