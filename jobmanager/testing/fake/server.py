"""The fake engine's process: one loop over a listening socket, its connections, the owner's commands, and timers.

``jobmanager.testing`` starts it. It ends with its owner, whose pipe it watches together with the owner's process: a
forked sibling of the owner may hold the pipe.
"""

from __future__ import annotations

import heapq
import itertools
import os
import pickle
import selectors
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from jobmanager.engine.protocol import EngineError, EngineFailed
from jobmanager.testing.fake.container import ChannelEnd
from jobmanager.testing.fake.daemon import FakeDaemon, tagged
from jobmanager.testing.fake.wire import PIECE, Inbox, packed

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_BACKLOG = 4096
_RECEIVE = 4 * PIECE
_SEND_AHEAD = PIECE  # how much of a stream is buffered before it is sent
_OWNER_CHECK_INTERVAL_S = 0.5
_MOST_WAIT_S = 3600.0  # a selector takes no more than some weeks
_OPEN_CHANNEL = "open_channel"


class Peer:
    """One client's connection."""

    def __init__(self, peer_socket: socket.socket) -> None:
        self.socket = peer_socket
        self.inbox = Inbox()
        self.out = bytearray()
        self.channel: ChannelEnd | None = None  # its bytes are those of a container
        self.broken = False
        self.wants_to_write = False
        self.awaits_reply = False  # a delayed reply, which output must not overtake


