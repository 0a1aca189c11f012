"""What stands between a monitor and a program that is talked to while it runs."""

from __future__ import annotations

from typing import Protocol

from jobmanager.watching.pumps import InputPump, MessagePump


class ProgramSession(Protocol):
    """Talks to a container's program. The monitor's thread calls it, so no method may block.

    What it puts into its pumps is sent soon after ``ContainerMonitor.wake``.
    """

    @property
    def input(self) -> InputPump | None:
        """The program's standard input; None: it has none."""
        ...

    @property
    def messages(self) -> MessagePump | None:
        """What is sent to the program's channel; None: it has none."""
        ...

    def on_start(self) -> None:
        """The program has started."""
        ...

    def on_output(self, stderr: bool, data: bytes) -> None:
        """It has printed this: each byte comes once."""
        ...

    def on_message(self, data: bytes) -> None:
        """It has sent this over its channel."""
        ...

    def on_end(self) -> None:
        """The program has ended, or is about to be ended. May be called more than once."""
        ...
