"""``Network``: what a container may reach."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

from jobmanager.errors import InvalidTask
from jobmanager.model import _checks

_ID = re.compile(r"[0-9a-f]{12}|[0-9a-f]{64}")  # Docker takes it for a name, too


class Network(str, Enum):
    """What a job may reach. A string instead of a member names one of the host's own networks."""

    OFF = "off"  # no interface but loopback; `localhost` as a name does not resolve
    LOOPBACK = "loopback"  # the same, and `localhost` resolves; starts about 100 ms slower
    BRIDGE = "bridge"  # the engine's default bridge: the outside world, and other containers on it


def checked_network(given: Network | str) -> Network | str:
    """A member, or the name of a network of the host's own; raises InvalidTask."""
    if isinstance(given, Network):
        return given
    named = _checks.text("network", given, InvalidTask)
    if named in ("host", "none", "default") or named.startswith("container:"):
        raise InvalidTask(f"network {named!r} is not for jobs: take a member of Network or a network of your own")
    try:
        return Network(named)
    except ValueError:
        return named


def own_networks(given: Iterable[Network | str]) -> frozenset[str]:
    """The names among these that a host must have: of networks of its own. Ids are not looked up."""
    return frozenset(str(each) for each in given if not isinstance(each, Network) and not _ID.fullmatch(each))
