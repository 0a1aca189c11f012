"""The Docker hosts of a random run, two at a time: how they are broken, who counts what ran there, what is left."""

from __future__ import annotations

import math
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import psutil

from jobmanager.testing import Burn, FakeEngineServer, ProgramStep
from tests.conftest import BUSYBOX, our_containers, our_volumes
from tests.support.daemons import PrivateDaemon
from tests.support.history import Fault, Left, Record, Witnessed, WitnessLeft
from tests.support.soak_jobs import Dialect
from tests.support.witness import Witness

_RESTORING = 1
_REAL_WEIGHTS = {
    "own exit": 40.0,
    "stdin": 20.0,
    "files": 8.0,
    "sleeper": 8.0,
    "local": 6.0,
    "flood": 4.0,
    "wall": 2.0,
    "cpu": 3.0,
    "memory": 4.0,
    "killed early": 6.0,
    "killed": 4.0,
    "refused": 1.0,
}
FAKE_PROGRAMS: dict[str, list[ProgramStep]] = {"spin": [Burn(math.inf)]}
_FAKE_WEIGHTS = _REAL_WEIGHTS | {"own exit": 60.0, "sleeper": 0.3, "wall": 0.3, "cpu": 0.3, "killed early": 4.0, "killed": 1.0}


class Site(Dialect, Protocol):
    """Two Docker hosts that can be broken."""

    faults: Sequence[Fault]
    urls: Sequence[str]
    slots: int

    def known_as(self, host: int, fault: Fault) -> Fault:
        """What a fault is on this host."""
        ...

    def strike(self, host: int, fault: Fault, chance: random.Random) -> None:
        """Break a host, and mend it."""
        ...

    def witnessed(self, jobs: int) -> Iterator[Record]:
        """How often each job's program began."""
        ...

    def left(self, host: int) -> list[Left]:
        """What is left on a host."""
        ...


@contextmanager
def real_daemons(folder: Path, image_tar: Path) -> Iterator[list[PrivateDaemon]]:
    """The daemons of a ``RealSite``."""
    restoring = PrivateDaemon(folder / "restoring", extra_args=("--live-restore",))
    with PrivateDaemon(folder / "plain") as plain, restoring:
        for daemon in (plain, restoring):
            daemon.load_image(image_tar)
        yield [plain, restoring]


class RealSite:
    """Two private daemons, the second with live-restore: its containers outlive it. The kernel is the witness."""

    image = BUSYBOX
    memory_hog = "head -c 40000000 /dev/zero | tail -n 1"
    spinner = "while :; do :; done"
    wall_s = 1.5
    weights = _REAL_WEIGHTS
    faults = (Fault.DAEMON_KILLED, Fault.DAEMON_TERMINATED, Fault.DAEMON_HUNG)
    slots = 6

    def __init__(self, daemons: Sequence[PrivateDaemon], witness: Witness | None) -> None:
        self._daemons = daemons
        self._witness = witness
        self.urls = [daemon.url for daemon in daemons]

    def program(self, number: int, command: str, code: int) -> str:
        """Its word is a random number that no other run has."""
        known = f"{self._witness.words(number)}; " if self._witness is not None else ""
        word = "read n < /proc/sys/kernel/random/uuid"
        return f'{known}{word}; echo "begun $n"; {command}; code=$?; echo "ended $n"; exit $code'

    def known_as(self, host: int, fault: Fault) -> Fault:
        """With live-restore no container ends with its daemon."""
        alone = {Fault.DAEMON_KILLED: Fault.DAEMON_KILLED_ALONE, Fault.DAEMON_TERMINATED: Fault.DAEMON_AWAY}
        return alone.get(fault, fault) if host == _RESTORING else fault

    def strike(self, host: int, fault: Fault, chance: random.Random) -> None:
        """Break a host, and mend it."""
        daemon = self._daemons[host]
        if fault is Fault.DAEMON_HUNG:
            daemon.pause()
            pass_time(chance.uniform(3.0, 8.0))
            daemon.resume()
            return
        daemon.kill() if fault is Fault.DAEMON_KILLED else daemon.terminate()
        pass_time(chance.uniform(0.0, 2.0))
        daemon.start()
        daemon.wait_until_answers()

    def witnessed(self, jobs: int) -> Iterator[Record]:
        """What the kernel has told."""
        if self._witness is not None:
            for number in range(jobs):
                if times := self._witness.times(number):
                    yield Witnessed(job_id=job_id(number), times=times)
            yield WitnessLeft(saw_all=self._witness.saw_all)

    def left(self, host: int) -> list[Left]:
        """Containers, volumes, and containerd's shims, of which there is one for each container."""
        url, name = self.urls[host], host_name(host)
        shims = [found for found in psutil.process_iter() if _is_shim(found, os.path.dirname(url.removeprefix("unix://")))]
        return [
            *(Left(host=name, what=f"container {found}") for found in our_containers(url)),
            *(Left(host=name, what=f"volume {found}", kept_by_engine=host == _RESTORING) for found in our_volumes(url)),
            *(Left(host=name, what=f"shim {shim.pid}", kept_by_engine=_is_idle(shim)) for shim in shims),
        ]


