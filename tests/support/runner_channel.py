"""Channels to the bare runner, in the place of an engine's: they break where the test says, and lose what was on its way."""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import cast

from jobmanager.engine.protocol import Engine
from tests.support.bare_runner import BareRunner

_LOST_BYTES = 100_000  # what an engine has read from the container and can give to nobody


class RunnerChannels:
    """Opens channels to a bare runner, as an engine does."""

    def __init__(self, runner: BareRunner) -> None:
        self.breaks_after: int | None = None  # bytes that each channel reads before its connection is lost
        self.opened = 0
        self._runner = runner

    @property
    def engine(self) -> Engine:
        return cast(Engine, self)

    def open_channel(self, _: str) -> RunnerChannel:
        self.opened += 1
        return RunnerChannel(self._runner, self.breaks_after)


class RunnerChannel:
    """A channel over the runner's pipes. What was written and has not gone out is lost with it, in the middle of a frame, too."""

    def __init__(self, runner: BareRunner, breaks_after: int | None) -> None:
        self._runner = runner
        self._left = breaks_after
        self._written = bytearray()
        self._wake_read, self._wake_write = os.pipe()
        self._is_closed = False

    def read(self, timeout_s: float) -> bytes | None:
        if self._left == 0:
            self._runner.discard(_LOST_BYTES)
            return None
        events = self._wait(timeout_s)
        if self._runner.stdin.fileno() in events:
            self._write_some()
        if self._wake_read in events:
            os.read(self._wake_read, 100)
        if self._runner.stdout.fileno() not in events:
            return b""
        return self._read_some()

    def write(self, data: bytes) -> None:
        self._written += data

    @property
    def unsent(self) -> int:
        return len(self._written)

    def wake(self) -> None:
        os.write(self._wake_write, b"x")

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _wait(self, timeout_s: float) -> set[int]:
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        poll.register(self._runner.stdout, select.POLLIN)
        if self._written:
            poll.register(self._runner.stdin, select.POLLOUT)
        return {descriptor for descriptor, _ in poll.poll(timeout_s * 1000)}

    def _write_some(self) -> None:
        with suppress(BlockingIOError):
            del self._written[: os.write(self._runner.stdin.fileno(), self._written)]

    def _read_some(self) -> bytes | None:
        most = 2**18 if self._left is None else min(2**18, self._left)
        content = os.read(self._runner.stdout.fileno(), most)
        if self._left is not None:
            self._left -= len(content)
        return content or None
