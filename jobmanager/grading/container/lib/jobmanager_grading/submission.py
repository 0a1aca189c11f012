"""A student container for many programs: one after the other, with nothing left between them but the shared folder."""

import os
import threading

from . import student

_NAME_BYTES = 8


class Submission:
    """A container that is kept. Programs run in it one at a time.

    Between two of them all processes are ended, and all files are gone but those in the shared folder.

    Args:
        environment, memory_mib, share_network: as of `student.request`; they are the container's, for all its programs.
        name: for ``run_student --container NAME``; empty: one that nobody else has.

    Raises:
        BadRequest: the name is taken, or is an environment's.
        Unavailable: there are no student containers.

    >>> with open_submission(memory_mib=64) as submission:
    ...     submission.run(["gcc", "-o", "student/main", "student/main.c"])
    ...     end = submission.run(["student/main"], stdin="1 2")
    """

    def __init__(self, environment: "str" = "", memory_mib: "int" = 0, share_network: "bool" = False, name: "str" = "") -> "None":
        self.name = name or "submission-" + os.urandom(_NAME_BYTES).hex()
        student.open_container(self.name, environment, memory_mib, share_network)

    def __enter__(self) -> "Submission":
        return self

    def __exit__(self, *_: "object") -> "None":
        self.close()

    def run(self, command: "str | list[str]", stdin: "bytes | str" = b"", **limits: "object") -> "student.StudentEnd":
        """Run a command, and wait for its end.

        Args:
            command, stdin: as of `student.run_student`.
            limits: ``cpu_time_s``, ``wall_time_s``, ``env``, ``folder`` and ``teardown``, as of `student.request`.
        """
        return student.run_student(command, stdin, environment=self.name, **limits)

    def start(self, command: "str | list[str]", **limits: "object") -> "Program":
        """Start a command, and talk with it: a `Program`."""
        return Program(student.request(command, environment=self.name, **limits))  # type: ignore[arg-type]

    def close(self) -> "None":
        """The container is needed no more. What runs in it is ended."""
        student.close_container(self.name)


class Program:
    """A program that runs.

    Attributes:
        stdin: a file, for what it reads. What is written must be flushed; closing it is the end.
        stdout, stderr: files with what it prints. A program that nobody reads waits, until its limits end it.
    """

    def __init__(self, asked: "dict[str, object]") -> "None":
        theirs = []  # type: list[int]
        files = []
        for is_input in (True, False, False):
            read, write = os.pipe()
            theirs.append(read if is_input else write)
            files.append(os.fdopen(write, "wb") if is_input else os.fdopen(read, "rb"))
        self.stdin, self.stdout, self.stderr = files
        self._killer = student.Killer()
        self._lock = threading.Lock()
        self._is_over = False
        self._end = None  # type: student.StudentEnd | None
        self._error = None  # type: Exception | None
        self._thread = threading.Thread(target=self._carry, args=(asked, theirs), daemon=True)
        self._thread.start()

    def wait(self) -> "student.StudentEnd":
        """Close its standard input, and wait for its end. What it printed and nobody has read comes with it.

        Raises:
            GradingError: it was cut off, or there are no student containers.
        """
        try:
            self.stdin.close()
        except BrokenPipeError:
            pass  # it has ended
        rest = [_Rest(file) for file in (self.stdout, self.stderr)]
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._end is not None, "it has ended, or there is an error"
        self._end.stdout, self._end.stderr = (reader.result() for reader in rest)
        return self._end

    def kill(self) -> "None":
        """End it."""
        with self._lock:
            if not self._is_over:
                self._killer()

    def _carry(self, asked: "dict[str, object]", theirs: "list[int]") -> "None":
        try:
            self._end = student.carry_student(asked, theirs[0], theirs[1], theirs[2], self._killer)
        except Exception as error:  # noqa: BLE001 - for whoever waits
            self._error = error
        finally:
            for fd in theirs:
                os.close(fd)
            with self._lock:
                self._is_over = True
                self._killer.close()


class _Rest:
    """Reads a file to its end, in a thread."""

    def __init__(self, file: "IO[bytes]") -> "None":
        self._file = file
        self._read = b""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self) -> "bytes":
        self._thread.join()
        return self._read

    def _run(self) -> "None":
        self._read = self._file.read()


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO
