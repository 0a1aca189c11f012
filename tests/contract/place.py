"""An engine under test, and what a test made there; one run's way through a container."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Protocol

from jobmanager.engine.labels import Owner
from jobmanager.engine.protocol import Channel, Engine, EngineError
from jobmanager.engine.runner_volume import RunnerVolumes, is_runner_missing
from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model.container import ContainerInfo, ContainerSpec, ContainerStatus, ImageDefaults, VolumeMount
from jobmanager.model.host import Address
from jobmanager.model.limits import Limits
from jobmanager.runner.binaries import binary
from jobmanager.runner.frames import Ended, Leave, RunRefused, Started, UpMessage
from jobmanager.watching.run_order import RUN, run_messages
from jobmanager.watching.runner_link import RunnerLink
from jobmanager.watching.spool import Spool
from tests.conftest import BUSYBOX as IMAGE
from tests.conftest import SLOWNESS, eventually
from tests.support.driven_runner import RunRecord

LABEL = "jobmanager.contract-test"
PATIENCE_S = 20.0 * SLOWNESS
LIMITS = Limits(memory_mib=64, workspace_mib=4)
_LEASE_S = 90.0


class Stranger(Protocol):
    """Who does something to containers beside the engine's interface."""

    def remove(self, container: str) -> None:
        """Remove a container, and leave its volumes."""
        ...

    def pause(self, container: str) -> None:
        """Pause it."""
        ...

    def unpause(self, container: str) -> None:
        """Resume it."""
        ...


@dataclass
class Run:
    """One run's way through a container, as its waiter sees it."""

    container: str
    link: RunnerLink
    record: RunRecord = field(default_factory=lambda: RunRecord(RUN))

    @property
    def stdout(self) -> bytes:
        return self.record.stdout

    @property
    def stderr(self) -> bytes:
        return self.record.stderr

    @property
    def ended(self) -> Ended:
        return self.record.ended

    @property
    def refused(self) -> RunRefused:
        return self.record.refused

    @property
    def has_started(self) -> bool:
        return bool(self.record.all_of(Started))

    @property
    def devices(self) -> dict[str, str]:
        """Its volumes' devices, by path."""
        return {volume.path.decode(): volume.device.decode() for volume in self.record.started.volumes}

    def received(self) -> list[UpMessage]:
        """The next messages; the end of the connection, or none in time, is a failure."""
        until = time.monotonic() + PATIENCE_S
        while not (messages := self.link.receive(1.0)):
            assert messages is not None, f"the runner has left: {self.record}"
            assert time.monotonic() < until, f"the runner does not answer: {self.record}"
        return messages

    def read(self, enough: Callable[[], bool]) -> None:
        """Read until there is enough."""
        while not enough():
            self.record.messages += [message for message in self.received() if message.run == RUN]

    def finish(self) -> Run:
        """Read to the end of the run."""
        self.read(lambda: any(isinstance(message, (Ended, RunRefused)) for message in self.record.messages))
        return self


