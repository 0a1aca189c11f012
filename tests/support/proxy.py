"""A proxy on a unix socket in front of an engine: holds, delays, drops or refuses what goes through it, and counts deliveries.

What comes from the engine can be slow, stand still, or have something else in it.
"""

from __future__ import annotations

import json
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from jobmanager.runner.frames import StartRun
from jobmanager.runner.wire import FrameReader
from tests.support.listener import Listener

_PIECE = 65536
_SLOW_PIECE = 2048
CREATE = r"POST /v[\d.]+/containers/create"
START = r"POST /v[\d.]+/containers/[^/]+/start"
ATTACH = r"POST /v[\d.]+/containers/[^/]+/attach"
STATS = r"GET /v[\d.]+/containers/[^/]+/stats"
KILL = r"POST /v[\d.]+/containers/[^/]+/kill"
REMOVE = r"DELETE /v[\d.]+/containers/"
INSPECT = r"GET /v[\d.]+/containers/[^/]+/json"
LIST = r"GET /v[\d.]+/containers/json"
EVERYTHING = r""


@dataclass
class Rule:
    """What happens to requests whose first line matches."""

    pattern: str
    on_reply: bool = False  # False: before the engine sees it; True: when it has been carried out
    drop: bool = False  # close the connection instead of holding it
    status: int = 0  # answer with it, and carry nothing out
    answer: bytes = b""  # the same with these bytes
    pause_s: float = 0.0  # between two of them, which then never are the whole answer
    hold_s: float = 60.0
    times: float = 1
    skip: int = 0  # so many are let through first
    reached: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


class Link:
    """The way from the engine: all connections share it."""

    def __init__(self) -> None:
        self.bytes_per_s = math.inf
        self.flows = threading.Event()
        self.flows.set()
        self._lock = threading.Lock()
        self._stands_still_after, self._for_s = b"", 0.0
        self._stray = b""
        self._mute_after, self._mutes_left = b"", 0.0
        self._mute: set[socket.socket] = set()  # those that have said the words

    def lose_what_comes_after(self, words: bytes, *, times: float = math.inf) -> None:
        """Of a container's channel nothing comes after these, though it stays open: of so many channels. All else goes on."""
        self._mute_after, self._mutes_left = words, times

    def stand_still_after(self, words: bytes, for_s: float) -> None:
        """Once these have gone through, nothing does for a while. Once."""
        self._stands_still_after, self._for_s = words, for_s

    def inject(self, stray: bytes) -> None:
        """Put this before the next that comes of an attached container's output."""
        self._stray = stray

    def send(self, target: socket.socket, data: bytes, *, output: bool = False) -> None:
        """What the engine says; never while something else waits for a client that does not read."""
        if self._mute_after and output:
            data = self._what_still_comes(target, data)
        if output and self._stray:
            data, self._stray = self._stray + data, b""
        if self._stands_still_after and (at := data.find(self._stands_still_after)) >= 0:
            at += len(self._stands_still_after)
            self._stands_still_after = b""
            self._send_slowly(target, data[:at])
            self.flows.clear()
            self.flows.wait(self._for_s)
            self.flows.set()
            data = data[at:]
        self._send_slowly(target, data)

    def _what_still_comes(self, target: socket.socket, data: bytes) -> bytes:
        if target in self._mute:
            return b""
        at = data.find(self._mute_after) if self._mutes_left > 0 else -1
        if at < 0:
            return data
        self._mutes_left -= 1
        self._mute.add(target)
        return data[: at + len(self._mute_after)]

    def _send_slowly(self, target: socket.socket, data: bytes) -> None:
        size = len(data) if math.isinf(self.bytes_per_s) else _SLOW_PIECE
        for at in range(0, len(data), size or 1):
            self.flows.wait()
            piece = data[at : at + size]
            with self._lock:
                time.sleep(len(piece) / self.bytes_per_s)
            target.sendall(piece)


