"""A program in the runner's place, of any size and of random bytes, so that each test has a volume of its own."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from jobmanager.engine.labels import Owner
from jobmanager.engine.protocol import Engine
from jobmanager.engine.runner_volume import RunnerVolumes
from jobmanager.runner.place import RUNNER_LABEL, RunnerVolume

HOST = "h"


@dataclass(frozen=True)
class Program:
    """A binary of which the host has no volume yet."""

    content: bytes

    @classmethod
    def of_random_bytes(cls, size: int) -> Program:
        return cls(secrets.token_bytes(size))

    @property
    def sha256(self) -> str:
        return sha256(self.content).hexdigest()

    @property
    def volume(self) -> RunnerVolume:
        return RunnerVolume(sha256=self.sha256)


def store(
    program: Program, manager: str = "", owner: Owner | None = None, pause: Callable[[float], object] = time.sleep
) -> RunnerVolumes:
    """As one manager has it."""
    return RunnerVolumes(
        manager_id=manager or secrets.token_hex(6), owner=owner or Owner.this_process(), binary_for=lambda _: program, pause=pause
    )


def left_of(engine: Engine, program: Program) -> set[str]:
    """Names of all that has this build's label."""
    labels = {RUNNER_LABEL: program.sha256}
    return {each.name for each in (*engine.volumes(labels), *engine.list(labels))}


def make_find_and_remove(engine: Engine) -> None:
    """A manager makes the volume, a later one finds it; afterwards nothing is left."""
    program = Program.of_random_bytes(3 * 2**20)
    managers = store(program), store(program)
    try:
        for manager in managers:
            assert manager.ensure(engine, HOST) == program.volume
        for manager in managers:
            manager.release(engine, HOST)
        assert left_of(engine, program) == {program.volume.name}
    finally:
        engine.remove_volume(program.volume.name)
