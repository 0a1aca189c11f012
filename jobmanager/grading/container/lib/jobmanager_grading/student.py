"""Student containers for graders: start a program in one, carry its standard streams, learn how it ended."""

import os
import select
import socket

from . import messages, place
from .errors import BadRequest, BadValue, CutOff, Unavailable
from .text import cleaned

NOT_STARTED, OVERFLOW, TIMEOUT, CUT_OFF = 251, 252, 253, 254  # exit codes for other endings than the program's own
UNREAD = 141  # its output is read no more: the exit code that a shell has for SIGPIPE
_CODES = {"error": NOT_STARTED, "overflow": OVERFLOW, "timeout": TIMEOUT}
_PIECE = 48 * 1024
_MAX_UNACKNOWLEDGED = 512 * 1024  # bytes of its standard input on their way
_SHOWN = 100  # bytes of an output, in a traceback


class StudentEnd:
    """How a student's program ended.

    Attributes:
        exit_code: its own, or 128 and the number of the signal that ended it, as a shell tells it; else 251 could not be started,
            252 overflow, 253 timeout, 254 anything else, or 141 where it was killed because its output was read no more.
        outcome: ``success``, ``failed``, ``timeout``, ``overflow``, ``error``, ``crash`` or ``killed``.
        limit: the limit that ended it: ``cpu``, ``wall``, ``memory``, ``output``, ``processes``, ``workspace``, ``shm``, or
            ``budget`` where programs before it had used up what it asked for; None for any other end.
        signal: the name of the signal that ended it, such as ``SIGSEGV``; None for any other end.
        text: the reason, where there is one.
        stdout, stderr: what it wrote (bytes), unless that went elsewhere.
        output_cut: whether it wrote more than that: past the task's ``output_kib``.
        cpu_time_s, wall_time_s, peak_memory_mib: what it used; None where unknown.
    """

    def __init__(self, end: "dict[str, object]") -> "None":
        self.outcome = str(end.get("outcome"))
        self.text = str(end.get("text") or "")
        self.cpu_time_s = end.get("cpu_time_s")
        self.wall_time_s = end.get("wall_time_s")
        self.peak_memory_mib = end.get("peak_memory_mib")
        self.stdout = b""
        self.stderr = b""
        self.output_cut = end.get("output_cut") is True
        self.limit = end.get("limit")  # type: str | None # type: ignore[assignment]
        self.signal = end.get("signal")  # type: str | None # type: ignore[assignment]
        own = end.get("exit_code") if self.signal is None else _shell_code(self.signal)
        ended_by_itself = self.outcome in ("success", "failed") and isinstance(own, int)
        self.exit_code = own if ended_by_itself else _CODES.get(self.outcome, CUT_OFF)  # type: int # type: ignore[assignment]

    def __repr__(self) -> "str":
        parts = [f"outcome={self.outcome!r}", f"exit_code={self.exit_code!r}"]
        parts += [f"text={self.text!r}"] if self.text else []
        parts += [f"{name}={_shortened(getattr(self, name))}" for name in ("stdout", "stderr")]
        return "StudentEnd({})".format(", ".join(parts))

    def unread(self) -> "StudentEnd":
        """The same, for a program that was killed because its output was read no more, as SIGPIPE does: that is no error."""
        if self.outcome == "killed":
            self.exit_code, self.text = UNREAD, ""
        return self


def _shell_code(name: "str") -> "int":
    import signal

    try:
        return 128 + int(getattr(signal, name, None) or name.rpartition(" ")[2])  # "signal 34" is one without a name
    except ValueError:
        return CUT_OFF


class Killer:
    """Kills a student's program when it is called, also from a signal handler."""

    def __init__(self) -> "None":
        self.wanted, self._write = os.pipe()
        os.set_blocking(self._write, False)

    def __call__(self, *_: "object") -> "None":
        try:
            os.write(self._write, b"k")
        except BlockingIOError:
            pass  # it was called often enough

    def close(self) -> "None":
        os.close(self.wanted)
        os.close(self._write)


