"""The volumes of pipelines on their way out: removed when no container has them any more, tried again when that fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jobmanager.scheduling.commands import DeleteVolumes

VOLUME_TRIES = 4  # after so many, closing waits for a volume no longer
MAX_VOLUME_TRIES = 12  # after so many, sweeping is left to remove it
_DELETE_DELAYS_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


def delete_delay_s(tries: int) -> float:
    """The pause before a container or a volume is removed again, after so many tries in vain."""
    return _DELETE_DELAYS_S[min(tries, len(_DELETE_DELAYS_S) - 1)]


def volume_name(slot: str, name: str) -> str:
    """The engine's name of a job's volume."""
    return f"{slot}-v-{name}"


def pipes_name(slot: str) -> str:
    """The engine's name of the volume through which a job's program talks with its interactor."""
    return f"{slot}-pipes"


@dataclass(slots=True, kw_only=True)
class _LeftVolumes:
    command: DeleteVolumes
    tries: int = 0


class LeftVolumes:
    """Volumes whose containers are gone, by the slot that they belonged to. Not thread-safe: the ledger's lock guards it."""

    def __init__(self, send: Callable[[DeleteVolumes], None]) -> None:
        self._send = send
        self._left: dict[str, _LeftVolumes] = {}

    def delete(self, host: str, slot: str, names: tuple[str, ...]) -> None:
        """Have volumes removed."""
        left = self._left[slot] = _LeftVolumes(command=DeleteVolumes(host=host, slot=slot, names=names))
        self._send(left.command)

    def deleted(self, slot: str) -> None:
        """They are gone."""
        self._left.pop(slot, None)

    def deletion_failed(self, slot: str) -> None:
        """Try again later. After some tries sweeping is left to do it, after this manager's end: records would add up."""
        left = self._left.get(slot)
        if left is None:
            return
        delay_s = delete_delay_s(left.tries)
        left.tries += 1
        if left.tries > MAX_VOLUME_TRIES:
            del self._left[slot]
            return
        command = left.command
        self._send(DeleteVolumes(host=command.host, slot=slot, names=command.names, delay_s=delay_s))

    def are_gone(self) -> bool:
        """Whether they are gone, or cannot be removed."""
        return all(left.tries >= VOLUME_TRIES for left in self._left.values())
