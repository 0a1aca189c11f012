"""Who owns a container or a volume: labels that let anybody tell whether the owner is still alive.

An owner is proven dead only from inside its own PID and time namespace, in its own boot: PID and start time name a
process for ever there (the kernel shows start times by the clock of the reader's time namespace). For all others time
must tell: a container's label says how long it can be of use at most.

Where a process is, is read anew each time: a fork, or its child's first moment in a new namespace, changes it.
"""

from __future__ import annotations

import os
import sys
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
_UNKNOWN = "?"

_retired: deque[str] = deque(maxlen=_MOST_RETIRED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that a manager lives in."""

    boot: str
    pid_namespace: str
    time_namespace: str  # empty in the labels of versions before 0.2, which did not tell
    pid: int
    started: str

    @classmethod
    def this_process(cls) -> Owner:
        """The calling process."""
        return cls(
            boot=_boot(),
            pid_namespace=_namespace("pid"),
            time_namespace=_namespace("time"),
            pid=os.getpid(),
            started=_started("self") or "",
        )

    @classmethod
    def parse(cls, label: str) -> Owner | None:
        """An owner from its label; None when it is not one of ours."""
        words = label.split("/")
        if len(words) not in (4, 5) or not _is_number(words[2]):
            return None
        boot, pid_namespace, pid, started, time_namespace = (*words, "")[:5]
        return cls(boot=boot, pid_namespace=pid_namespace, time_namespace=time_namespace, pid=int(pid), started=started)

    def label(self) -> str:
        """The owner as a label's value."""
        return f"{self.boot}/{self.pid_namespace}/{self.pid}/{self.started}/{self.time_namespace}"

    def is_in_sight(self) -> bool:
        """Whether this process could see it: ``/proc`` shows processes of its namespaces, in its boot."""
        place = (self.boot, self.pid_namespace, self.time_namespace)
        return _UNKNOWN not in place and place == (_boot(), _namespace("pid"), _namespace("time")) and _proc_is_ours()

    def is_proven_dead(self) -> bool:
        """Whether this process can see that the owner is gone; False for one that it could not see."""
        if not self.started or not self.is_in_sight():
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
    if owner.is_in_sight():
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
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return _UNKNOWN if _is_linux() else f"boot-{psutil.boot_time():.0f}"


def _namespace(kind: str) -> str:
    """The number of one of this process's namespaces; "-" where there are none of the kind."""
    try:
        return os.readlink(f"/proc/self/ns/{kind}").strip(f"{kind}:[]")
    except OSError:
        return _UNKNOWN if _is_linux() and not os.path.exists("/proc/self/stat") else "-"


def _proc_is_ours() -> bool:
    """Whether ``/proc`` shows our PID namespace: in a new one, an outer one's stays until somebody mounts another."""
    if not _is_linux():
        return True
    try:
        with open("/proc/self/status", "rb") as file:
            pids = next(line.split()[1:] for line in file if line.startswith(b"NSpid:"))
    except (OSError, StopIteration):
        return False
    return len(pids) == 1  # one for each namespace from that of the mount down to ours


def _is_linux() -> bool:
    return sys.platform == "linux"


def _started(pid: int | str) -> str | None:
    """When a process started, in a form that never changes while it lives; None when there is none, or a zombie.

    ``self`` is right even where ``/proc`` is another namespace's. Not psutil's create_time on Linux: that moves when
    the system's clock is set.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else fields[19].decode()
    except FileNotFoundError:
        return None if _is_linux() else _started_elsewhere(os.getpid() if pid == "self" else int(pid))
    except (ProcessLookupError, PermissionError):
        return None


def _is_hidden(pid: int) -> bool:
    """Whether it lives but /proc does not show it: mounted with ``hidepid``, that keeps other users' processes back.

    Also those of our own user that gave up root's rights and have not begun another program since: a web server's workers.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb"):
            return False
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return _is_linux()


def _started_elsewhere(pid: int) -> str | None:
    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
