"""The tests' end of the submission: calls that go to its process in a student container, and what comes back.

That process is hostile. Whatever it sends is checked, and becomes a value, an exception of ours, or the end of the process.
"""

import math
import os
import select
import time
from contextlib import contextmanager

from . import place, shared_folder, values
from .errors import BadTest, BadValue, SubmissionEnded, SubmissionError, Unavailable
from .submission import Submission

_BOOT = (
    "import sys, types\n"
    "package = sys.modules['jobmanager_grading'] = types.ModuleType('jobmanager_grading')\n"
    "values = sys.modules['jobmanager_grading.values'] = package.values = types.ModuleType('jobmanager_grading.values')\n"
    "exec(sys.argv[1], values.__dict__)\n"
    "driver = {'__name__': 'jobmanager_driver'}\n"
    "exec(sys.argv[2], driver)\n"
    "driver['main']()\n"
)
_START_S = 60.0  # until Python runs, on a busy machine
_START_CPU_S = 1.0  # CPU seconds that a process may have beside those of its calls: for Python's start, and the import
_WHOLE_JOB_S = 10.0**6  # cut to the rest of the job's
_LONGEST_NAME, _LONGEST_TEXT = 200, 8000
_MOST_KINDS = 20
_MOST_PRINTED = 1024 * 1024  # bytes of a call, on one stream
_PIECE = 64 * 1024


