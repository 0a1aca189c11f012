"""Brings the runner to a Docker host: one volume for each build, made and filled by whoever needs it first.

::

    labelled volume of that name?  -- yes --> read back through a carrier  -- the same bytes --> ready
        | no                                       | others, or nothing
        v                                          v
    the carrier "...-fill", whose name is a lock: read back again, write, read back  -- the same --> ready

A carrier is a container that is never started. Only who has the lock writes, and nobody replaces a good binary, so that a
container that starts meanwhile finds the whole one or none. Containers never write: they have the volume read-only.

A volume that is deleted afterwards costs nothing but one start: the engine makes an empty one in its place, and refuses to
start a program that is not there. `is_runner_missing` recognises that, and `ensure(..., again=True)` fills it.
"""

from __future__ import annotations

import io
import logging
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from secrets import token_hex
from typing import Protocol

from jobmanager.engine.labels import LEASE_LABEL, MANAGER_LABEL, MANAGER_NAME_LABEL, OWNER_LABEL, Owner, name_label
from jobmanager.engine.leftovers import CARRIER_LEASE_S, carrier_end
from jobmanager.engine.protocol import (
    BeingRemoved,
    Engine,
    EngineError,
    EngineFailed,
    ImageMissing,
    NameTaken,
    NoSuchContainer,
    Refused,
    Unreachable,
)
from jobmanager.model.container import DiskVolume, EngineInfo
from jobmanager.runner.binaries import binary
from jobmanager.runner.place import RUNNER_MODE, RUNNER_PATH, USER_LABEL, RunnerVolume

_log = logging.getLogger(__name__)

_CLAIM_LEASE_S = 7 * 86400  # where its owner cannot be seen. A manager that lives on has to fill again at worst
_PATIENCE_S = 1.5 * CARRIER_LEASE_S  # with another process that fills
_LOOK_INTERVAL_S = 0.1
_MAX_IMAGES = 3  # an image may be removed while it is used
_MAX_TIMES_IN_USE = 10
_TAR_ROOM = 64 * 1024
_NOT_THERE = ("no such file or directory", "permission denied", "is a directory", "not a directory")


class RunnerBinary(Protocol):
    """The program for one architecture."""

    @property
    def content(self) -> bytes:
        """An ELF file."""
        ...

    @property
    def sha256(self) -> str:
        """Of the content, in hex."""
        ...


def is_runner_missing(error: EngineError) -> bool:
    """Whether a container could not be started since the runner is not in its volume.

    Then `ensure(..., again=True)` fills it, and the same container can be started. If that fails in the same way, it stays so:
    such an engine may mount volumes ``noexec``.
    """
    text = str(error)
    return not isinstance(error, Unreachable) and RUNNER_PATH in text and any(why in text for why in _NOT_THERE)