class Proxy(Listener):
    """Stands between a manager and a daemon."""

    def __init__(self, engine_url: str) -> None:
        super().__init__()
        self._engine_path = engine_url.removeprefix("unix://")
        self._rules: list[Rule] = []
        self._changes: list[tuple[str, Callable[[dict[str, Any]], object]]] = []
        self._lock = threading.Lock()
        self._streams: set[socket.socket] = set()  # connections that carry a container's output
        self.link = Link()
        self.seen: list[str] = []  # first lines of requests
        self.delivered: list[str] = []  # a container's id for each run that was written to its channel whole

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for rule in self._rules:
            rule.go_on.set()
        self.link.flows.set()
        self.link.bytes_per_s = math.inf
        super().__exit__(kind, error, trace)

    def hold(self, pattern: str, *, on_reply: bool = False, times: int = 1, skip: int = 0) -> AbstractContextManager[Rule]:
        """Hold matching requests (or their replies) until the block is left."""
        return self._meanwhile(Rule(pattern, on_reply=on_reply, times=times, skip=skip))

    def drop(self, pattern: str, *, on_reply: bool, times: int) -> Rule:
        """Close the connection on matching requests: before they are carried out, or after."""
        rule = Rule(pattern, on_reply=on_reply, drop=True, times=times)
        self._rules.append(rule)
        return rule

    def refuse(self, pattern: str, status: int, *, times: int) -> Rule:
        """Answer matching requests with this status; the engine never sees them."""
        rule = Rule(pattern, status=status, times=times)
        self._rules.append(rule)
        return rule

    def instead(
        self, answer: bytes, pattern: str = EVERYTHING, *, pause_s: float = 0.0, times: float = math.inf
    ) -> AbstractContextManager[Rule]:
        """Answer so many matching requests with these bytes, all at once or one after the other, until the block is left."""
        return self._meanwhile(Rule(pattern, answer=answer, pause_s=pause_s, times=times))

    def delay(self, seconds: float, pattern: str = EVERYTHING) -> AbstractContextManager[Rule]:
        """Carry matching requests out at once, and answer so much later, until the block is left."""
        return self._meanwhile(Rule(pattern, on_reply=True, hold_s=seconds, times=math.inf))

    @contextmanager
    def _meanwhile(self, rule: Rule) -> Iterator[Rule]:
        self._rules.append(rule)
        try:
            yield rule
        finally:
            rule.times = 0
            rule.go_on.set()

    def lead_to(self, engine_url: str) -> None:
        """What is asked from now on goes to this engine, and all that is open breaks off."""
        self._engine_path = engine_url.removeprefix("unix://")
        self._break_off()
        with self._lock:
            self._streams.clear()

    def break_streams(self) -> None:
        """Break off every attached container's output."""
        with self._lock:
            for connection in self._streams:
                connection.shutdown(socket.SHUT_RDWR)
            self._streams.clear()

    def rewrite(self, pattern: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the JSON that matching requests carry, before the engine sees it."""
        self._changes.append((pattern, change))

    def count(self, pattern: str) -> int:
        """How many requests matched so far."""
        return sum(bool(re.match(pattern, line)) for line in self.seen)

    def _serve(self, client: socket.socket) -> None:
        engine = socket.socket(socket.AF_UNIX)
        with self._kept(engine):
            try:
                engine.connect(self._engine_path)
                with client.makefile("rb") as from_client, engine.makefile("rb") as from_engine:
                    while self._exchange(client, engine, from_client, from_engine):
                        pass
            finally:
                with self._lock:
                    self._streams.discard(client)

    def _exchange(self, client: socket.socket, engine: socket.socket, from_client, from_engine) -> bool:  # type: ignore[no-untyped-def]
        """One request and its reply; False when the connection is over."""
        head = _head(from_client)
        if not head:
            return False
        line = head.split(b"\r\n", 1)[0].decode()
        self.seen.append(line)
        body = from_client.read(_length(head))
        rule = self._met(line, on_reply=False)
        if rule is not None and rule.status:
            client.sendall(_refusal(rule.status))
            return True
        if rule is not None and rule.answer:
            return _say_instead(client, rule)
        if rule is not None and rule.drop:
            return False
        engine.sendall(self._rewritten(line, head, body))
        reply = _head(from_engine)
        rule = self._met(line, on_reply=True) if reply else None
        if not reply or (rule is not None and rule.drop):
            return False
        self.link.send(client, reply)
        if b" 101 " in reply.split(b"\r\n", 1)[0]:
            if re.match(ATTACH, line):
                with self._lock:
                    self._streams.add(client)
            written = _pump_both(client, engine, from_client, from_engine, self.link)
            self.delivered += [line.split("/")[3]] * _runs_in(written)
            return False
        if b"chunked" in reply.lower():
            return _relay_chunks(from_engine, client, self.link)
        self.link.send(client, from_engine.read(_length(reply)))
        return True

    def _rewritten(self, line: str, head: bytes, body: bytes) -> bytes:
        for pattern, change in self._changes:
            if re.match(pattern, line):
                said = json.loads(body)
                change(said)
                body = json.dumps(said).encode()
                head = re.sub(rb"(?i)content-length: *\d+", b"Content-Length: %d" % len(body), head)
        return head + body

    def _met(self, line: str, *, on_reply: bool) -> Rule | None:
        """The rule that a request met, once it has been held as long as that says."""
        with self._lock:
            rule = next((r for r in self._rules if r.times > 0 and r.on_reply == on_reply and re.match(r.pattern, line)), None)
            if rule is None:
                return None
            if rule.skip:
                rule.skip -= 1
                return None
            rule.times -= 1
        rule.reached.set()
        if not (rule.drop or rule.status or rule.answer):
            rule.go_on.wait(rule.hold_s)
        return rule


def _say_instead(client: socket.socket, rule: Rule) -> bool:
    if not rule.pause_s:
        client.sendall(rule.answer)
        return True
    for at in range(len(rule.answer)):
        client.sendall(rule.answer[at : at + 1])
        if rule.go_on.wait(rule.pause_s):
            break
    return False


def _refusal(status: int) -> bytes:
    body = json.dumps({"message": f"refused with {status} on purpose"}).encode()
    return b"HTTP/1.1 %d Refused\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def _runs_in(written: bytes) -> int:
    """How many runs a waiter has sent."""
    return sum(isinstance(message, StartRun) for message in FrameReader().feed(written))


def _head(stream) -> bytes:  # type: ignore[no-untyped-def]
    lines = []
    while (line := stream.readline()) not in (b"\r\n", b""):
        lines.append(line)
    return b"".join(lines) + b"\r\n" if lines else b""


def _length(head: bytes) -> int:
    found = re.search(rb"(?i)content-length: *(\d+)", head)
    return int(found.group(1)) if found else 0


def _relay_chunks(source, client: socket.socket, link: Link) -> bool:  # type: ignore[no-untyped-def]
    while True:
        size_line = source.readline()
        if not size_line:
            return False
        size = int(size_line.strip() or b"0", 16)
        link.send(client, size_line + source.read(size + 2))
        if size == 0:
            return True


def _pump_both(  # type: ignore[no-untyped-def]
    client: socket.socket, engine: socket.socket, from_client, from_engine, link: Link
) -> bytes:
    """Relays both ways to the end; what the client wrote."""
    written = bytearray()

    def down(data: bytes) -> None:
        link.send(client, data, output=True)

    def up(data: bytes) -> None:
        engine.sendall(data)
        written.extend(data)

    back = threading.Thread(target=_pump, args=(from_engine, client, down), daemon=True)
    back.start()
    _pump(from_client, engine, up)
    back.join()
    return bytes(written)


def _pump(source, target: socket.socket, send: Callable[[bytes], None]) -> None:  # type: ignore[no-untyped-def]
    try:
        while data := source.read1(_PIECE):
            send(data)
        target.shutdown(socket.SHUT_WR)
    except (OSError, ValueError):
        for end in (target,):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