def run_student(command: "str | list[str]", stdin: "bytes | str" = b"", **limits: "object") -> "StudentEnd":
    """Run a command in a student container and wait for its end; what it writes comes back with it.

    Args:
        command: words, or one text that is split into words as a shell would split it. No shell runs it: for pipes and the
            like, ``["sh", "-c", "..."]``. It begins in the folder that the caller is in.
        stdin: its standard input.
        limits: as of `request`.
    """
    stdout, stderr = [], []  # type: tuple[list[bytes], list[bytes]]
    end = capture_student(request(command, **limits), stdin, stdout, stderr)  # type: ignore[arg-type]
    end.stdout, end.stderr = b"".join(stdout), b"".join(stderr)
    return end


def capture_student(asked: "dict[str, object]", stdin: "bytes | str", stdout: "list[bytes]", stderr: "list[bytes]") -> "StudentEnd":
    """The same, with two lists that collect its outputs; they may be the same list."""
    data = stdin.encode("utf-8") if isinstance(stdin, str) else stdin
    return converse(asked, _InputData(data), lambda is_stderr, piece: (stderr if is_stderr else stdout).append(piece))


def carry_student(
    asked: "dict[str, object]", stdin: "int | None", stdout: "int | None", stderr: "int | None", killer: "Killer | None" = None
) -> "StudentEnd":
    """The same with three open files as its streams, live; None: no input, or the output is dropped."""
    aims = [stdout, stderr]

    def write(is_stderr: "bool", piece: "bytes") -> "None":
        aim = aims[is_stderr]
        if aim is not None:
            _write_all(aim, piece)

    return converse(asked, _InputData(b"") if stdin is None else _InputFile(stdin), write, killer)