class FakeServer:
    """The loop. Its commands, one for each method of ``jobmanager.testing.Faults``, are the ``do_`` methods."""

    def __init__(self, folder: str, commands: socket.socket, owner: int, settings: dict[str, Any]) -> None:
        self._folder = folder
        self._path = os.path.join(folder, "engine.sock")
        self._commands = commands
        self._command_inbox = Inbox()
        self._owner = owner
        self._ending = False
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._listener: socket.socket | None = None
        self._peers: set[Peer] = set()
        self._pending: set[Peer] = set()  # peers with data to send
        self._paused = False
        self._delay_s = 0.0
        self._to_drop: Counter[str] = Counter()
        self._to_refuse: dict[str, tuple[str, int]] = {}
        self._ends_containers = False
        self._daemon = FakeDaemon(
            cores=settings["cores"],
            memory_mib=settings["memory_mib"],
            architecture=settings["architecture"],
            programs=settings["programs"],
            later=self._later,
        )
        self._daemon.registry.update((tagged(reference), labels) for reference, labels in settings["registry"].items())
        self._daemon.networks.update(settings["networks"])
        for reference, labels in settings["images"].items():
            self._daemon.add_image(reference, labels, ("sh",))

    # ---- the loop

    def run(self) -> None:
        """Serve until the owner closes the pipe, or ends."""
        self._listen()
        self._watch_owner()
        self._commands.setblocking(False)
        self._selector.register(self._commands, _READ, self._read_commands)
        try:
            self._commands.send(packed(("", None)))
            while not self._ending:
                for key, events in self._selector.select(self._select_timeout_s()):
                    key.data(events)
                self._run_due()
                self._send_all()
        finally:
            self._close()

    def _select_timeout_s(self) -> float | None:
        return min(_MOST_WAIT_S, max(0.0, self._timers[0][0] - time.monotonic())) if self._timers else None

    def _later(self, pause_s: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + pause_s, next(self._numbers), call))

    def _run_due(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _watch_owner(self) -> None:
        try:
            watched = os.pidfd_open(self._owner)
        except (AttributeError, OSError):  # not Linux, or an old kernel
            self._check_owner()
            return
        self._selector.register(watched, _READ, lambda _: self._end())
        if os.getppid() != self._owner:  # it had ended already
            self._end()

    def _check_owner(self) -> None:
        if os.getppid() != self._owner:
            self._end()
        self._later(_OWNER_CHECK_INTERVAL_S, self._check_owner)

    def _end(self) -> None:
        self._ending = True

    def _close(self) -> None:
        self._close_connections()
        self._selector.close()
        self._commands.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # ---- connections

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self._path)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        self._listener = listener
        self._selector.register(listener, _READ, self._accept)

    def _close_connections(self) -> None:
        """Stop listening and close all connections, as a daemon's death does."""
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
            os.unlink(self._path)
        for peer in tuple(self._peers):
            self._drop(peer)

    def _accept(self, _: int) -> None:
        if self._paused or self._listener is None:
            return
        try:
            accepted, _ = self._listener.accept()
        except OSError:
            return  # the client has closed it again
        accepted.setblocking(False)
        peer = Peer(accepted)
        self._peers.add(peer)
        self._selector.register(accepted, _READ, lambda events: self._ready(peer, events))

    def _ready(self, peer: Peer, events: int) -> None:
        if peer.broken:
            return
        if events & _WRITE:
            self._pending.add(peer)
        if events & _READ:
            self._receive(peer)

    def _receive(self, peer: Peer) -> None:
        try:
            data = peer.socket.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(peer)
        elif peer.channel is not None:
            peer.channel.container.receive(data)
        else:
            for body in peer.inbox.feed(data):
                self._answer(peer, pickle.loads(body))

    def _drop(self, peer: Peer) -> None:
        if peer.broken:
            return
        peer.broken = True
        self._peers.discard(peer)
        self._pending.discard(peer)
        if not self._paused:
            self._selector.unregister(peer.socket)
        peer.socket.close()
        if peer.channel is not None:
            peer.channel.leave()

    # ---- requests

    def _answer(self, peer: Peer, request: tuple[Any, ...]) -> None:
        call, *arguments = request
        self._daemon.note(call, arguments[0] if arguments else "")
        try:
            value = self._carry_out(peer, call, arguments)
        except EngineError as error:
            reply = packed((type(error).__name__, str(error)))
        else:
            reply = packed(("", value))
        if self._to_drop[call] > 0:
            self._to_drop[call] -= 1
            self._drop(peer)
        elif self._delay_s > 0:
            peer.awaits_reply = True
            self._later(self._delay_s, lambda: self._reply(peer, reply))
        else:
            self._reply(peer, reply)

    def _carry_out(self, peer: Peer, call: str, arguments: list[Any]) -> Any:
        message, times = self._to_refuse.get(call, ("", 0))
        if times > 0:
            self._to_refuse[call] = (message, times - 1)
            raise EngineFailed(message)
        if call != _OPEN_CHANNEL:
            return self._daemon.call(call, *arguments)
        peer.channel = self._daemon.open_channel(arguments[0], lambda: self._pending.add(peer))
        return None

    def _reply(self, peer: Peer, reply: bytes) -> None:
        peer.awaits_reply = False
        if not peer.broken:
            peer.out += reply
            self._pending.add(peer)

    # ---- sending

    def _send_all(self) -> None:
        if self._paused:
            return
        waiting, self._pending = self._pending, set()
        for peer in waiting:
            self._send(peer)

    def _send(self, peer: Peer) -> None:
        if peer.broken:
            return
        try:
            while self._fill(peer):
                sent = peer.socket.send(peer.out)
                del peer.out[:sent]
        except BlockingIOError:
            self._want_to_write(peer, True)
            return
        except OSError:
            self._drop(peer)
            return
        self._want_to_write(peer, False)
        if peer.channel is not None and peer.channel.is_over and not peer.awaits_reply:
            self._drop(peer)

    def _fill(self, peer: Peer) -> bool:
        while peer.channel is not None and not peer.awaits_reply and len(peer.out) < _SEND_AHEAD:
            more = peer.channel.take()
            if not more:
                break
            peer.out += more
        return bool(peer.out)

    def _want_to_write(self, peer: Peer, wanted: bool) -> None:
        if wanted != peer.wants_to_write:
            peer.wants_to_write = wanted
            events = _READ | _WRITE if wanted else _READ
            self._selector.modify(peer.socket, events, lambda events: self._ready(peer, events))

    # ---- the owner's commands

    def _read_commands(self, _: int) -> None:
        try:
            data = self._commands.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        for body in self._command_inbox.feed(data):
            name, *arguments = pickle.loads(body)
            try:
                reply = packed(("", getattr(self, "do_" + name)(*arguments)))
            except EngineError as error:
                reply = packed((type(error).__name__, str(error)))
            self._send_all()
            self._tell_owner(reply)

    def _tell_owner(self, reply: bytes) -> None:
        self._commands.setblocking(True)
        try:
            self._commands.sendall(reply)
            self._commands.setblocking(False)
        except OSError:
            self._end()

    def do_stop(self, keep_running: bool) -> None:
        self.do_resume()
        self._ends_containers = not keep_running
        self._close_connections()

    def do_start_again(self) -> None:
        if self._listener is None:
            if self._ends_containers:
                self._daemon.end_all()
            self._listen()

    def do_pause(self) -> None:
        if not self._paused:
            self._paused = True
            for watched in self._watched_sockets():
                self._selector.unregister(watched)

    def do_resume(self) -> None:
        if not self._paused:
            return
        self._paused = False
        if self._listener is not None:
            self._selector.register(self._listener, _READ, self._accept)
        for peer in self._peers:
            peer.wants_to_write = False
            self._selector.register(peer.socket, _READ, lambda events, peer=peer: self._ready(peer, events))
        self._pending |= self._peers

    def _watched_sockets(self) -> list[socket.socket]:
        listening = [self._listener] if self._listener is not None else []
        return [*listening, *(peer.socket for peer in self._peers)]

    def do_drop_replies(self, call: str, times: int) -> None:
        self._to_drop[call] = times

    def do_delay_replies(self, seconds: float) -> None:
        self._delay_s = seconds

    def do_refuse(self, call: str, message: str, times: int) -> None:
        self._to_refuse[call] = (message, times)

    def do_fill_disk(self, full: bool) -> None:
        self._daemon.disk_full = full

    def do_leave_memory(self, available_mib: int | None) -> None:
        self._daemon.available_memory_mib = available_mib

    def do_add_image(self, reference: str, labels: dict[str, str], command: tuple[str, ...]) -> None:
        self._daemon.add_image(reference, labels, command)

    def do_remove_image(self, reference: str) -> None:
        self._daemon.remove_image(reference)

    def do_kill_container(self, name: str) -> None:
        self._daemon.kill(name)

    def do_remove_container(self, name: str) -> None:
        self._daemon.remove_alone(self._daemon.find(name))

    def do_pause_container(self, name: str) -> None:
        self._daemon.pause(name)

    def do_unpause_container(self, name: str) -> None:
        self._daemon.unpause(name)

    def do_containers(self) -> list[tuple[Any, ...]]:
        return [
            (
                container.spec.id,
                container.spec.name,
                container.spec.image,
                container.spec.labels,
                container.status.value,
                container.times_started,
                container.exit_code,
            )
            for container in self._daemon.containers.values()
        ]

    def do_times_started(self, name: str) -> int:
        return self._daemon.starts[name]

    def do_runs(self) -> dict[str, int]:
        return dict(self._daemon.runs)

    def do_history(self) -> list[tuple[str, str]]:
        return list(self._daemon.history)


def serve(folder: str, commands_fd: int, owner: int) -> None:
    """The process's main function. The owner's first message holds the settings."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the owner
    signal.signal(signal.SIGTERM, _leave)
    os.set_inheritable(commands_fd, False)
    commands = socket.socket(fileno=commands_fd)
    settings = _first_message(commands)
    FakeServer(folder, commands, owner, settings).run()


def _first_message(commands: socket.socket) -> dict[str, Any]:
    inbox = Inbox()
    while True:
        data = commands.recv(PIECE)
        if not data:
            raise SystemExit
        for body in inbox.feed(data):
            settings: dict[str, Any] = pickle.loads(body)
            return settings


def _leave(_number: int, _frame: object) -> None:
    raise SystemExit
