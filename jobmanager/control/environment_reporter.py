"""Which environments there are: hooks hear of a change, and the log of an environment that is several images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from jobmanager.events import EnvironmentsChanged
from jobmanager.hooks import HookManager
from jobmanager.model.container import Image
from jobmanager.scheduling.hosts import ENVIRONMENT_LABEL, Version
from jobmanager.scheduling.ledger import Ledger
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_INHERITED = f" (an image that is made FROM one of them has its label, unless it says LABEL {ENVIRONMENT_LABEL}= itself)"


class EnvironmentReporter:
    """Reports changes of the environments that the hosts have. Not thread-safe."""

    def __init__(self, ledger: Ledger, hooks: HookManager) -> None:
        self._ledger = ledger
        self._hooks = hooks
        self._images: dict[str, tuple[Image, ...]] = {}  # by host, as they were seen last
        self._names: tuple[str, ...] = ()
        self._versions: Mapping[str, Sequence[Version]] = {}  # which the log has

    def host_answered(self, host: str, images: tuple[Image, ...], *, was_down: bool) -> None:
        """A host has answered with these images."""
        if was_down or images != self._images.get(host):
            self._images[host] = images
            self.compare()
            self._compare_versions()

    def compare(self) -> None:
        """Report the environments if they have changed."""
        names = tuple(name for names in self._ledger.environments().values() for name in names)
        if names != self._names:
            self._names = names
            self._hooks.fire(EnvironmentsChanged(at_s=time.time(), environments=names))

    def _compare_versions(self) -> None:
        known, self._versions = self._versions, self._ledger.versions()
        for environment, versions in self._versions.items():
            if _places(versions) != _places(known.get(environment, ())):
                listed = "; ".join(f"{_described(version.image)} on {version.host}" for version in versions)
                hint = _INHERITED if all(ENVIRONMENT_LABEL in version.image.labels for version in versions) else ""
                _log.warning("environment %s is several images, of which the newest is preferred%s: %s", environment, hint, listed)


def _places(versions: Sequence[Version]) -> list[tuple[str, str]]:
    """Which images they are, and where. One that is being made may get its name only afterwards: that is no news."""
    return [(version.image.id, version.host) for version in versions]


def _described(image: Image) -> str:
    made_at = datetime.fromtimestamp(image.created_at_s, timezone.utc)
    return f"{image.references[0] if image.references else image.id} of {made_at:%Y-%m-%d %H:%M:%S} UTC"
