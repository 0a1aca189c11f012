"""Runs in a student container: has the submission do what the tests ask for, and says what came of it.

It comes as a word of its command, so no file of the shared folder is read before it runs. From the first call on this process is
the submission's as much as it is ours: whatever it says is data for the other end, which checks it (`submitted_code`).

Requests and replies are lines (`values`). They go over copies of the standard streams. The submission has streams of its own: an
input for each call, and two files, of which each reply has the beginning.
"""

import builtins
import os
import signal
import sys

from jobmanager_grading import values

KEPT = 64 * 1024  # bytes of an output that a reply has
_LONGEST_NAME, _LONGEST_TEXT = 200, 8000  # characters of an exception's parts


class StudentDriver:
    """The submission's end."""

    def __init__(self) -> "None":
        self._requests = os.fdopen(os.dup(0), "rb")
        self._replies = os.fdopen(os.dup(1), "wb", buffering=0)
        self._outputs = [_output(fd) for fd in (1, 2)]
        self._path = ""
        self._module = None  # type: object
        self._handles = {}  # type: dict[int, object]  # by number; each is kept, so that no two have one address
        self._numbers = {}  # type: dict[int, int]  # by address

    def serve(self) -> "None":
        """Answer requests until there are no more."""
        self._replies.write(values.line({"id": 0}))
        for data in self._requests:
            asked = values.message(data)
            reply = self._reply(asked)
            reply["id"] = asked["id"]
            self._replies.write(values.line(reply))

    def _reply(self, asked: "dict[str, object]") -> "dict[str, object]":
        signal.setitimer(signal.ITIMER_PROF, asked["cpu_time_s"])  # type: ignore[arg-type]  # SIGPROF ends it, if it is left alone
        try:
            reply = {"value": values.encoded(self._result(asked), self._handle)}  # type: dict[str, object]
            values.line(reply)  # it may be too large
        except BaseException as error:  # noqa: BLE001 - also what ends a program
            reply = {"error": _described(error)}
        signal.setitimer(signal.ITIMER_PROF, 0)
        reply["outputs"] = [output.take() for output in self._outputs]
        return reply

    def _result(self, asked: "dict[str, object]") -> "object":
        if asked["do"] == "begin":
            self._begin(str(asked["path"]))
            return None
        _give_input(str(asked["stdin"]))
        if asked["do"] == "run":
            self._run(asked["args"])  # type: ignore[arg-type]
            return None
        if asked["do"] == "keep":
            return _Kept(values.decoded(asked["value"], self._kept))
        if asked["do"] == "value":
            return _plain(values.decoded(asked["of"], self._kept))
        found = self._found(values.decoded(asked["of"], self._kept), asked["name"])
        if asked["do"] == "get":
            return found
        args, named = values.decoded(asked["args"], self._kept), values.decoded(asked["named"], self._kept)
        return found(*args, **named)  # type: ignore[operator, misc, arg-type]

    def _begin(self, path: "str") -> "None":
        """The shared folder is ready. Nothing in it was read before."""
        self._path = path
        os.chdir(os.path.dirname(path))
        sys.path.insert(0, os.path.dirname(path))
        sys.argv = [path]

    def _found(self, of: "object", name: "object") -> "object":
        """An attribute, or the object itself if the name is empty. ``None`` is the submission's module, imported by then."""
        if of is None:
            of = builtins if str(name).startswith("builtins.") else self._imported()
            name = str(name)[len("builtins.") :] if of is builtins else name
        for part in str(name).split(".") if name else ():
            of = getattr(of, part)
        return of

    def _imported(self) -> "object":
        if self._module is None:
            name = os.path.splitext(os.path.basename(self._path))[0]
            with open(self._path, "rb") as file:
                code = compile(file.read(), self._path, "exec")
            module = sys.modules[name] = type(sys)(name)
            module.__file__ = self._path
            exec(code, module.__dict__)
            self._module = module
        return self._module

    def _run(self, args: "list[str]") -> "None":
        import runpy

        sys.argv = [self._path, *args]
        try:
            runpy.run_path(self._path, run_name="__main__")
        except SystemExit as end:
            if end.code not in (None, 0):
                raise

    def _handle(self, value: "object") -> "object":
        if type(value) is _Kept:
            value = value.value
        number = self._numbers.get(id(value))
        if number is None:
            number = len(self._handles) + 1
            if number > values.MOST_HANDLES:
                raise ValueError(f"there are more than {values.MOST_HANDLES} objects")
            self._handles[number], self._numbers[id(value)] = value, number
        return ["handle", number, str(type(value).__name__)[:_LONGEST_NAME]]

    def _kept(self, data: "list[object]") -> "object":
        return self._handles[data[1]]  # type: ignore[index]


class _Kept:
    """A value that is to become a handle, whatever its type."""

    def __init__(self, value: "object") -> "None":
        self.value = value


class _Output:
    """A file in the place of a standard stream."""

    def __init__(self, file: "int") -> "None":
        self._file = file

    def take(self) -> "list[object]":
        """What it begins with, and how much it has. It is empty then."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BaseException:  # noqa: BLE001 - the submission may have put anything there
                pass
        written = os.fstat(self._file).st_size
        begin = os.pread(self._file, KEPT, 0)
        os.ftruncate(self._file, 0)
        return [values.encoded(begin, str), written]


def _output(fd: "int") -> "_Output":
    file = _nameless_file(os.O_APPEND)
    os.dup2(file, fd)
    return _Output(file)


def _nameless_file(flags: "int") -> "int":
    """A new file without a name, in memory. The module tempfile would take longer to import than all of this."""
    path = f"/tmp/.jobmanager-{os.getpid()}-{os.urandom(8).hex()}"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o600)
    os.remove(path)
    return file


def _give_input(text: "str") -> "None":
    """What the call reads from its standard input."""
    file = _nameless_file(0)
    with os.fdopen(os.dup(file), "wb") as stream:
        stream.write(text.encode("utf-8", "surrogateescape"))
    os.lseek(file, 0, os.SEEK_SET)
    os.dup2(file, 0)
    os.close(file)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115


def _plain(value: "object") -> "object":
    """A value of a subclass, as one of the type that it stands on."""
    for kind in (bool, int, float, str, bytes, list, tuple, set, frozenset, dict):
        if kind in type(value).__mro__:
            return kind(value)  # type: ignore[call-overload, arg-type]
    raise TypeError(f"an object of {type(value).__name__} is no value")


def _described(error: "BaseException") -> "dict[str, object]":
    kinds = [str(kind.__name__)[:_LONGEST_NAME] for kind in type(error).__mro__[:-1]]
    try:
        text = str(error)[:_LONGEST_TEXT]
    except BaseException:  # noqa: BLE001 - it is the submission's
        text = "(its text cannot be had)"
    try:
        import traceback

        place = error.__traceback__
        while place is not None and place.tb_frame.f_globals is globals():  # the driver's own lines
            place = place.tb_next
        shown = "".join(traceback.format_exception(type(error), error, place, limit=-20))[-_LONGEST_TEXT:]
    except BaseException:  # noqa: BLE001 - it is the submission's
        shown = ""
    return {"kinds": kinds[:20], "text": text, "traceback": shown}


def main() -> "None":
    """Serve, and then end, whatever threads there are."""
    try:
        StudentDriver().serve()
    finally:
        os._exit(0)
