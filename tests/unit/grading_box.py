"""A folder laid out as a grading container's ``/task``; the waiter's end of the link, with programs of this machine as students."""

from __future__ import annotations

import base64
import compileall
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from jobmanager.grading.link import pieces
from tests.conftest import eventually

TOOLS = Path(__file__).resolve().parents[2] / "jobmanager" / "grading" / "container"
PYTHON = Path(os.environ.get("JOBMANAGER_TEST_GRADER_PYTHON", sys.executable))  # any from 3.6 on
Message = dict[str, object]


@functools.cache
def _compiled_tools() -> tempfile.TemporaryDirectory[str]:
    """What is brought in, compiled once, as the first command in a container does it for the others."""
    folder = tempfile.TemporaryDirectory(prefix="tools")
    shutil.copytree(TOOLS, folder.name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    compileall.compile_dir(folder.name, quiet=2)
    return folder


class Box:
    """``/task`` with our commands and library brought in, and what the job brought."""

    def __init__(self, folder: Path, answers: Mapping[str, object] | None = None, **notes: object) -> None:
        self.folder = folder
        self.private = folder / ".jobmanager"
        shutil.copytree(_compiled_tools().name, self.private)
        (folder / "student").mkdir()
        self.bring(answers or {}, **notes)

    def bring(self, answers: Mapping[str, object], **notes: object) -> None:
        """Say what the job brought; a note ``at_x`` is ``@x``."""
        named = {name.replace("at_", "@"): value for name, value in notes.items()}
        (self.private / "input.json").write_text(json.dumps({"answers": answers, "language": "en", **named}))

    def write(self, name: str, content: str | bytes, *, mode: int = 0o644) -> Path:
        """Put a file into the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def run(self, *words: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run one of our commands, or any other program, as the grader would."""
        environment = self.environment() | dict(env or {})
        found = shutil.which(words[0], path=environment["PATH"])
        assert found is not None, words[0]
        return subprocess.run([found, *words[1:]], input=stdin, capture_output=True, cwd=self.folder, env=environment, timeout=60)

    def python(self, script: str) -> subprocess.CompletedProcess[bytes]:
        """Run a Python script as the grader would."""
        return self.run("python3", "-c", script)

    def environment(self) -> dict[str, str]:
        """The grader's."""
        path = f"{self.private / 'bin'}:{PYTHON.parent}:{os.environ['PATH']}"
        return dict(os.environ, PATH=path, PYTHONPATH=str(self.private / "lib"))

    @property
    def answer(self) -> Message:
        """What ``result.json`` holds."""
        return json.loads((self.private / "result.json").read_bytes())  # type: ignore[no-any-return]


class Waiter:
    """Starts the supervisor and is at the other end of its link.

    Each ``student`` that it is asked for is a program of this machine, unless ``answering`` says what is answered.
    """

    def __init__(self, box: Box, *words: str, answering: Callable[[Waiter, Message], None] | None = None) -> None:
        self.box = box
        self.output = b""  # the supervisor's and its grader's
        self.stderr = b""
        self.pieces: list[bytes] = []  # as they came over the channel
        self.messages: list[Message] = []
        self.was_cut_off = False  # the supervisor said that it gives up
        self._answering = answering or Waiter._with_programs
        self._programs: dict[object, subprocess.Popen[bytes]] = {}
        self._partial = b""
        self._lock = threading.Lock()
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = dict(os.environ, PATH=f"{PYTHON.parent}:{os.environ['PATH']}", JOBMANAGER_CHANNEL=str(theirs.fileno()))
        environment.pop("PYTHONPATH", None)
        with theirs:
            self.supervisor = subprocess.Popen(
                [str(PYTHON), str(box.private / "lib/jobmanager_grading/supervisor.py"), *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=box.folder,
                env=environment,
                pass_fds=(theirs.fileno(),),
            )
        self._threads = [threading.Thread(target=hear) for hear in (self._hear, self._hear_stdout, self._hear_stderr)]
        for thread in self._threads:
            thread.start()

    def until_the_end(self) -> int:
        """Wait until the supervisor has ended; its exit code."""
        code = self.supervisor.wait(60)
        self.break_the_link()
        for program in self._programs.values():
            program.kill()
        while self._threads:
            self._threads.pop().join(60)
        self.channel.close()
        for pipe in (self.supervisor.stdout, self.supervisor.stderr):
            assert pipe is not None
            pipe.close()
        return code

    def break_the_link(self) -> None:
        """Nothing will ever come down again."""
        with suppress(OSError):
            self.channel.shutdown(socket.SHUT_WR)

    def tell(self, kind: str, student: object, **fields: object) -> None:
        """Send a message down."""
        self.tell_raw(*pieces(json.dumps({"type": kind, "id": student, **fields}).encode()))

    def tell_raw(self, *sent: bytes) -> None:
        """Send pieces down."""
        with self._lock, suppress(BrokenPipeError, ConnectionResetError):  # it has ended, or the link was broken
            for piece in sent:
                self.channel.send(piece)

    def asked(self, kind: str) -> list[Message]:
        """The messages of a kind that came up."""
        return [message for message in self.messages if message["type"] == kind]

    def wait_for(self, kind: str) -> Message:
        """The first message of a kind, when it has come."""
        return eventually(lambda: self.asked(kind), within_s=60, what=kind)[0]

    def _hear(self) -> None:
        with suppress(ConnectionResetError):  # it has ended without reading all
            while piece := self.channel.recv(2**16):
                self._take(piece)

    def _hear_stdout(self) -> None:
        assert self.supervisor.stdout is not None
        self.output = self.supervisor.stdout.read()

    def _hear_stderr(self) -> None:
        assert self.supervisor.stderr is not None
        self.stderr = self.supervisor.stderr.read()

    def _take(self, piece: bytes) -> None:
        self.pieces.append(piece)
        if piece == b"\2":
            self.was_cut_off = True
            return
        self._partial += piece[1:]
        if piece[0] == 0:
            message = json.loads(self._partial)
            self._partial = b""
            self.messages.append(message)
            self._answering(self, message)

    def _with_programs(self, message: Message) -> None:
        student = message["id"]
        if message["type"] == "student":
            self._programs[student] = program = self._started(message["command"])
            self.tell("started", student)
            self._threads += self._relaying(student, program)
        elif message["type"] == "kill":
            self._programs[student].kill()
        elif message["type"] == "stdin":
            self._write(student, base64.b64decode(str(message["data"])))

    def _started(self, command: object) -> subprocess.Popen[bytes]:
        words: Sequence[str] = ["sh", "-c", command] if isinstance(command, str) else command  # type: ignore[assignment]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, cwd=self.box.folder, bufsize=0)

    def _write(self, student: object, data: bytes) -> None:
        stdin = self._programs[student].stdin
        assert stdin is not None
        try:
            stdin.write(data)
            if not data:
                stdin.close()
        except (BrokenPipeError, ValueError):
            pass  # it does not want it
        if data:
            self.tell("taken", student, bytes=len(data))

    def _relaying(self, student: object, program: subprocess.Popen[bytes]) -> list[threading.Thread]:
        def relay(stream: str) -> None:
            pipe = getattr(program, stream)
            while data := pipe.read(65536):
                self.tell("output", student, stderr=stream == "stderr", data=base64.b64encode(data).decode())

        readers = [threading.Thread(target=relay, args=(stream,)) for stream in ("stdout", "stderr")]

        def end() -> None:
            for reader in readers:
                reader.join()
            code = program.wait()
            for pipe in (program.stdin, program.stdout, program.stderr):
                assert pipe is not None
                pipe.close()
            killed = code == -signal.SIGKILL
            outcome = "killed" if killed else "success" if code == 0 else "failed"
            self.tell("end", student, outcome=outcome, exit_code=None if killed else code, text="", cpu_time_s=0.5)

        threads = [*readers, threading.Thread(target=end)]
        for thread in threads:
            thread.start()
        return threads
