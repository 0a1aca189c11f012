"""The state and the calls of the fake engine, without its sockets: images, containers, faults."""

from __future__ import annotations

import hashlib
import posixpath
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobmanager.engine.docker.container_config import SHARED_VOLUME_LABEL, VOLUME_LABEL
from jobmanager.engine.labels import JOB_LABEL
from jobmanager.engine.protocol import (
    EngineFailed,
    ImageMissing,
    NameTaken,
    NoSuchContainer,
    NotRunning,
    Refused,
)
from jobmanager.model.container import SHARED_FOLDER, ContainerStatus
from jobmanager.runner.place import RUNNER_PATH
from jobmanager.testing.fake.container import KILLED, ChannelEnd, FakeContainer, FakeMount, FakeSpec, Later, Programs, SharedVolume
from jobmanager.testing.fake.fifo import Fifo
from jobmanager.testing.fake.files import FakeFile, FileProblem

_HISTORY = 20_000
_LEASE_INTERVAL_S = 0.1
_NAMES = 100_000  # containers whose number of starts is kept
_SHARED = "-shared"  # the end of a shared folder's name
_DISK_MIB, _DISK_INODES = 1024, 100_000  # of a volume on the disk
VERSION = "fake"


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeImage:
    """An image of the fake engine."""

    id: str
    reference: str
    labels: Mapping[str, str]
    command: tuple[str, ...]
    created_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeVolume:
    """A volume as the fake engine lists it."""

    name: str
    labels: Mapping[str, str]
    created_at_s: float
    shared: SharedVolume | None = None


