"""A witness outside the containers: the kernel tells it whenever a process on this machine gives itself a name.

A job writes its number into ``/proc/self/comm`` as the first thing it does. Whatever becomes of its output, its container
and the daemon then, the kernel's process events have told that it began, so programs that ran twice are found although
only one of the runs has given a result. Needs root in the machine's first PID namespace, and Linux.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import struct
import threading
from collections import Counter
from types import TracebackType

_NETLINK_CONNECTOR = 11
_PROCESSES = 1  # the connector's number of the process events, and of their group
_LISTEN, _IGNORE = 1, 2
_NAMED = 0x200  # PROC_EVENT_COMM
_NAME_AT, _NAME_BYTES = 60, 16  # behind the netlink header, the connector's header and the event's own
_KIND_AT = 36
_SO_RCVBUFFORCE = 33
_SO_ATTACH_FILTER = 26
_BUFFER_BYTES = 4 * 2**20
_GLANCE_S = 0.2


class NoWitness(Exception):
    """This machine does not tell."""


class Witness:
    """Counts names. ``with`` listens; raises NoWitness where that cannot be."""

    def __init__(self) -> None:
        self._prefix = f"j{secrets.token_hex(2)}-"
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="witness", daemon=True)
        self._socket: socket.socket | None = None
        self.saw_all = True

    def words(self, number: int) -> str:
        """A shell command by which job ``number`` makes itself known."""
        return f"echo {self._prefix}{number} > /proc/self/comm"

    def times(self, number: int) -> int:
        """How often that was seen."""
        with self._lock:
            return self._counts[f"{self._prefix}{number}"]

    def __enter__(self) -> Witness:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_CONNECTOR)
            self._socket.bind((0, _PROCESSES))
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            _let_through(self._socket, self._prefix)
            self._ask(_LISTEN)
            self._see_oneself()
        except (AttributeError, OSError, NoWitness) as error:
            self.__exit__(None, None, None)
            raise NoWitness(f"the kernel tells of no processes here: {error}") from error
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._socket is not None:
            self._socket.close()

    def _see_oneself(self) -> None:
        """The kernel accepts every listener, and tells only some: in another PID namespace, none."""
        assert self._socket is not None
        self._socket.settimeout(1.0)
        task = f"/proc/self/task/{threading.get_native_id()}/comm"
        with open(task) as file:
            name_before = file.read()
        for name in (f"{self._prefix}me", name_before):
            with open(task, "w") as file:
                file.write(name.strip())
        self._socket.recv(4096)

    def _ask(self, what: int) -> None:
        assert self._socket is not None
        said = struct.pack("=IIIIHHI", _PROCESSES, _PROCESSES, 0, 0, 4, 0, what)
        self._socket.send(struct.pack("=IHHII", 16 + len(said), 3, 0, 0, os.getpid()) + said)

    def _listen(self) -> None:
        assert self._socket is not None
        self._socket.settimeout(_GLANCE_S)
        while True:
            try:
                told = self._socket.recv(4096)
            except TimeoutError:
                if self._ending.is_set():
                    return
            except OSError:  # more events than its buffer holds
                self.saw_all = False
            else:
                self._count(told)

    def _count(self, told: bytes) -> None:
        name = told[_NAME_AT : _NAME_AT + _NAME_BYTES].split(b"\0")[0].strip().decode("ascii", "replace")
        with self._lock:
            self._counts[name] += 1


def _let_through(listener: socket.socket, prefix: str) -> None:
    """Have the kernel send names that begin as ours and nothing else: a busy machine starts thousands of processes."""
    named = socket.htonl(_NAMED) & 0xFFFFFFFF
    begins = int.from_bytes(prefix[:4].encode(), "big")
    load, is_equal, give = 0x20, 0x15, 0x06
    steps = (
        (load, 0, 0, _KIND_AT),
        (is_equal, 0, 3, named),
        (load, 0, 0, _NAME_AT),
        (is_equal, 0, 1, begins),
        (give, 0, 0, 0xFFFFFFFF),
        (give, 0, 0, 0),
    )
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(steps), ctypes.addressof(program)))
