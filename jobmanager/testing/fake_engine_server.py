"""A fake engine for your own tests: a Docker host in one small process, without Docker, whose faults you control.

::

    from jobmanager import DockerHost, JobManager
    from jobmanager.testing import FakeEngineServer

    with FakeEngineServer(images=["python3"], programs={"python3": "echo 42"}) as fake:
        with JobManager([DockerHost(fake.url)]) as manager:
            ...
        fake.faults.stop()      # the daemon has died

It runs no program of yours. What a program does is told by steps (``jobmanager.testing.steps``). A text stands for a few
commands, with ``;`` ``&&`` ``||`` or a new line between them: ``true``, ``false``, ``echo``, ``cat``, ``cp``, ``env``, ``exec``,
``exit``, ``head -c N``, ``kill -SIGNAL $$``, ``ls``, ``mkdir``, ``pwd``, ``rm``, ``sh``, ``sleep``, ``touch``, ``wc -c``,
``yes``; and ``fake-oom``, ``fake-forks N``, ``fake-pid1-oom``, which hit limits. It is no shell: there are no pipes,
redirections, variables or loops.
"""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from jobmanager.engine import protocol
from jobmanager.errors import InvalidValue
from jobmanager.ipc.process import command, environment
from jobmanager.model import _checks
from jobmanager.model._exact import exact
from jobmanager.model._repr import value_repr
from jobmanager.model.container import ContainerStatus
from jobmanager.testing.fake.wire import PIECE, Inbox, packed
from jobmanager.testing.steps import ProgramStep, checked_programs

__all__ = ["FakeContainerRecord", "FakeEngineServer", "Faults"]

_REPLY_TIMEOUT_S = 30.0
_EXIT_TIMEOUT_S = 5.0
_MAX_MIB = 2**40
_CALLS = frozenset(name for name in vars(protocol.Engine) if not name.startswith("_"))


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeContainerRecord:
    """A container of the fake engine."""

    id: str
    name: str
    image: str
    labels: Mapping[str, str]
    status: ContainerStatus
    times_started: int
    exit_code: int | None  # of PID 1, once ended