class FakeDaemon:
    """The calls of the ``Engine`` protocol by name, with plain data in and out."""

    def __init__(self, *, cores: int, memory_mib: int, architecture: str, programs: Programs, later: Later) -> None:
        self.containers: dict[str, FakeContainer] = {}  # by name
        self.volumes: dict[str, FakeVolume] = {}  # by name
        self.images: dict[str, FakeImage] = {}
        self.registry: dict[str, Mapping[str, str]] = {}  # what pull can fetch
        self.history: deque[tuple[str, str]] = deque(maxlen=_HISTORY)
        self.starts: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()  # of programs, by job
        self.networks = {"bridge", "host", "none"}
        self.disk_full = False
        self.available_memory_mib: int | None = None  # None: the host does not report it
        self._ids: dict[str, FakeContainer] = {}
        self._cores = cores
        self._memory_mib = memory_mib
        self._architecture = architecture
        self._programs = programs
        self._later = later
        self._made = 0
        self._looks_at_leases = False
        self._calls: Mapping[str, Callable[..., Any]] = {
            call.__name__: call
            for call in (
                self.info,
                self.image_defaults,
                self.write_file,
                self.make_fifos,
                self.pull,
                self.create,
                self.create_carrier,
                self.start,
                self.inspect,
                self.kill,
                self.set_limits,
                self.usage,
                self.wait_until_ended,
                self.archive,
                self.remove,
                self.remove_volume,
            )
        }
        self._calls = {**self._calls, "images": self.all_images, "list": self.matching, "volumes": self.matching_volumes}
        self._calls = {**self._calls, "networks": lambda: sorted(self.networks)}

    def call(self, name: str, *arguments: Any) -> Any:
        """Carry out a call; raises EngineError."""
        return self._calls[name](*arguments)

    def note(self, call: str, target: object) -> None:
        """Add a call to the history."""
        container = self._ids.get(target) if isinstance(target, str) else None
        self.history.append((call, container.spec.name if container is not None else str(target or "")))

    # ---- the host and its images

    def info(self) -> tuple[str, int, int, str, float, int | None]:
        return VERSION, self._cores, self._memory_mib, self._architecture, time.time(), self.available_memory_mib

    def all_images(self) -> list[tuple[str, tuple[str, ...], Mapping[str, str], float]]:
        by_id: dict[str, list[FakeImage]] = {}
        for image in self.images.values():
            by_id.setdefault(image.id, []).append(image)
        return [
            (id_, tuple(image.reference for image in same), same[0].labels, same[0].created_at_s)
            for id_, same in by_id.items()
        ]

    def image_defaults(self, reference: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self._image(reference).command, ()

    def pull(self, reference: str) -> None:
        if tagged(reference) not in self.registry:
            raise ImageMissing(f"pull access denied for {reference}, repository does not exist")
        if self.disk_full:
            raise EngineFailed("write /var/lib/docker/tmp/GetImageBlob: no space left on device")
        self.add_image(reference, self.registry[tagged(reference)], ("sh",))

    def add_image(self, reference: str, labels: Mapping[str, str], command: tuple[str, ...]) -> None:
        reference = tagged(reference)
        self.images[reference] = FakeImage(
            id="sha256:" + hashlib.sha256(reference.encode()).hexdigest(),
            reference=reference,
            labels=dict(labels),
            command=command,
            created_at_s=time.time(),
        )

    def remove_image(self, reference: str) -> None:
        self.images.pop(tagged(reference), None)

    # ---- containers

    def create(
        self,
        name: str,
        image: str,
        labels: Mapping[str, str],
        bounds: tuple[str, bool, str, int, int, int, int, float, float, str],
        volumes: Sequence[tuple[str, str, str, int, int, bool]],
        disk_volumes: Sequence[tuple[str, str, Mapping[str, str], bool]],
    ) -> str:
        known = self._image_for(name, image)
        workspace, shares, shared_volume, workspace_mib, workspace_inodes, memory_mib, processes, cpus, lease_s, network = bounds
        id_ = self._new_id(name)
        spec = FakeSpec(
            id=id_,
            name=name,
            image=known.reference,
            labels=labels,
            workspace=workspace,
            shared_volume=f"{id_}{_SHARED}" if shares else shared_volume,
            workspace_mib=workspace_mib,
            workspace_inodes=workspace_inodes,
            memory_mib=memory_mib,
            processes=processes,
            cpus=cpus,
            lease_s=lease_s,
            network=network,
            volumes=(
                *(self._mount(labels, *volume) for volume in volumes),
                *(self._disk_mount(*volume) for volume in disk_volumes),
            ),
            created_at_s=time.time(),
        )
        self._add(spec)
        if shares:
            volume = spec.shared_volume
            self.volumes[volume] = FakeVolume(name=volume, labels={**labels, VOLUME_LABEL: name}, created_at_s=spec.created_at_s)
        return spec.id

    def create_carrier(
        self, name: str, image: str, labels: Mapping[str, str], volumes: Sequence[tuple[str, str, Mapping[str, str], bool]]
    ) -> str:
        known = self._image_for(name, image)
        spec = FakeSpec(
            id=self._new_id(name),
            name=name,
            image=known.reference,
            labels=labels,
            volumes=tuple(self._disk_mount(*volume) for volume in volumes),
            created_at_s=time.time(),
            is_carrier=True,
        )
        self._add(spec)
        return spec.id

    def write_file(self, target: str, path: str, content: bytes, mode: int) -> None:
        container = self.find(target)
        if not container.spec.is_carrier:
            return  # it has a workspace and no more
        try:
            container.files.put(path, content, mode)
        except FileProblem as problem:
            raise EngineFailed(f"write {path}: {problem}") from None

    def make_fifos(self, target: str, paths: Sequence[str]) -> None:
        container = self.find(target)
        for path in paths:
            volumes = [mount.volume for mount in container.spec.volumes if path.startswith(f"{mount.volume.path}/")]
            if not volumes or not container.spec.is_carrier:
                raise EngineFailed(f"make {path}: it is in no volume")
            volumes[0].fifos[path] = Fifo()

    def start(self, target: str) -> None:
        container = self.find(target)
        runner = container.runner_file
        if container.spec.is_carrier or not _is_program(runner):
            raise Refused(_cannot_start(runner))
        if container.status is ContainerStatus.PAUSED:
            raise Refused("cannot start a paused container, try unpause instead")
        if container.spec.network and container.spec.network not in self.networks:
            raise NoSuchContainer(f"network {container.spec.network} not found")  # status 404, as for a container
        if container.status is not ContainerStatus.RUNNING:
            _count(self.starts, container.spec.name)
            container.start()
            self._look_at_leases_later()

    def open_channel(self, target: str, wake: Callable[[], None]) -> ChannelEnd:
        """Another connection to a container; ``wake`` is called whenever there is more of its output."""
        container = self.find(target)
        if container.status is ContainerStatus.PAUSED:
            raise Refused(f"container {target} is paused, unpause the container before attach")
        if container.status is not ContainerStatus.RUNNING:
            raise NotRunning(f"Container {container.spec.id} is not running")
        return container.open_channel(wake)

    def inspect(self, target: str) -> tuple[object, ...]:
        return _row(self.find(target), inspected=True)

    def matching(self, labels: Mapping[str, str | None]) -> list[tuple[object, ...]]:
        return [
            _row(container, inspected=False)
            for container in self.containers.values()
            if _fits(container.spec.labels, labels)
        ]

    def matching_volumes(self, labels: Mapping[str, str | None]) -> list[tuple[str, Mapping[str, str], float]]:
        return [
            (volume.name, volume.labels, volume.created_at_s)
            for volume in self.volumes.values()
            if _fits(volume.labels, labels)
        ]

    def remove_volume(self, name: str) -> None:
        if name in self._ids or self._is_used(name):
            raise Refused(f"remove {name}: volume is in use - [{name}]")
        self.volumes.pop(name, None)

    def _is_used(self, volume: str) -> bool:
        """Whether some container has this volume, which is not its own."""
        if volume not in self.volumes or not (volume.endswith(_SHARED) or self.volumes[volume].shared):
            return False
        specs = (container.spec for container in self.containers.values())
        return any(volume in (spec.shared_volume, *(mount.name for mount in spec.volumes)) for spec in specs)

    def _mount(
        self, labels: Mapping[str, str], name: str, path: str, short_name: str, size_mib: int, inodes: int, read_only: bool
    ) -> FakeMount:
        """The volume of that name; the first container that names it makes it."""
        volume = self.volumes.get(name)
        if volume is None:
            volume = self.volumes[name] = FakeVolume(
                name=name,
                labels={**labels, SHARED_VOLUME_LABEL: short_name},
                created_at_s=time.time(),
                shared=SharedVolume(path, size_mib=size_mib, inodes=inodes),
            )
        if volume.shared is None:
            raise Refused(f"volume {name} is a container's own")
        return FakeMount(name=name, volume=volume.shared, read_only=read_only)

    def _disk_mount(self, name: str, path: str, labels: Mapping[str, str], read_only: bool) -> FakeMount:
        """The volume of that name; the first container that names it makes it. What is in it stays."""
        known = self.volumes.get(name)
        shared = known.shared if known is not None else None
        if shared is None:
            shared = SharedVolume(path, size_mib=_DISK_MIB, inodes=_DISK_INODES, stays=True)
            self.volumes[name] = FakeVolume(name=name, labels=labels, created_at_s=time.time(), shared=shared)
        return FakeMount(name=name, volume=shared, read_only=read_only)

    def _image_for(self, name: str, image: str) -> FakeImage:
        """The image of a container that can be created."""
        if name in self.containers:
            other = self.containers[name].spec.id
            raise NameTaken(f'Conflict. The container name "/{name}" is already in use by container "{other}".')
        known = self._image(image)
        if self.disk_full:
            raise EngineFailed("mkdir /var/lib/docker/overlay2: no space left on device")
        return known

    def _new_id(self, name: str) -> str:
        self._made += 1
        return hashlib.sha256(b"%s %d" % (name.encode(), self._made)).hexdigest()

    def _add(self, spec: FakeSpec) -> None:
        container = FakeContainer(spec, programs=self._programs, later=self._later, began=self._program_began)
        self.containers[spec.name] = self._ids[spec.id] = container

    def kill(self, target: str) -> None:
        container = self.find(target)
        if container.status not in (ContainerStatus.RUNNING, ContainerStatus.PAUSED):
            raise NotRunning(f"Cannot kill container: {target}: Container {container.spec.id} is not running")
        container.end(KILLED)

    def wait_until_ended(self, target: str) -> bool:
        """Whether it has: who calls asks again."""
        return self.find(target).status is ContainerStatus.ENDED

    def pause(self, target: str) -> None:
        """An external action: no call of ours."""
        container = self.find(target)
        if container.status is ContainerStatus.PAUSED:
            raise NotRunning(f"Container {container.spec.id} is already paused")
        if container.status is not ContainerStatus.RUNNING:
            raise NotRunning(f"Container {container.spec.id} is not running")
        container.pause()

    def unpause(self, target: str) -> None:
        """The same."""
        container = self.find(target)
        if container.status is ContainerStatus.PAUSED:
            container.resume()

    def set_limits(self, target: str, memory_mib: int, processes: int) -> None:
        container = self.find(target)
        if container.status is not ContainerStatus.RUNNING:
            raise Refused(f"cannot update container {target}: it is not running")
        container.set_limits(memory_mib, processes)

    def usage(self, target: str) -> int | None:
        container = self.find(target)
        return container.cpu_ns() if container.status in (ContainerStatus.RUNNING, ContainerStatus.PAUSED) else None

    def archive(self, target: str, path: str) -> bytes:
        container = self.find(target)
        try:
            return container.files.packed(posixpath.normpath(path))
        except FileProblem:
            raise NoSuchContainer(
                f"Could not find the file {path} in container {container.spec.name}"
            ) from None

    def remove(self, target: str) -> None:
        container = self._ids.get(target) or self.containers.get(target)
        if container is not None:
            self.remove_alone(container)
            self.remove_volume(f"{container.spec.id}{_SHARED}")
            return
        for name, _, _ in self.matching_volumes({VOLUME_LABEL: target}):
            self.remove_volume(name)

    def remove_alone(self, container: FakeContainer) -> None:
        """Remove a container without its volume, as ``docker rm --force`` does."""
        exit_code = container.exit_code if container.status is ContainerStatus.ENDED else None
        container.end(KILLED if exit_code is None else exit_code)
        del self.containers[container.spec.name], self._ids[container.spec.id]

    def end_all(self) -> None:
        """Kill all containers, as a daemon without live-restore does when it comes back."""
        for container in self.containers.values():
            if container.status in (ContainerStatus.RUNNING, ContainerStatus.PAUSED):
                container.end(KILLED)

    def find(self, target: str) -> FakeContainer:
        """A container by id or name; raises NoSuchContainer."""
        container = self._ids.get(target) or self.containers.get(target)
        if container is None:
            raise NoSuchContainer(f"No such container: {target}")
        return container

    def _program_began(self, spec: FakeSpec) -> None:
        _count(self.runs, spec.labels.get(JOB_LABEL, spec.name))

    def _look_at_leases_later(self) -> None:
        if not self._looks_at_leases:
            self._looks_at_leases = True
            self._later(_LEASE_INTERVAL_S, self._look_at_leases)

    def _look_at_leases(self) -> None:
        """One timer for all: a container has a lease of minutes and lives for less than a second."""
        self._looks_at_leases = False
        now = time.monotonic()
        running = [container for container in tuple(self.containers.values()) if container.look_at_lease(now)]
        if running:
            self._look_at_leases_later()

    def _image(self, reference: str) -> FakeImage:
        image = self.images.get(tagged(reference))
        if image is None:
            image = next((other for other in self.images.values() if other.id == reference), None)
        if image is None:
            raise ImageMissing(f"No such image: {tagged(reference)}")
        return image


def _count(counts: Counter[str], name: str) -> None:
    """Count one more; the oldest entries are dropped."""
    counts[name] += 1
    if len(counts) > _NAMES:
        del counts[next(iter(counts))]


def _is_program(runner: FakeFile | None) -> bool:
    return runner is not None and bool(runner.data) and bool(runner.mode & 0o111)


def _cannot_start(runner: FakeFile | None) -> str:
    """What an engine says of a container whose program cannot be run: the runner is not there, or is none, or it is a carrier."""
    why = "exec format error"
    if runner is None:
        why = f"stat {RUNNER_PATH}: no such file or directory"
    elif not runner.mode & 0o111:
        why = "permission denied"
    return f'OCI runtime create failed: starting container process caused: exec: "{RUNNER_PATH}": {why}: unknown'


def tagged(reference: str) -> str:
    """A reference with its tag, ``latest`` when it names none."""
    if reference.startswith("sha256:") or "@" in reference or ":" in reference.rsplit("/", 1)[-1]:
        return reference
    return reference + ":latest"


def _fits(labels: Mapping[str, str], wanted: Mapping[str, str | None]) -> bool:
    return all(key in labels and value in (None, labels[key]) for key, value in wanted.items())


def _row(container: FakeContainer, *, inspected: bool) -> tuple[object, ...]:
    spec = container.spec
    times = (container.started_at_s, container.ended_at_s)
    told = (container.exit_code, container.oom_killed, *times) if inspected else (None, False, 0.0, 0.0)
    volumes = {mount.volume.path: mount.name for mount in spec.volumes}
    if spec.shared_volume:
        volumes[SHARED_FOLDER] = spec.shared_volume
    return (spec.id, spec.name, container.status.value, spec.labels, spec.created_at_s, *told, volumes)
