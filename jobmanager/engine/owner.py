"""Who owns a container or a volume: labels that let anybody tell whether the owner is still alive.

An owner is proven dead only from inside its own PID namespace, in its own boot: PID and start time name a process
for ever there. For all others time must tell: a container's label says how long it can be of use at most.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache

import psutil

MANAGER_LABEL = "jobmanager.manager"
JOB_LABEL = "jobmanager.job"
OWNER_LABEL = "jobmanager.owner"
LEASE_LABEL = "jobmanager.lease_s"
STUDENT_LABEL = "jobmanager.student_of"  # on a student container: its grading container's name
_MOST_DIGITS = 18
_MOST_RETIRED = 1000

_retired: deque[str] = deque(maxlen=_MOST_RETIRED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that a manager lives in."""

    boot: str
    pid_namespace: str
    pid: int
    started: str

    @classmethod
    def this_process(cls) -> Owner:
        """The calling process."""
        return cls(boot=_boot(), pid_namespace=_pid_namespace(), pid=os.getpid(), started=_started(os.getpid()) or "")

    @classmethod
    def parse(cls, label: str) -> Owner | None:
        """An owner from its label; None when it is not one of ours."""
        words = label.split("/")
        if len(words) != 4 or not _is_number(words[2]):
            return None
        return cls(boot=words[0], pid_namespace=words[1], pid=int(words[2]), started=words[3])

    def label(self) -> str:
        """The owner as a label's value."""
        return f"{self.boot}/{self.pid_namespace}/{self.pid}/{self.started}"

    def is_proven_dead(self) -> bool:
        """Whether this process can see that the owner is gone; False for one that it could not see."""
        if not self.started or (self.boot, self.pid_namespace) != (_boot(), _pid_namespace()):
            return False
        return _started(self.pid) != self.started and not _is_hidden(self.pid)


def labels(manager_id: str, job_id: str, lease_s: float, owner: Owner) -> dict[str, str]:
    """The labels of a job's container and volume."""
    return {
        MANAGER_LABEL: manager_id,
        JOB_LABEL: job_id,
        OWNER_LABEL: owner.label(),
        LEASE_LABEL: str(int(lease_s)),
    }


def retire(manager_id: str) -> None:
    """A manager of this process has closed: what it had to leave on a host is nobody's from now on."""
    _retired.append(manager_id)


def retired() -> frozenset[str]:
    """The managers of this process that have closed; of very many the latest, the others' things wait for its end."""
    return frozenset(_retired.copy())  # a copy is made in one step, whoever closes meanwhile


def why_abandoned(given: Mapping[str, str], created_at_s: float, now_s: float, retired: Collection[str] = ()) -> str:
    """Why the owner of something with these labels is dead, in words; empty when it may be alive.

    Its manager has closed (``retired``), its process is proven dead here, or, for one that nobody here could see, its
    lease is over by the engine's own clock (``now_s``).
    """
    owner = Owner.parse(given.get(OWNER_LABEL, ""))
    if owner is None:
        return ""
    if given.get(MANAGER_LABEL) in retired:
        return "its manager has closed"
    if owner.is_proven_dead():
        return f"its process {owner.pid} has ended"
    if (owner.boot, owner.pid_namespace) == (_boot(), _pid_namespace()):
        return ""
    lease_s = _lease_s(given)
    return f"its lease of {lease_s:.0f} s is over" if created_at_s > 0 and now_s - created_at_s > lease_s else ""


def _lease_s(given: Mapping[str, str]) -> float:
    value = given.get(LEASE_LABEL, "")
    return float(value) if _is_number(value) else float("inf")


def _is_number(word: str) -> bool:
    """Whether a label's word is a number as we write them: other scripts have digits that int() takes, or does not."""
    return word.isascii() and word.isdigit() and len(word) <= _MOST_DIGITS


@cache
def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:  # not Linux
        return f"boot-{psutil.boot_time():.0f}"


@cache
def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return "-"


def _started(pid: int) -> str | None:
    """When a process started, in a form that never changes while it lives; None when there is none, or a zombie.

    Not psutil's create_time on Linux: that moves when the system's clock is set.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else fields[19].decode()
    except FileNotFoundError:
        return None if os.path.exists("/proc/self/stat") else _started_elsewhere(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _is_hidden(pid: int) -> bool:
    """Whether it lives but /proc does not show it: mounted with ``hidepid``, that keeps other users' processes back."""
    try:
        with open(f"/proc/{pid}/stat", "rb"):
            return False
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _started_elsewhere(pid: int) -> str | None:
    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
