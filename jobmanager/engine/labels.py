"""Labels on containers and volumes: they name the owner, so that every manager can find out whether it is still alive.

Whether an owner is dead can be proven only in its own boot, PID namespace and time namespace: only there do PID and start
time identify a process for ever (the kernel shows start times by the clock of the reader's time namespace). Elsewhere the
lease decides: a label says how long a container can be of use at most.

A process's namespaces are read anew each time, as a fork, or a new namespace for its children, changes them.
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
MANAGER_NAME_LABEL = "jobmanager.manager_name"  # for people; not there when the manager has no name
JOB_LABEL = "jobmanager.job"
OWNER_LABEL = "jobmanager.owner"
LEASE_LABEL = "jobmanager.lease_s"
STUDENT_LABEL = "jobmanager.student_of"  # on a student container: its grading container's name
_MAX_DIGITS = 18
_MAX_CLOSED = 1000
_UNKNOWN = "?"

_closed: deque[str] = deque(maxlen=_MAX_CLOSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that a manager runs in."""

    boot: str
    pid_namespace: str
    time_namespace: str  # empty in the labels of versions before 0.2
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

    def is_visible(self) -> bool:
        """Whether this process could see the owner: ``/proc`` shows the processes of our own namespaces and boot."""
        place = (self.boot, self.pid_namespace, self.time_namespace)
        return _UNKNOWN not in place and place == (_boot(), _namespace("pid"), _namespace("time")) and _proc_is_ours()

    def is_proven_dead(self) -> bool:
        """Whether this process can see that the owner is gone; False for an owner that it could not see."""
        if not self.started or not self.is_visible():
            return False
        return _started(self.pid) != self.started and not _is_hidden(self.pid)


def labels(manager_id: str, job_id: str, lease_s: float, owner: Owner, *, manager_name: str = "") -> dict[str, str]:
    """The labels of a job's container and volume."""
    return {
        MANAGER_LABEL: manager_id,
        JOB_LABEL: job_id,
        OWNER_LABEL: owner.label(),
        LEASE_LABEL: str(int(lease_s)),
        **name_label(manager_name),
    }


def name_label(manager_name: str) -> dict[str, str]:
    """The label with a manager's name, if it has one."""
    return {MANAGER_NAME_LABEL: manager_name} if manager_name else {}


def mark_closed(manager_id: str) -> None:
    """A manager of this process has closed: what it left on hosts can be removed from now on."""
    _closed.append(manager_id)


def closed_managers() -> frozenset[str]:
    """The last 1,000 managers of this process that have closed. What earlier ones left is swept when this process ends."""
    return frozenset(_closed.copy())  # copying is atomic, also while another thread appends


def abandonment_reason(
    given: Mapping[str, str], created_at_s: float, now_s: float, closed_managers: Collection[str] = ()
) -> str:
    """Why something with these labels is abandoned, in words; empty when its owner may be alive.

    The manager has closed (``closed_managers``), its process is proven dead, or, where this process could not see it, the
    lease is over by the engine's own clock (``now_s``).
    """
    owner = Owner.parse(given.get(OWNER_LABEL, ""))
    if owner is None:
        return ""
    if given.get(MANAGER_LABEL) in closed_managers:
        return "its manager has closed"
    if owner.is_proven_dead():
        return f"its process {owner.pid} has ended"
    if owner.is_visible():
        return ""
    lease_s = _lease_s(given)
    return f"its lease of {lease_s:.0f} s is over" if created_at_s > 0 and now_s - created_at_s > lease_s else ""


def _lease_s(given: Mapping[str, str]) -> float:
    value = given.get(LEASE_LABEL, "")
    return float(value) if _is_number(value) else float("inf")


def _is_number(word: str) -> bool:
    """Whether a label's word is a number as we write it: ASCII digits, no other script's."""
    return word.isascii() and word.isdigit() and len(word) <= _MAX_DIGITS


@cache
def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return _UNKNOWN if _is_linux() else f"boot-{psutil.boot_time():.0f}"


def _namespace(kind: str) -> str:
    """The number of one of this process's namespaces; "-" where the system has none of that kind."""
    try:
        return os.readlink(f"/proc/self/ns/{kind}").strip(f"{kind}:[]")
    except OSError:
        return _UNKNOWN if _is_linux() and not os.path.exists("/proc/self/stat") else "-"


def _proc_is_ours() -> bool:
    """Whether ``/proc`` shows our PID namespace: a new namespace has the outer one's ``/proc`` until another is mounted."""
    if not _is_linux():
        return True
    try:
        with open("/proc/self/status", "rb") as file:
            pids = next(line.split()[1:] for line in file if line.startswith(b"NSpid:"))
    except (OSError, StopIteration):
        return False
    return len(pids) == 1  # one per namespace, from the mount's down to ours


def _is_linux() -> bool:
    return sys.platform == "linux"


def _started(pid: int | str) -> str | None:
    """When a process started, in a form that never changes while it lives; None for no process or a zombie.

    ``self`` is right even where ``/proc`` is another namespace's. On Linux this is not psutil's create_time, which changes
    when the system's clock is set.
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
    """Whether the process lives but ``/proc`` hides it: with ``hidepid`` it shows no processes of other users.

    It also hides processes of our own user that gave up root's rights and have not executed another program since, such as a
    web server's workers.
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