class FakeEngineServer:
    """A fake engine in a process of its own, which ends with the process that started it.

    Args:
        images: references, or a mapping from references to the images' labels.
        registry: the same, for images that can be pulled.
        programs: what programs do, as steps or as a text; by the name of a program, such as ``python3``, or by the whole text of a
            command.
        cores: the number of cores that it reports.
        memory_mib: the memory that it reports.
        architecture: of its machine, in Docker's words, such as ``aarch64``.
        networks: names of networks of its own, beside those that every engine has.

    Raises:
        InvalidValue: an argument makes no sense.
    """

    def __init__(
        self,
        images: Iterable[str] | Mapping[str, Mapping[str, str]] = ("busybox",),
        *,
        registry: Iterable[str] | Mapping[str, Mapping[str, str]] = (),
        programs: Mapping[str, str | Sequence[ProgramStep]] | None = None,
        cores: int = 2,
        memory_mib: int = 4096,
        architecture: str = "x86_64",
        networks: Iterable[str] = (),
    ) -> None:
        self._settings = {
            "images": _with_labels("images", images),
            "registry": _with_labels("registry", registry),
            "programs": checked_programs({} if programs is None else programs),
            "cores": _checks.positive_int("cores", cores),
            "memory_mib": _checks.positive_int("memory_mib", memory_mib),
            "architecture": _checks.text("architecture", architecture),
            "networks": _texts("networks", networks),
        }
        self._folder = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._line: _Line | None = None
        self.faults = Faults(self._ask)

    @property
    def url(self) -> str:
        """The address for ``DockerHost``."""
        if not self._folder:
            raise RuntimeError("the fake engine is not started: use it in a with statement")
        return f"fake://{self._folder}/engine.sock"

    @property
    def pid(self) -> int:
        """Process id."""
        if self._process is None:
            raise RuntimeError("the fake engine is not started: use it in a with statement")
        return self._process.pid

    def start(self) -> None:
        """Start the process; returns when it answers."""
        if self._process is not None:
            return
        self._folder = tempfile.mkdtemp(prefix="jobmanager-fake-", dir="/tmp")  # a socket's path must be short
        ours, theirs = socket.socketpair()
        serve = command("jobmanager.testing.fake.server:serve", self._folder, theirs.fileno(), os.getpid())
        with theirs:
            self._process = subprocess.Popen(
                serve, env=environment(), pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        self._line = _Line(ours)
        try:
            self._line.send(self._settings)
            self._line.receive()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process and remove its folder."""
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._process is not None:
            try:
                self._process.wait(_EXIT_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = ""

    def __enter__(self) -> FakeEngineServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def containers(self) -> list[FakeContainerRecord]:
        """All containers, ended ones too."""
        return [
            FakeContainerRecord(
                id=id_,
                name=name,
                image=image,
                labels=labels,
                status=ContainerStatus(status),
                times_started=times_started,
                exit_code=exit_code,
            )
            for id_, name, image, labels, status, times_started, exit_code in self._ask("containers")
        ]

    def times_started(self, container: str) -> int:
        """How often a container of that name was started, removed ones included."""
        return int(self._ask("times_started", _checks.text("container", container)))

    def runs(self) -> dict[str, int]:
        """How often each job's program started, by job id: the last 100,000 jobs, removed containers included."""
        return dict(self._ask("runs"))

    def history(self) -> list[tuple[str, str]]:
        """The last 20,000 calls, in order: name of the call, and name of the container or image."""
        return [(call, name) for call, name in self._ask("history")]

    def add_image(self, reference: str, labels: Mapping[str, str] | None = None, *, command: Iterable[str] = ("sh",)) -> None:
        """Add an image."""
        checked = _labels("labels", {} if labels is None else labels)
        self._ask("add_image", _checks.text("reference", reference), checked, _texts("command", command))

    def remove_image(self, reference: str) -> None:
        """Remove an image."""
        self._ask("remove_image", _checks.text("reference", reference))

    def _ask(self, command: str, *arguments: object) -> Any:
        if self._line is None:
            raise RuntimeError("the fake engine is not started: use it in a with statement")
        return self._line.ask(command, *arguments)


class Faults:
    """Faults of the engine, and external actions on its containers. Each fault lasts until it is taken back.

    Each raises InvalidValue where an argument makes no sense.
    """

    def __init__(self, ask: Any) -> None:
        self._ask = ask

    def stop(self, *, keep_running: bool = True) -> None:
        """The daemon dies; with ``keep_running=False`` its containers are killed before it comes back."""
        self._ask("stop", _checks.flag("keep_running", keep_running))

    def start_again(self) -> None:
        """The daemon comes back after ``stop``."""
        self._ask("start_again")

    def pause(self) -> None:
        """The daemon hangs: it accepts connections and does not answer. Requests are carried out at ``resume``."""
        self._ask("pause")

    def resume(self) -> None:
        """The daemon goes on after ``pause``."""
        self._ask("resume")

    def drop_replies(self, call: str, times: int = 1) -> None:
        """The next ``times`` calls of this name are carried out, but the connection breaks before the reply."""
        self._ask("drop_replies", _checked_call(call), _checks.positive_int("times", times))

    def delay_replies(self, seconds: float) -> None:
        """Calls are carried out at once, and answered after this delay; 0 ends it."""
        self._ask("delay_replies", _checks.timeout("seconds", seconds, zero=True))

    def refuse(self, call: str, message: str, times: int = 1) -> None:
        """The next ``times`` calls of this name are not carried out; the answer is EngineFailed with this message."""
        self._ask("refuse", _checked_call(call), _checks.string("message", message), _checks.positive_int("times", times))

    def fill_disk(self, full: bool = True) -> None:
        """The engine's own disk is full: no container can be created, no image pulled."""
        self._ask("fill_disk", _checks.flag("full", full))

    def leave_memory(self, available_mib: int | None) -> None:
        """The host reports this much available memory; None, as at the start: it reports none."""
        checked = None if available_mib is None else _checks.count("available_mib", available_mib, at_most=_MAX_MIB)
        self._ask("leave_memory", checked)

    def kill_container(self, name: str) -> None:
        """An external action kills a container."""
        self._ask("kill_container", _checks.text("name", name))

    def remove_container(self, name: str) -> None:
        """An external action removes a container by force; its volume stays."""
        self._ask("remove_container", _checks.text("name", name))

    def pause_container(self, name: str) -> None:
        """An external action pauses a container."""
        self._ask("pause_container", _checks.text("name", name))

    def unpause_container(self, name: str) -> None:
        """An external action resumes a paused container."""
        self._ask("unpause_container", _checks.text("name", name))


class _Line:
    """Our end of the pipe to the fake engine's process: one command at a time, from any thread."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours
        self._socket.settimeout(_REPLY_TIMEOUT_S)
        self._inbox = Inbox()
        self._lock = threading.Lock()

    def ask(self, command: str, *arguments: object) -> Any:
        with self._lock:
            self.send((command, *arguments))
            return self.receive()

    def send(self, message: object) -> None:
        self._socket.sendall(packed(exact(message)))

    def receive(self) -> Any:
        while True:
            data = self._socket.recv(PIECE)
            if not data:
                raise RuntimeError("the fake engine's process has ended")
            for body in self._inbox.feed(data):
                failure, value = pickle.loads(body)
                if failure:
                    raise getattr(protocol, failure)(value)
                return value

    def close(self) -> None:
        self._socket.close()


def _checked_call(call: str) -> str:
    if call not in _CALLS:
        raise InvalidValue(f"no call of an engine has the name {call!r}: take one of {', '.join(sorted(_CALLS))}")
    return call


def _with_labels(name: str, images: Iterable[str] | Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    if isinstance(images, Mapping):
        return {
            _checks.text(f"a reference in {name}", reference): _labels(f"the labels of {reference!r}", labels)
            for reference, labels in images.items()
        }
    return {reference: {} for reference in _texts(name, images)}


def _texts(name: str, given: Iterable[str]) -> tuple[str, ...]:
    """Several texts. A single one is none: it would be taken for its letters."""
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise InvalidValue(f"{name} must be a list of texts, not {value_repr(given)}")
    return tuple(_checks.text(f"a text in {name}", each) for each in given)


def _labels(name: str, given: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise InvalidValue(f"{name} must map names to texts, not {value_repr(given)}")
    return {_checks.text(f"a name in {name}", key): _checks.string(f"{name}: {key}", value) for key, value in given.items()}