class SubmissionProcesses:
    """Where the submission's processes come from: a kept student container, in which one runs at a time.

    Args:
        file: the submission's file, below the shared folder.
        is_shared: whether all tests have one process. Else each has its own, and finds the shared folder as it was handed in.
    """

    def __init__(self, file: "str", is_shared: "bool" = False) -> "None":
        self.is_shared = is_shared
        self.file = file
        self._container = Submission()
        self._process = None  # type: SubmissionProcess | None
        self._has_started = False

    def process(self, cpu_time_s: "float") -> "SubmissionProcess":
        """The one that runs, or a new one."""
        if self._process is None:
            limit_s = 0.0 if self.is_shared else cpu_time_s + _START_CPU_S
            process = SubmissionProcess(self._container, limit_s)
            try:
                process.begin(os.path.join(shared_folder.SHARED, self.file))
            except SubmissionEnded as error:
                if error.outcome == "error" and not self._has_started:  # not even the first one: it is not the submission's doing
                    raise Unavailable(f"Python cannot be started in the student container: {error.reason}") from None
                raise
            self._process, self._has_started = process, True
        return self._process

    def end_process(self) -> "None":
        """End the one that runs. The next test has a new one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def end_test(self) -> "None":
        """A test is over: its process ends, unless it is that of all tests."""
        if not self.is_shared:
            self.end_process()


@contextmanager
def _threads_can_be_started() -> "Iterator[None]":
    """Where they cannot, that is no fault of the submission."""
    try:
        yield
    except RuntimeError as error:
        raise Unavailable(f"the tests' own container is short of processes, and not the submission's: {error}") from None


class SubmissionProcess:
    """One process. It answers requests, one at a time, or it is ended."""

    def __init__(self, container: "Submission", cpu_time_s: "float") -> "None":
        command = ["python3", "-X", "utf8", "-I", "-c", _BOOT, _source("values"), _source("student_driver")]
        limits = {"cpu_time_s": cpu_time_s, "wall_time_s": _WHOLE_JOB_S, "folder": place.TASK}
        with _threads_can_be_started():
            self._program = container.start(command, **limits)
        self._input, self._output = self._program.stdin.fileno(), self._program.stdout.fileno()
        os.set_blocking(self._input, False)
        self._number = 0
        self._received = b""
        self.handles = {}  # type: dict[int, Handle]

    def begin(self, path: "str") -> "None":
        """Wait until it is there, put the submission's files back, and let it begin.

        All processes of the one before are dead by now, so nothing changes the files any more.
        """
        self._reply(time.monotonic() + _START_S, "it did not start")
        try:
            shared_folder.put_back()
        except OSError as error:
            self.give_up("crash", f"the submission's files cannot be put back: {error}")
        self.ask({"do": "begin", "path": path}, 0, _START_S)

    def ask(self, request: "dict[str, object]", cpu_time_s: "float", wall_time_s: "float") -> "dict[str, object]":
        """Send a request, and wait for its reply, whose fields are not checked yet.

        Raises:
            SubmissionEnded: there is no reply.
            BadValue: the request is too large.
        """
        try:
            data = values.line(dict(request, id=self._number + 1, cpu_time_s=cpu_time_s))
        except ValueError as error:
            raise BadValue(str(error)) from None
        self._number += 1
        until = time.monotonic() + wall_time_s
        late = f"there was no answer within {wall_time_s:g} s of wall clock"
        while data:
            self._wait(self._input, select.POLLOUT, until, late)
            try:
                data = data[os.write(self._input, data[:_PIECE]) :]
            except BlockingIOError:
                pass
            except OSError:
                self._give_up_as_it_ended()
        return self._reply(until, late)

    def kill(self) -> "StudentEnd":
        """End it; how it ended."""
        self._program.kill()
        with _threads_can_be_started():
            return self._program.wait()

    def give_up(self, outcome: "str", reason: "str") -> "NoReturn":
        """End it, as it did not do what it should. How it ended by itself counts for more."""
        end, limit = self.kill(), "wall" if outcome == "timeout" else None
        if end.outcome in ("timeout", "overflow"):
            outcome, reason, limit = end.outcome, end.text, end.limit
        raise SubmissionEnded(outcome, reason, limit)

    def _reply(self, until: "float", late: "str") -> "dict[str, object]":
        while b"\n" not in self._received:
            if len(self._received) > values.LARGEST:
                self.give_up("invalid", f"its answer is longer than {values.LARGEST // 1024} KiB")
            self._wait(self._output, select.POLLIN, until, late)
            piece = os.read(self._output, _PIECE)
            if not piece:
                self._give_up_as_it_ended()
            self._received += piece
        data, _, self._received = self._received.partition(b"\n")
        try:
            reply = values.message(data)
        except ValueError as error:
            self.give_up("invalid", f"its answer makes no sense: {error}")
        if type(reply.get("id")) is not int or reply["id"] != self._number:
            self.give_up("invalid", "its answer is none to what it was asked")
        return reply

    def _wait(self, fd: "int", event: "int", until: "float", late: "str") -> "None":
        poller = select.poll()
        poller.register(fd, event)
        left_s = until - time.monotonic()
        if left_s <= 0 or not poller.poll(math.ceil(left_s * 1000)):
            self.give_up("timeout", late)

    def _give_up_as_it_ended(self) -> "NoReturn":
        end = self._program.wait()
        if end.signal == "SIGPROF":
            raise SubmissionEnded("timeout", "it used up the CPU time of a call", "cpu")
        if end.outcome in ("success", "failed"):
            raise SubmissionEnded("failed", f"it ended before it answered: {end.text or f'exit code {end.exit_code}'}")
        raise SubmissionEnded(end.outcome, end.text, end.limit)


class Handle:
    """An object of the submission, which stays in its process. Methods are called there, and attributes read.

    Two handles are equal if they are the same: what the object's own ``__eq__`` says is never asked. It is neither true nor false.
    """

    def __init__(self, code: "SubmittedCode", process: "SubmissionProcess", number: "int", kind: "str") -> "None":
        self._code = code
        self._process = process
        self._number = number
        self._kind = kind

    def __getattr__(self, name: "str") -> "object":
        if name.startswith("_"):  # Python, pytest and copies ask for many
            raise AttributeError(name)
        return self._code._get(self, name)

    def __call__(self, *args: "object", **named: "object") -> "object":
        return self._code._call(self, "", args, named)

    def __bool__(self) -> "bool":
        raise TypeError(f"{self!r} is an object of the submission, neither true nor false: test a value of it")

    def __repr__(self) -> "str":
        return f"<{self._kind} of the submission>"


class SubmittedCode:
    """The submission, for a test.

    Attributes:
        stdin: what the next calls read from their standard input, text.
        stdout, stderr: what the last call printed, text: the first 64 KiB.
        cpu_time_s, wall_time_s: of a call. To be changed for the next ones.
    """

    def __init__(self, processes: "SubmissionProcesses", cpu_time_s: "float", wall_time_s: "float") -> "None":
        self._processes = processes
        self.stdin = ""
        self.stdout = self.stderr = ""
        self.cpu_time_s = cpu_time_s
        self.wall_time_s = wall_time_s

    def call(self, function: "str", *args: "object", **named: "object") -> "object":
        """Call a function or a class of the submission.

        Args:
            function: its name, also one with dots, such as ``Stack.of``; ``builtins.len`` is Python's own.
            args, named: values, or handles.

        Returns:
            A value (None, bool, int, float, str, bytes, list, tuple, set, frozenset, dict), or a `Handle` of anything else.

        Raises:
            SubmissionError: it raised an exception.
            SubmissionEnded: it did not answer.
            BadValue: an argument is of another kind.
        """
        return self._call(None, function, args, named)

    def get(self, name: "str") -> "object":
        """A variable of the submission."""
        return self._get(None, name)

    def run(self, *args: "str", stdin: "str | None" = None) -> "str":
        """Run the submission's file as a program, ``python3 FILE ARGS``, in this process. What it printed.

        Raises:
            SubmissionError: it raised an exception, also SystemExit with a code that is not 0.
            SubmissionEnded: it did not come to its end.
        """
        if stdin is not None:
            self.stdin = stdin
        self._ask({"do": "run", "args": [str(word) for word in args]})
        return self.stdout

    def keep(self, value: "object") -> "Handle":
        """Put a value into the submission's process: a list that it is to change in place."""
        handle = self._ask({"do": "keep", "value": self._sent(value)})
        assert isinstance(handle, Handle)
        return handle

    def value(self, handle: "Handle") -> "object":
        """The value of a list, a dict and so on in the submission's process, also of a subclass."""
        return self._ask({"do": "value", "of": self._sent(handle)})

    def raises(self, kind: "str | type[BaseException]") -> "RaisesInSubmission":
        """``with submission.raises("ValueError"):``, for a call that is to raise it, or an exception that stands on it.

        The name is that of a class of Python's, or of the submission's; or a class of Python's itself.
        """
        if isinstance(kind, type) and issubclass(kind, BaseException):
            kind = kind.__name__
        if not isinstance(kind, str) or not kind.isidentifier():
            raise BadTest(f"raises takes the name of one exception, such as 'ValueError', not {kind!r}")
        return RaisesInSubmission(kind)

    def __repr__(self) -> "str":
        return "<the submission>"

    def _get(self, of: "Handle | None", name: "str") -> "object":
        return self._ask({"do": "get", "of": self._sent(of), "name": name})

    def _call(self, of: "Handle | None", name: "str", args: "tuple[object, ...]", named: "dict[str, object]") -> "object":
        request = {"do": "call", "of": self._sent(of), "name": name, "args": self._sent(args), "named": self._sent(named)}
        return self._ask(request)

    def _sent(self, value: "object") -> "object":
        try:
            return values.encoded(value, self._sent_handle)
        except BadTest:
            raise
        except ValueError as error:
            raise BadValue(str(error)) from None

    def _sent_handle(self, value: "object") -> "object":
        if type(value) is not Handle:
            raise BadTest(f"only values and handles can be sent to the submission, no {type(value).__name__}")
        process = value._process
        if process.handles.get(value._number) is not value or process is not self._processes.process(self.cpu_time_s):
            raise BadValue(f"{value!r} is of a process that has ended")
        return ["handle", value._number, ""]

    def _ask(self, request: "dict[str, object]") -> "object":
        self.stdout = self.stderr = ""
        process = self._processes.process(self.cpu_time_s)
        try:
            reply = process.ask(dict(request, stdin=self.stdin), self.cpu_time_s, self.wall_time_s)
        except SubmissionEnded:
            self._processes.end_process()
            raise
        try:
            return self._checked(process, reply)
        except ValueError as error:
            self._processes.end_process()
            raise SubmissionEnded("invalid", f"its answer makes no sense: {error}") from None

    def _checked(self, process: "SubmissionProcess", reply: "dict[str, object]") -> "object":
        outputs = reply.get("outputs")
        if type(outputs) is not list or len(outputs) != 2:
            raise ValueError("there are no outputs")
        self.stdout, self.stderr = (_output(each) for each in outputs)
        if any(each[1] > _MOST_PRINTED for each in outputs):
            self._processes.end_process()
            raise SubmissionEnded("overflow", f"it printed more than {_MOST_PRINTED // 1024} KiB", "output")
        if "error" in reply:
            raise _error(reply["error"])
        return values.decoded(reply.get("value"), lambda found: self._handle(process, found))

    def _handle(self, process: "SubmissionProcess", data: "list[object]") -> "Handle":
        if len(data) != 3 or type(data[1]) is not int or type(data[2]) is not str:
            raise ValueError("there is no handle of this form")
        number, kind = data[1], data[2]
        if number not in process.handles:
            if len(process.handles) >= values.MOST_HANDLES:
                raise ValueError(f"it has more than {values.MOST_HANDLES} objects")
            process.handles[number] = Handle(self, process, number, kind[:_LONGEST_NAME])
        return process.handles[number]