class Place:
    """An engine under test, and what a test made there."""

    def __init__(self, engine: Engine, address: Address, stranger: Stranger) -> None:
        self.engine = engine
        self.stranger = stranger
        self.address = address
        self.image = IMAGE
        self.label = token_hex(6)
        self.runners = RunnerVolumes(manager_id=self.label, owner=Owner.this_process(), binary_for=binary)
        self._made: list[str] = []
        self._volumes: list[str] = []
        self._open: list[Channel | RunnerLink] = []

    def create(
        self,
        *,
        limits: Limits | None = None,
        labels: Mapping[str, str] | None = None,
        name: str = "",
        image_volumes: tuple[str, ...] = (),
        **spec: Any,
    ) -> str:
        """A container that was never started; its name. ``image_volumes``: paths of which its image says that they are volumes."""
        name = self.named(name)
        spec = {"lease_s": _LEASE_S, "runner": self.runners.named(self.engine, self.address.host).sha256, **spec}
        labels = {LABEL: self.label, **(labels or {})}
        made = ContainerSpec(name=name, image=self.image, labels=labels, limits=limits or LIMITS, **spec)
        self.engine.create(made, ImageDefaults(command=(), volumes=image_volumes))
        return name

    def named(self, name: str = "") -> str:
        """A container's name, of its own unless one is given; the container is removed at the end."""
        name = name or f"jobmanager-test-{token_hex(6)}"
        self._made.append(name)
        return name

    def volume(self, short_name: str = "work", *, size_mib: int = 1) -> VolumeMount:
        """A volume by name, which the first container that is given it makes."""
        name = f"jobmanager-test-{token_hex(6)}-{short_name}"
        self.remove_volume_at_the_end(name)
        return VolumeMount(name=name, path=f"/volumes/{short_name}", size_mib=size_mib)

    def remove_volume_at_the_end(self, name: str) -> None:
        """After the containers that were made here."""
        self._volumes.append(name)

    def start(self, name: str) -> None:
        """Start a container; where the runner is not on the host yet, it is brought there."""
        try:
            self.engine.start(name)
        except EngineError as error:
            if not is_runner_missing(error):
                raise
            self.runners.ensure(self.engine, self.address.host, again=True)
            self.engine.start(name)

    def started(self, **options: Any) -> str:
        """A container whose runner waits for a waiter."""
        name = self.create(**options)
        self.start(name)
        return name

    def ended(self) -> str:
        """A container whose runner has left, as it was told to."""
        name = self.started()
        link = self.linked(name)
        link.send(Leave())
        while link.receive(1.0) is not None:
            pass
        self.until_ended(name)
        return name

    def opened(self, name: str) -> Channel:
        """A container's channel, which is closed at the end."""
        channel = self.engine.open_channel(name)
        self._open.append(channel)
        return channel

    def linked(self, name: str) -> RunnerLink:
        """A link to a container's runner, whose status has come; it is closed at the end."""
        link = RunnerLink(self.engine, name, lease_s=_LEASE_S, spool=Spool(None))
        self._open.append(link)
        link.connect()
        until = time.monotonic() + PATIENCE_S
        while link.status is None:
            assert link.receive(1.0) is not None, "the connection is lost"
            assert time.monotonic() < until, "the runner does not answer"
        return link

    def begin(
        self,
        command: str | tuple[str, ...],
        *,
        env: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
        stdin: bytes | None = b"",
        limits: Limits | None = None,
        wipe: Sequence[str] = (),
        secrets: Mapping[str, bytes] | None = None,
        volume_devices: Mapping[str, str] | None = None,
        **spec: Any,
    ) -> Run:
        """A container that was given this job, as a waiter gives it."""
        name = self.started(limits=limits, **spec)
        run = Run(name, self.linked(name))
        job = MonitorContainer(
            job_id="j",
            container_id=name,
            container_name=name,
            command=command,
            env=env or {},
            files=files or {},
            stdin=stdin,
            limits=limits or LIMITS,
            collect=(),
            wipe=tuple(wipe),
            secrets=secrets or {},
            volumes=tuple(volume.short_name for volume in spec.get("volumes", ())),
            volume_devices=volume_devices or {},
            **({"workspace": spec["workspace"]} if "workspace" in spec else {}),
        )
        run.link.send(*run_messages(job, made_at_s=0.0))
        return run

    def run(self, command: str | tuple[str, ...], **options: Any) -> Run:
        """The whole of a job."""
        return self.begin(command, **options).finish()

    def until_ended(self, name: str) -> ContainerInfo:
        eventually(lambda: self.engine.inspect(name).status is ContainerStatus.ENDED)
        return self.engine.inspect(name)

    def archived(self, container: str, path: str) -> dict[str, bytes | None]:
        """A container's files (None: a folder) by their names in the archive."""
        tar = b"".join(self.engine.archive(container, path))
        with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
            return {member.name: opened.extractfile(member).read() if member.isfile() else None for member in opened}  # type: ignore[union-attr]

    def close(self) -> None:
        for each in self._open:
            each.close()
        for name in reversed(self._made):  # what has another one's volume first
            self.engine.remove(name)
        for name in self._volumes:
            self.engine.remove_volume(name)
        self.runners.release(self.engine, self.address.host)
        left = [*self.engine.list({LABEL: self.label}), *self.engine.volumes({LABEL: self.label})]
        self.engine.close()
        assert left == []