def request(
    command: "str | list[str]",
    environment: "str" = "",
    cpu_time_s: "float" = 0,
    wall_time_s: "float" = 0,
    memory_mib: "int" = 0,
    share_network: "bool" = False,
    env: "dict[str, str] | None" = None,
    folder: "str | None" = None,
    teardown: "str" = "",
) -> "dict[str, object]":
    """A request for a student container. 0 and ``""``: as the task has it.

    Args:
        environment: the container's environment.
        cpu_time_s, wall_time_s: seconds. memory_mib: MiB.
        share_network: whether it may use the student network that the task opens.
        env: environment variables.
        folder: where the command begins; None: the current folder. Of the grader's, a student has ``/task/student`` only.
        teardown: a command that is run after it in any case; the exit code stays that of the first one.

    Raises:
        BadRequest: a value makes no sense.
    """
    for name, value in (("cpu_time_s", cpu_time_s), ("wall_time_s", wall_time_s), ("memory_mib", memory_mib)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise BadRequest(f"{name} must be a number that is not negative, not {value!r}")
    asked = {
        "type": "student",
        "command": _placed(_words(command), _current_folder() if folder is None else folder, teardown),
        "environment": environment or "",
        "cpu_time_s": cpu_time_s,
        "wall_time_s": wall_time_s,
        "memory_mib": int(memory_mib),
        "share_network": bool(share_network),
        "env": dict(env or {}),
    }  # type: dict[str, object]
    if len(messages.line(asked)) > messages.LARGEST - 4096:
        raise BadRequest("the command and its variables are larger than 1 MiB: give it a file, or standard input")
    return asked


def open_container(name: "str", environment: "str" = "", memory_mib: "int" = 0, share_network: "bool" = False) -> "None":
    """Have a container of this name: students whose ``environment`` is the name run in it, one after the other.

    Raises:
        BadRequest: the name is taken, or is an environment's.
        Unavailable: there is no supervisor to ask.
    """
    _ask(
        {
            "type": "container",
            "name": name,
            "environment": environment,
            "memory_mib": int(memory_mib),
            "share_network": bool(share_network),
        }
    )


def close_container(name: "str") -> "None":
    """The container of this name is needed no more: what runs in it is ended. Raises BadRequest where there is none."""
    _ask({"type": "close", "name": name})


def tell_submitter(text: "str") -> "None":
    """Show the submitter a text while the grader runs. What a grader prints is for staff; this is not.

    Raises:
        BadValue: it is empty, or the job's texts are longer than 64 KiB together, each counted with 64 bytes more.
        Unavailable: there is no supervisor to ask.
    """
    if not text:
        raise BadValue("the text for the submitter is empty")
    end = converse({"type": "tell", "text": cleaned(str(text))}, _InputData(b""), _dropped)
    if end.outcome != "success":
        raise BadValue(end.text)


def _ask(asked: "dict[str, object]") -> "None":
    end = converse(asked, _InputData(b""), _dropped)
    if end.outcome != "success":
        raise BadRequest(end.text)


def end_the_job(reason: "str") -> "StudentEnd":
    """Ask for something that is not supported: the manager ends the job as an error, and this never returns.

    A command that only failed would let the grader go on, and set a result at its end.

    Raises:
        Unavailable: there is no supervisor to ask.
    """
    return converse({"type": "unsupported", "reason": reason}, _InputData(b""), _dropped)


def converse(
    asked: "dict[str, object]",
    stdin: "_InputData | _InputFile",
    write: "Callable[[bool, bytes], None]",
    killer: "Killer | None" = None,
) -> "StudentEnd":
    """Ask the supervisor for a student container and carry its streams until it has ended. Leaving early kills it."""
    channel = _connected()
    try:
        channel.sendall(messages.line(asked))
        return _Conversation(channel, stdin, write, killer).run()
    except OSError as error:
        raise CutOff(f"the supervisor is gone: {error.strerror or error}") from None
    except (KeyError, ValueError) as error:
        raise CutOff(f"the supervisor sent an invalid message: {error!r}") from None
    finally:
        channel.close()


class _Conversation:
    """One student's program, on one connection to the supervisor."""

    def __init__(
        self,
        channel: "socket.socket",
        stdin: "_InputData | _InputFile",
        write: "Callable[[bool, bytes], None]",
        killer: "Killer | None",
    ) -> "None":
        self._channel = channel
        self._stdin = stdin
        self._write = write
        self._killer = killer
        self._lines = messages.LineBuffer()
        self._unacknowledged = 0
        self._takes_input = False  # between its start and the end of its standard input
        self._is_read = True  # whether its output is still read
        self._end = None  # type: StudentEnd | None

    def run(self) -> "StudentEnd":
        while self._end is None:
            ready = self._wait()
            if self._killer is not None and self._killer.wanted in ready:
                self._kill()
            if self._channel.fileno() in ready:
                self._receive()
            elif self._wants_input() and (self._stdin.fd is None or self._stdin.fd in ready):
                self._send_input()
        return self._end

    def _wait(self) -> "list[int]":
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        if self._killer is not None:
            poller.register(self._killer.wanted, select.POLLIN)
        if not self._wants_input():
            return [fd for fd, _ in poller.poll()]
        if self._stdin.fd is not None:
            poller.register(self._stdin.fd, select.POLLIN)
        return [fd for fd, _ in poller.poll(0 if self._stdin.fd is None else None)]

    def _wants_input(self) -> "bool":
        return self._takes_input and self._unacknowledged < _MAX_UNACKNOWLEDGED

    def _receive(self) -> "None":
        data = self._channel.recv(256 * 1024)
        if not data:
            raise CutOff("the supervisor is gone")
        for line in self._lines.feed(data):
            self._handle(messages.read(line))

    def _handle(self, message: "dict[str, object]") -> "None":
        kind = message["type"]
        if kind == "started":
            self._takes_input = True
        elif kind == "taken":
            self._unacknowledged -= int(message["bytes"])  # type: ignore[call-overload]
        elif kind == "output":
            self._write_output(bool(message.get("stderr")), messages.from_base64(message.get("data")))
        elif kind == "end":
            self._end = StudentEnd(message) if self._is_read else StudentEnd(message).unread()

    def _write_output(self, is_stderr: "bool", piece: "bytes") -> "None":
        try:
            self._write(is_stderr, piece)
        except BrokenPipeError:  # it is read no more: end it, as SIGPIPE would
            self._is_read = False
            self._write = _dropped
            self._kill()
        except OSError as error:
            raise CutOff(f"what the program wrote cannot be passed on: {error.strerror or error}") from None

    def _send_input(self) -> "None":
        piece = self._stdin.read(_PIECE)
        self._takes_input = bool(piece)
        self._unacknowledged += len(piece)
        self._send({"type": "stdin", "data": messages.base64(piece)})

    def _kill(self) -> "None":
        self._killer = None
        self._takes_input = False
        self._send({"type": "kill"})

    def _send(self, message: "dict[str, object]") -> "None":
        try:
            self._channel.sendall(messages.line(message))
        except OSError:  # it has just ended; the next message says how
            self._takes_input = False


class _InputFile:
    """Standard input from an open file."""

    def __init__(self, fd: "int") -> "None":
        self.fd = fd  # type: int | None
        self._open = fd

    def read(self, size: "int") -> "bytes":
        try:
            return os.read(self._open, size)
        except OSError:
            return b""  # a closed terminal, a folder


class _InputData:
    """Standard input from memory."""

    fd = None

    def __init__(self, data: "bytes") -> "None":
        self._data = data
        self._at = 0

    def read(self, size: "int") -> "bytes":
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece


def _connected() -> "socket.socket":
    try:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            channel.connect(place.CONTROL)
        except OSError:
            channel.close()
            raise
    except OSError as error:
        raise Unavailable(f"student containers are not available here: {error.strerror or error}") from None
    return channel


def _words(command: "str | list[str]") -> "list[str]":
    if isinstance(command, str):
        import shlex

        try:
            words = shlex.split(command)
        except ValueError as error:
            raise BadRequest(f"the command {command!r} cannot be split into words: {error}") from None
    else:
        words = [str(word) for word in command]
    words = [cleaned(word) for word in words]
    if not words:
        raise BadRequest("there is no command to run")
    for word in words:
        if "\0" in word:
            raise BadRequest(f"no word of a command can hold a NUL byte: {word!r}")
    return words


def _current_folder() -> "str":
    try:
        return os.getcwd()
    except OSError as error:
        raise BadRequest(f"the current folder is gone: {error.strerror or error}") from None


def _placed(words: "list[str]", folder: "str", teardown: "str") -> "list[str] | str":
    """The command, with the shell's steps before and after it where there are any."""
    elsewhere = os.path.realpath(folder) != os.path.realpath(place.TASK)
    if not elsewhere and not teardown:
        return words
    before = f"cd {_quoted([folder])} || exit {CUT_OFF}\n" if elsewhere else ""
    if not teardown:
        return before + "exec " + _quoted(words)
    return before + _quoted(words) + "\ncode=$?\n" + _quoted(_words(teardown)) + "\nexit $code"


def _quoted(words: "list[str]") -> "str":
    import shlex

    return " ".join(shlex.quote(word) for word in words)


def _shortened(data: "bytes") -> "str":
    return repr(data) if len(data) <= _SHOWN else f"{data[:_SHOWN]!r}... ({len(data)} bytes)"


def _write_all(fd: "int", data: "bytes") -> "None":
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            poller = select.poll()
            poller.register(fd, select.POLLOUT)
            poller.poll()


def _dropped(is_stderr: "bool", piece: "bytes") -> "None":
    """Drop the output."""


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