class RaisesInSubmission:
    """A block in which a call of the submission is to raise an exception. ``error`` is the `SubmissionError` afterwards."""

    def __init__(self, kind: "str") -> "None":
        self._kind = kind
        self.error = None  # type: SubmissionError | None

    def __enter__(self) -> "RaisesInSubmission":
        return self

    def __exit__(self, kind: "object", error: "BaseException | None", _: "object") -> "bool":
        if error is None:
            raise AssertionError(f"the submission did not raise {self._kind}")
        if not isinstance(error, SubmissionError) or self._kind not in error.kinds:
            return False
        self.error = error
        return True


def _output(data: "object") -> "str":
    if type(data) is not list or len(data) != 2 or type(data[1]) is not int:
        raise ValueError("there is no output of this form")
    begin = values.decoded(data[0], _no_handle)
    if type(begin) is not bytes:
        raise ValueError("an output is bytes")
    return begin.decode("utf-8", "replace")


def _no_handle(found: "list[object]") -> "object":
    raise ValueError(f"there is a {found[0]} where none can be")


def _error(data: "object") -> "SubmissionError":
    if type(data) is not dict:
        raise ValueError("there is no exception of this form")
    kinds, text, shown = data.get("kinds"), data.get("text"), data.get("traceback")
    if type(kinds) is not list or not 0 < len(kinds) <= _MOST_KINDS or any(type(each) is not str for each in kinds):
        raise ValueError("an exception has the names of its classes")
    if type(text) is not str or type(shown) is not str:
        raise ValueError("an exception has a text and a traceback")
    return SubmissionError([each[:_LONGEST_NAME] for each in kinds], text[:_LONGEST_TEXT], shown[:_LONGEST_TEXT])


def _source(module: "str") -> "str":
    with open(os.path.join(place.LIBRARY, "jobmanager_grading", module + ".py"), encoding="utf-8") as file:
        return file.read()


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

    from .student import StudentEnd