class FakeSite:
    """Two fake engines, which count themselves what began."""

    image = "fake"
    memory_hog = "fake-oom"
    spinner = "spin"
    wall_s = 0.5
    weights = _FAKE_WEIGHTS
    faults = (
        *(Fault.DAEMON_KILLED, Fault.DAEMON_AWAY, Fault.DAEMON_HUNG),
        *(Fault.REPLIES_DROPPED, Fault.REPLIES_DELAYED),
    )
    slots = 16

    def __init__(self, engines: Sequence[FakeEngineServer]) -> None:
        self._engines = engines
        self.urls = [engine.url for engine in engines]

    def program(self, number: int, command: str, code: int) -> str:
        """Its word is its number."""
        return f"echo begun x{number}; {command}; echo ended x{number}; exit {code}"

    def known_as(self, host: int, fault: Fault) -> Fault:
        """It is what it is."""
        return fault

    def strike(self, host: int, fault: Fault, chance: random.Random) -> None:
        """Break a host, and mend it."""
        faults, seconds = self._engines[host].faults, chance.uniform(0.0, 1.0)
        if fault is Fault.DAEMON_HUNG:
            faults.pause()
            pass_time(seconds)
            faults.resume()
        elif fault is Fault.REPLIES_DELAYED:
            faults.delay_replies(chance.uniform(0.05, 0.5))
            pass_time(seconds)
            faults.delay_replies(0)
        elif fault is Fault.REPLIES_DROPPED:
            faults.drop_replies(chance.choice(["create", "start", "inspect", "remove", "feed", "attach", "logs"]), 5)
            pass_time(seconds)
        else:
            faults.stop(keep_running=fault is Fault.DAEMON_AWAY)
            pass_time(seconds)
            faults.start_again()

    def witnessed(self, jobs: int) -> Iterator[Record]:
        """What the engines have counted."""
        counts: Counter[str] = Counter()
        for engine in self._engines:
            counts.update(engine.runs())
        for found, times in counts.items():
            yield Witnessed(job_id=found, times=times)
        yield WitnessLeft(saw_all=True)

    def left(self, host: int) -> list[Left]:
        """Containers."""
        return [Left(host=host_name(host), what=container.name) for container in self._engines[host].containers()]


def pass_time(seconds: float) -> None:
    """How long a fault lasts."""
    time.sleep(seconds)


def host_name(host: int) -> str:
    """A host's name."""
    return f"host-{host}"


def job_id(number: int) -> str:
    """A job's id."""
    return f"job-{number}"


def _is_shim(process: psutil.Process, folder: str) -> bool:
    try:
        command_line = " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False
    return "containerd-shim" in command_line and f"{folder}/" in command_line


def _is_idle(shim: psutil.Process) -> bool:
    """Whether no program of a job is in there: PID 1 has a child as long as there is one, and another one ever after."""
    try:
        return len(shim.children(recursive=True)) <= 1
    except psutil.Error:
        return True
