"""``Engine``: the interface to container engines, and its errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from jobmanager.model.container import (
    ContainerInfo,
    ContainerSpec,
    DiskVolume,
    EngineAbout,
    EngineInfo,
    Image,
    ImageDefaults,
    Usage,
    VolumeInfo,
)
from jobmanager.model.limits import Limits


class EngineError(Exception):
    """A request to the engine failed.

    ::

        EngineError
        ├── Unreachable        no answer: refused, broken off, or too late; the request may have been carried out
        ├── NameTaken          a container of that name exists
        ├── ImageMissing       the host has no such image
        ├── NoSuchContainer    there is no such container, or no longer
        ├── NotRunning         the container has ended, or was never started
        ├── EngineFailed       an error of the engine itself: disk full, runtime missing, ...
        │   └── BeingRemoved   another request is removing the container already
        └── Refused            any other refusal, in the engine's own words
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
    """An error of the engine itself (its answer was a 5xx)."""


class BeingRemoved(EngineFailed):
    """Another request is removing the container, and has not finished."""


class Refused(EngineError):
    """The engine refused, in its own words."""


class Channel(Protocol):
    """A running container's standard input and output on one connection. One thread reads and writes; any thread may wake it.

    What nobody reads stays in the container. Its input does not end when the channel is closed or breaks.
    """

    def read(self, timeout_s: float) -> bytes | None:
        """What its standard output had next; empty when nothing came in time or it was woken; None at the end.

        The end is that of the container or of the connection. What was written goes out meanwhile.
        """
        ...

    def write(self, data: bytes) -> None:
        """Have this sent, after what was written before, while ``read`` waits. Never blocks."""
        ...

    @property
    def unsent(self) -> int:
        """Bytes that were written and have not gone out yet."""
        ...

    def wake(self) -> None:
        """End a wait of ``read``, or the next one."""
        ...

    def close(self) -> None:
        """Close the connection. Never blocks; a second call does nothing."""
        ...


class Engine(Protocol):
    """One engine, over connections of its own. Not for use by two threads at once.

    Every call ends within the engine's timeout, and every failure is an EngineError. Containers are named by id
    or name.
    """

    def info(self) -> EngineInfo:
        """Version, cores, memory and the like."""
        ...

    def about(self) -> EngineAbout:
        """Facts about the engine for a person."""
        ...

    def images(self) -> list[Image]:
        """All images that have a reference."""
        ...

    def networks(self) -> frozenset[str]:
        """The names of all networks that it lists."""
        ...

    def image_defaults(self, image: str) -> ImageDefaults:
        """An image's command and volumes; raises ImageMissing."""
        ...

    def pull(self, image: str) -> None:
        """Fetch an image; raises ImageMissing when no registry has it."""
        ...

    def create(self, spec: ContainerSpec, defaults: ImageDefaults) -> str:
        """Create a container with its volume, and return its id; raises NameTaken, ImageMissing, Refused."""
        ...

    def create_carrier(self, name: str, image: str, labels: Mapping[str, str], volumes: Sequence[DiskVolume]) -> str:
        """Create a container that is never started: through it, files are written to and read from these volumes.

        Returns its id; raises NameTaken, ImageMissing, Refused. Removing it leaves the volumes.
        """
        ...

    def write_file(self, container: str, path: str, content: bytes, mode: int = 0o644) -> None:
        """Write a file owned by root into one of a container's volumes (its root is read-only). It need not run."""
        ...

    def make_fifos(self, container: str, paths: Sequence[str]) -> None:
        """Make fifos in one folder of a carrier's volume, owned by root, which everybody may read and write."""
        ...

    def start(self, container: str) -> None:
        """Start a created container; one that runs already is fine. One that has ended would run again: inspect it first."""
        ...

    def open_channel(self, container: str) -> Channel:
        """Output from now on, and the standard input; raises NoSuchContainer, Refused (it is paused).

        A container that does not run is refused with NotRunning, or its channel stays silent: engines differ.
        """
        ...

    def inspect(self, container: str) -> ContainerInfo:
        """A container's state; raises NoSuchContainer."""
        ...

    def list(self, labels: Mapping[str, str | None]) -> list[ContainerInfo]:
        """All containers with these labels (None: any value), ended ones too; without exit codes."""
        ...

    def kill(self, container: str) -> None:
        """SIGKILL; raises NoSuchContainer, NotRunning."""
        ...

    def set_limits(self, container: str, limits: Limits) -> None:
        """Give a running container these limits of memory and processes.

        Raises:
            NoSuchContainer: it is not there.
            Refused, EngineFailed: it has more memory than that, for instance.
        """
        ...

    def usage(self, container: str) -> Usage | None:
        """What a running or paused container has used so far; None when it is not running. May take a second."""
        ...

    def archive(self, container: str, path: str) -> Iterator[bytes]:
        """A tar of a path in a carrier's volume, in pieces; raises NoSuchContainer."""
        ...

    def wait_until_ended(self, container: str, timeout_s: float) -> None:
        """Wait for a container to end; raises NoSuchContainer, and Unreachable where it does not within so many seconds."""
        ...

    def remove(self, container: str) -> None:
        """Kill and remove a container with its volumes; one that does not exist is fine."""
        ...

    def volumes(self, labels: Mapping[str, str | None]) -> Sequence[VolumeInfo]:
        """All volumes with these labels (None: any value)."""
        ...

    def remove_volume(self, name: str) -> None:
        """Remove a volume; one that does not exist is fine; raises Refused while a container uses it."""
        ...

    def close(self) -> None:
        """Close all connections; a later call opens a new one."""
        ...
