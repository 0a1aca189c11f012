"""The runner in a container of any engine, the fake one included, over that engine's own channel."""

from __future__ import annotations

from collections.abc import Mapping

from jobmanager.engine.protocol import Channel, Engine
from jobmanager.runner.frames import InputFrom, Put
from tests.support.driven_runner import DrivenRunner, RunRecord


class ChannelRunner(DrivenRunner):
    """The runner of a container that runs.

    Args:
        lease_s: in each Hello.
    """

    def __init__(self, engine: Engine, container: str, *, lease_s: float = 60) -> None:
        super().__init__(lease_s=lease_s)
        self._engine = engine
        self.container = container
        self._channel: Channel | None = None
        self.resume(0)

    def detach(self) -> None:
        """Be a waiter that died: its connection is closed."""
        self.close()
        self._arrived.clear()

    def resume(self, read_from: int | None = None, session: int | None = None) -> None:
        if self._channel is None:
            self._channel = self._engine.open_channel(self.container)
            self._closed = False
        super().resume(read_from, session)

    def close(self) -> None:
        """Close its channel, if it has one."""
        if self._channel is not None:
            self._channel.close()
        self._channel = None
        self._unsent.clear()

    def put(self, files: Mapping[str, bytes], *, mode: int = 0o644) -> None:
        """Send files of up to a message's size by their paths in the workspace."""
        for path, content in files.items():
            self.send(Put(path=f"/job/{path}".encode(), mode=mode, mtime_s=1, data=content))

    def do(self, *argv: str, stdin: bytes | InputFrom = b"", **fields: object) -> RunRecord:
        """Run a program to its end."""
        return self.run(argv, stdin=stdin, **fields)

    def shell(self, command: str, **fields: object) -> RunRecord:
        """Run a text as a shell would."""
        return self.do("sh", "-c", command, **fields)  # type: ignore[arg-type]

    def _exchange(self, timeout_s: float) -> None:
        assert self._channel is not None
        if self._unsent:
            self._channel.write(bytes(self._unsent))
            self._unsent.clear()
        data = self._channel.read(timeout_s)
        self._closed = data is None
        self._arrived += self._reader.feed(data or b"")
        self._give_sign_of_life()

    def flush(self, timeout_s: float = 20) -> None:
        self._until(lambda: self._channel is not None and not self._channel.unsent, timeout_s, "the runner does not read")

    def _ends(self) -> tuple[int, int]:
        raise NotImplementedError

    def _receive(self) -> bytes | None:
        raise NotImplementedError

    def standard_error(self) -> str:
        return ""

    def _last_words(self) -> str:
        return f"{self._engine.inspect(self.container)}"
