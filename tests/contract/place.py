"""An engine under test, and what a test made there; one job's way through a container."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_hex

from jobmanager.engine.pid1 import EndMark, Mark, MarkedStream, cpu_before, end_mark, payload

from jobmanager.engine.protocol import Engine, EngineFailed, OutputStream
from jobmanager.model.container import ContainerInfo, ContainerSpec, ContainerStatus, ImageDefaults, VolumeMount
from jobmanager.model.host import Address
from jobmanager.model.limits import Limits
from tests.conftest import BUSYBOX as IMAGE
from tests.conftest import SLOWNESS, eventually

LABEL = "jobmanager.contract-test"
PATIENCE_S = 20.0 * SLOWNESS


@dataclass
class Run:
    """One job's way through a container, as seen from outside."""

    container: str
    token: str
    stdout: bytes = b""
    stderr: bytes = b""
    result: bytes = b""
    marks: list[tuple[bool, Mark]] = field(default_factory=list)  # on stderr?, mark

    @property
    def words(self) -> list[str]:
        """The words of the marks on standard output."""
        return [mark.word for stderr, mark in self.marks if not stderr]

    @property
    def end(self) -> EndMark:
        return self.ends[0]

    @property
    def ends(self) -> list[EndMark]:
        """What each stream's end mark says: standard error's, then standard output's."""
        cpu = cpu_before(self.rest("got"))
        found = [end_mark(mark.rest, cpu) for _, mark in sorted(self.marks, key=lambda m: not m[0]) if mark.word == "end"]
        assert None not in found, self.marks
        return [mark for mark in found if mark is not None]

    def rest(self, word: str) -> str:
        return next(mark.rest for _, mark in self.marks if mark.word == word)


class Place:
    """An engine under test, and what a test made there."""

    def __init__(self, engine: Engine, address: Address, remove_alone: Callable[[str], None]) -> None:
        self.engine = engine
        self.remove_alone = remove_alone  # a stranger removes a container, and leaves its volume
        self.address = address
        self.image = IMAGE
        self.label = token_hex(6)
        self._made: list[str] = []
        self._volumes: list[str] = []
        self._streams: list[OutputStream] = []

    def create(
        self,
        *,
        limits: Limits | None = None,
        labels: Mapping[str, str] | None = None,
        name: str = "",
        image_volumes: tuple[str, ...] = (),
        **spec: object,
    ) -> str:
        """A container that was never started; its name. ``image_volumes``: paths of which its image says that they are volumes."""
        name = self.named(name)
        labels = {LABEL: self.label, **(labels or {})}
        limits = limits or Limits(memory_mib=64, workspace_mib=4)
        made = ContainerSpec(name=name, image=self.image, labels=labels, limits=limits, **spec)  # type: ignore[arg-type]
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

    def started(self, **options: object) -> str:
        """A container that waits for its job."""
        name = self.create(**options)  # type: ignore[arg-type]
        self.engine.start(name)
        return name

    def ended(self) -> str:
        """A container whose PID 1 ended with 125, since it got no job."""
        name = self.started()
        self.engine.feed(name, b"", PATIENCE_S)
        self.until_ended(name)
        return name

    def pause(self, name: str) -> None:
        """Pause it; runc gives up freezing a container whose processes hardly get to run, as on a busy machine."""

        def is_frozen() -> bool:
            try:
                self.engine.pause(name)
            except EngineFailed:
                return False
            return True

        eventually(is_frozen, what="it is paused")

    def attached(self, name: str) -> OutputStream:
        self._streams.append(self.engine.attach(name))
        return self._streams[-1]

    def followed(self, name: str) -> OutputStream:
        self._streams.append(self.engine.logs(name))
        return self._streams[-1]

    def begin(
        self,
        command: str | tuple[str, ...],
        *,
        env: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
        stdin: bytes = b"",
        limits: Limits | None = None,
        wipe: Sequence[str] = (),
        secrets: Mapping[str, bytes] | None = None,
        volume_devices: Mapping[str, str] | None = None,
        **spec: object,
    ) -> tuple[Run, OutputStream]:
        """A container that was given this job."""
        name = self.started(limits=limits, **spec)
        stream = self.attached(name)
        run = Run(name, token_hex(8))
        job = payload(
            run.token,
            command=command,
            env=env or {},
            files=files or {},
            stdin=stdin,
            wipe=wipe,
            secrets=secrets or {},
            volume_devices=volume_devices or {},
        )
        self.engine.feed(name, job, PATIENCE_S)
        return run, stream

    def run(self, command: str | tuple[str, ...], **options: object) -> Run:
        """The whole of a job, up to PID 1's last word."""
        run, stream = self.begin(command, **options)  # type: ignore[arg-type]
        self.read(run, stream, lambda: bool({"bye", "no"} & set(run.words)) and len(run.ends) in (0, 2))
        return run

    def read(self, run: Run, stream: OutputStream, enough: Callable[[], bool]) -> None:
        """Read until there is enough, or to the stream's end."""
        sorters = {stderr: MarkedStream(run.token) for stderr in (False, True)}
        deadline = time.monotonic() + PATIENCE_S
        while not enough():
            assert time.monotonic() < deadline, f"no end of {run}"
            chunks = stream.read(1.0)
            if chunks is None:
                return
            for chunk in chunks:
                for piece in sorters[chunk.stderr].feed(chunk.data):
                    _sort(run, chunk.stderr, piece)

    def archived(self, container: str, path: str = "/job") -> dict[str, bytes | None]:
        """A container's files (None: a folder) by their names in the archive."""
        tar = b"".join(self.engine.archive(container, path))
        with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
            return {member.name: opened.extractfile(member).read() if member.isfile() else None for member in opened}  # type: ignore[union-attr]

    def until_ended(self, name: str) -> ContainerInfo:
        eventually(lambda: self.engine.inspect(name).status is ContainerStatus.ENDED)
        return self.engine.inspect(name)

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
        for name in reversed(self._made):  # what has another one's volume first
            self.engine.remove(name)
        for name in self._volumes:
            self.engine.remove_volume(name)
        left = [*self.engine.list({LABEL: self.label}), *self.engine.volumes({LABEL: self.label})]
        self.engine.close()
        assert left == []


def _sort(run: Run, stderr: bool, piece: bytes | Mark) -> None:
    if isinstance(piece, Mark):
        run.marks.append((stderr, piece))
    elif stderr:
        run.stderr += piece
    elif "end" in run.words:
        run.result += piece
    else:
        run.stdout += piece
