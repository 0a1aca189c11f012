"""``Engine``: the outside world behind one protocol, and the few ways in which it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from jobmanager.model.container import (
    ContainerSpec,
    ContainerState,
    EngineAbout,
    EngineInfo,
    Image,
    ImageDefaults,
    Usage,
    VolumeState,
)


class EngineError(Exception):
    """The engine did not do what it was asked.

    ::

        EngineError
        ├── Unreachable        no answer: refused, broken off, or not in time; it may have been carried out
        ├── NameTaken          a container of that name exists
        ├── ImageMissing       no such image here
        ├── NoSuchContainer    no such container (any more)
        ├── NotRunning         the container has ended, or was never started
        ├── EngineFailed       the engine is in trouble itself: disk full, runtime missing, ...
        │   └── BeingRemoved   it is at it already, for somebody else
        └── Refused            anything else that it said no to, in its own words
    """


class Unreachable(EngineError):
    """No answer. The request may have been carried out all the same."""


class NameTaken(EngineError):
    """A container of that name exists."""


class ImageMissing(EngineError):
    """The host does not have the image."""


class NoSuchContainer(EngineError):
    """The engine knows no such container."""


class NotRunning(EngineError):
    """The container is not running, so it cannot be killed, read or paused."""


class EngineFailed(EngineError):
    """The engine is in trouble itself (its answer was a 5xx)."""


class BeingRemoved(EngineFailed):
    """A container's removal is under way already, at somebody else's request, and has not ended yet."""


class Refused(EngineError):
    """The engine said no, in its own words."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a container's output."""

    stderr: bool
    data: bytes


class OutputStream(Protocol):
    """A container's output as it comes."""

    def read(self, timeout_s: float) -> list[Chunk] | None:
        """What came; empty when nothing did in time; None at the end, also when the connection broke."""
        ...

    def close(self) -> None:
        """Let go of the connection; never blocks."""
        ...


class StdinLink(Protocol):
    """A container's standard input, kept open. A thread of its own may use it; the engine's other calls are not held up."""

    def write(self, data: bytes, timeout_s: float, goes_on: Callable[[], bool] = lambda: True) -> None:
        """Write all of it, as the container takes it; raises Unreachable.

        An engine says nothing when the container ends meanwhile: ``goes_on`` is asked about once a second while nothing
        is taken. Once it says no, NotRunning is raised.
        """
        ...

    def close(self) -> None:
        """The end of the container's standard input, for good. Never blocks; a thread that writes meanwhile gets Unreachable."""
        ...


class Engine(Protocol):
    """One engine, over connections of its own. Not for use by two threads at once.

    Every call ends within the engine's timeout, and every failure is an EngineError. Containers are named by id
    or name.
    """

    def info(self) -> EngineInfo:
        """What the host is."""
        ...

    def about(self) -> EngineAbout:
        """What the engine says about itself, for a person."""
        ...

    def images(self) -> list[Image]:
        """All images that have a reference."""
        ...

    def image_defaults(self, image: str) -> ImageDefaults:
        """What an image brings along; raises ImageMissing."""
        ...

    def pull(self, image: str) -> None:
        """Fetch an image; raises ImageMissing when no registry has it."""
        ...

    def create(self, spec: ContainerSpec, defaults: ImageDefaults) -> str:
        """Make a container, with its volume, and return its id; raises NameTaken, ImageMissing, Refused."""
        ...

    def write_file(self, container: str, path: str, content: bytes) -> None:
        """Put a file, root's, into a container that need not run. Its root is read-only, so this is for its volumes."""
        ...

    def start(self, container: str) -> None:
        """Start a created container. Running already is fine; one that has ended would run again: look first."""
        ...

    def attach(self, container: str) -> OutputStream:
        """Output from now on. While it is open and unread, the container stands still."""
        ...

    def logs(self, container: str) -> OutputStream:
        """Output from the beginning, as far as it was kept, and then as it comes. Never holds the container up."""
        ...

    def feed(self, container: str, payload: bytes, timeout_s: float, goes_on: Callable[[], bool] = lambda: True) -> None:
        """Write to a running container's standard input and close it, as ``open_stdin`` and its link do."""
        ...

    def open_stdin(self, container: str) -> StdinLink:
        """A running container's standard input; when the link is closed, or breaks, the container reads its end."""
        ...

    def inspect(self, container: str) -> ContainerState:
        """A container's state; raises NoSuchContainer."""
        ...

    def list(self, labels: Mapping[str, str | None]) -> list[ContainerState]:
        """All containers with these labels (None: any value), ended ones too; without exit codes."""
        ...

    def kill(self, container: str) -> None:
        """SIGKILL; raises NoSuchContainer, NotRunning."""
        ...

    def pause(self, container: str) -> None:
        """Freeze all processes; raises NoSuchContainer, NotRunning."""
        ...

    def unpause(self, container: str) -> None:
        """Let them go on; one that is not frozen is fine, or Refused."""
        ...

    def usage(self, container: str) -> Usage | None:
        """What it has used so far, running or paused; None when it is not running. May take a second."""
        ...

    def archive(self, container: str, path: str) -> Iterator[bytes]:
        """A tar of a path in a running or paused container, in pieces."""
        ...

    def remove(self, container: str) -> None:
        """Kill and remove it with its volumes; none of that name is fine."""
        ...

    def volumes(self, labels: Mapping[str, str | None]) -> Sequence[VolumeState]:
        """All volumes with these labels (None: any value)."""
        ...

    def remove_volume(self, name: str) -> None:
        """Remove a volume; none of that name is fine; raises Refused while a container has it."""
        ...

    def close(self) -> None:
        """Let go of all connections; a later call makes a new one."""
        ...