class RunnerVolumes:
    """The runner's volumes on all hosts of one manager. Any thread may use it, each with an engine of its own."""

    def __init__(
        self,
        *,
        manager_id: str,
        owner: Owner,
        binary_for: Callable[[str], RunnerBinary],
        manager_name: str = "",
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """``binary_for``: the program for an architecture in an engine's words; raises ValueError for one that has none."""
        self._manager_id = manager_id
        self._manager_name = manager_name
        self._owner = owner
        self._binary_for = binary_for
        self._pause = pause
        self._ready: dict[str, RunnerVolume] = {}  # by host
        self._named: dict[str, RunnerVolume] = {}  # by host

    @classmethod
    def of_owner(cls, labels: Mapping[str, str]) -> RunnerVolumes:
        """Those of the manager that has these labels on what is its own."""
        owner = Owner.parse(labels.get(OWNER_LABEL, "")) or Owner.this_process()
        name = labels.get(MANAGER_NAME_LABEL, "")
        return cls(manager_id=labels[MANAGER_LABEL], manager_name=name, owner=owner, binary_for=binary)

    def named(self, engine: Engine, host: str) -> RunnerVolume:
        """The volume as a container names it, whether it is there or not: whoever starts the container finds out.

        Raises Refused for a host whose architecture has no runner, Unreachable.
        """
        if host not in self._named:
            self._named[host] = RunnerVolume(sha256=self._chosen_binary(engine.info(), host).sha256)
        return self._named[host]

    def ensure(self, engine: Engine, host: str, *, again: bool = False) -> RunnerVolume:
        """The volume with the runner, whole and labelled. After the first time this asks the engine nothing, unless ``again``.

        Raises Refused for a host whose architecture has no runner, ImageMissing for one without any image, EngineFailed
        where it cannot be written or is not what was written: then nothing new is left on the host. Or raises Unreachable.
        """
        if not again and host in self._ready:
            return self._ready[host]
        self._ready.pop(host, None)
        chosen = self._chosen_binary(engine.info(), host)
        volume = RunnerVolume(sha256=chosen.sha256)
        owner = {USER_LABEL: self._manager_id, OWNER_LABEL: self._owner.label(), **name_label(self._manager_name)}
        delivery = _Delivery(engine, volume, chosen.content, owner, self._pause)
        try:
            delivery.make_sure()
        except Unreachable:
            raise
        except EngineError as error:
            self._remove_claim(engine, volume)
            raise type(error)(f"host {host}: the volume {volume.name} with the runner cannot be made: {error}") from error
        self._ready[host] = volume
        return volume

    def release(self, engine: Engine, host: str) -> None:
        """This manager has closed, and its containers are gone: the volume may be swept once nobody else uses it."""
        volume = self._ready.pop(host, None)
        if volume is not None:
            self._remove_claim(engine, volume)

    def _chosen_binary(self, info: EngineInfo, host: str) -> RunnerBinary:
        try:
            return self._binary_for(info.architecture)
        except ValueError as error:
            raise Refused(f"host {host}: {error}") from error

    def _remove_claim(self, engine: Engine, volume: RunnerVolume) -> None:
        with suppress(EngineError):  # a sweep finds it when this process has ended
            engine.remove_volume(volume.claim_name(self._manager_id))


class _Delivery:
    """One binary on its way to one host."""

    def __init__(
        self,
        engine: Engine,
        volume: RunnerVolume,
        content: bytes,
        owner: dict[str, str],
        pause: Callable[[float], object],
    ) -> None:
        self._engine = engine
        self._volume = volume
        self._content = content
        self._owner = owner
        self._pause = pause
        self._times_in_use = 0

    def make_sure(self) -> None:
        """The volume is there, is ours, and has the binary; raises EngineError."""
        if self._is_labelled() and self._is_whole_for_a_reader():
            return
        until = time.monotonic() + _PATIENCE_S
        while not self._fill():
            if time.monotonic() > until:
                raise EngineFailed(f"another process has been at it for {_PATIENCE_S:g} s (container {self._lock})")
            self._pause(_LOOK_INTERVAL_S)

    @property
    def _lock(self) -> str:
        """Name of the carrier that writes: the engine gives it to one of us at a time."""
        return f"{self._volume.name}-fill"

    def _fill(self) -> bool:
        """Whether it is whole now; False: try again."""
        try:
            with self._carrier(self._lock, read_only=False) as carrier:
                if self._is_labelled():
                    self._write(carrier)
                    return True
        except NameTaken:
            self._remove_abandoned_lock()
            return False
        except NoSuchContainer:  # we were so slow that another process took our carrier for abandoned
            return False
        except (EngineFailed, ImageMissing, Refused):
            self._remove_unfilled()
            raise
        self._remove_a_strangers()
        return False

    def _write(self, carrier: str) -> None:
        if self._is_whole(carrier):
            return  # another process has filled it
        self._engine.write_file(carrier, RUNNER_PATH, self._content, RUNNER_MODE)
        if not self._is_whole(carrier):
            raise EngineFailed("what is read back is not what was written")

    def _is_labelled(self) -> bool:
        """Whether the volume is there, and is ours: a stranger's has other labels, and a labelled one is swept one day."""
        return any(volume.name == self._volume.name for volume in self._engine.volumes(self._volume.labels))

    def _is_whole_for_a_reader(self) -> bool:
        with self._carrier(f"{self._volume.name}-check-{token_hex(4)}", read_only=True) as carrier:
            return self._is_whole(carrier)

    def _is_whole(self, carrier: str) -> bool:
        try:
            packed = self._read(carrier)
        except NoSuchContainer:  # no such file
            return False
        try:
            return _is_packed_runner(packed, self._content)
        except (tarfile.TarError, ValueError):
            return False

    def _read(self, carrier: str) -> bytes:
        """The archive, or so much of it that it is too long."""
        packed = bytearray()
        for piece in self._engine.archive(carrier, RUNNER_PATH):
            packed += piece
            if len(packed) > len(self._content) + _TAR_ROOM:
                break
        return bytes(packed)

    @contextmanager
    def _carrier(self, name: str, *, read_only: bool) -> Iterator[str]:
        """A container that has the volume and is never started. Its create call makes the volume, after the claim to it."""
        claim = self._volume.claim(self._owner[USER_LABEL], {**self._owner, LEASE_LABEL: str(_CLAIM_LEASE_S)})
        labels = {**self._volume.labels, **self._owner, LEASE_LABEL: str(CARRIER_LEASE_S)}
        carrier = self._created(name, labels, (claim, self._volume.mount(read_only=read_only)))
        try:
            yield carrier
        finally:
            try:
                self._engine.remove(carrier)
            except EngineError as error:
                _log.warning("container %s cannot be removed: %s", name, error)  # its lease ends soon

    def _created(self, name: str, labels: dict[str, str], volumes: Sequence[DiskVolume]) -> str:
        missing = ImageMissing("it takes an image, any image, and the host has none")
        for image in self._engine.images()[:_MAX_IMAGES]:
            try:
                return self._engine.create_carrier(name, image.id, labels, volumes)
            except ImageMissing as error:  # somebody has removed it meanwhile
                missing = error
        raise missing

    def _remove_abandoned_lock(self) -> None:
        try:
            found = self._engine.inspect(self._lock)
        except NoSuchContainer:
            return
        if carrier_end(found, self._engine.info().now_s):
            with suppress(BeingRemoved):
                self._engine.remove(found.id)  # by its id: the name may be the next one's already

    def _remove_a_strangers(self) -> None:
        """A volume of this name without our labels: labels cannot be changed. Another process's carrier may have it, too."""
        if self._is_labelled():
            return
        try:
            self._engine.remove_volume(self._volume.name)
        except Refused:
            self._times_in_use += 1
            if self._times_in_use == _MAX_TIMES_IN_USE:
                raise

    def _remove_unfilled(self) -> None:
        with suppress(EngineError):  # in use, or never made
            self._engine.remove_volume(self._volume.name)


def _is_packed_runner(packed: bytes, content: bytes) -> bool:
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as tar:
        member = tar.next()
        if member is None or not member.isreg() or (member.size, member.mode & 0o7777) != (len(content), RUNNER_MODE):
            return False
        file = tar.extractfile(member)
        return file is not None and file.read() == content
