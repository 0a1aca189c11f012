"""What launchers have used, as one leader leaves it to the next. It is signed as the kind ``shares``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from jobmanager.remote.records import BadMessage
from jobmanager.scheduling.fair_shares import PriorityStanding

KIND = "shares"  # of its signature
MAX_BYTES = 16 * 2**20  # of its envelope


def standings_text(standings: Iterable[PriorityStanding]) -> str:
    """The text to sign."""
    rows = [(each.priority, each.virtual_time_s, dict(each.used_s)) for each in standings]
    return json.dumps(rows, separators=(",", ":"))


def read_standings(text: str) -> list[PriorityStanding]:
    """What the leader before has written.

    Raises:
        BadMessage: it makes no sense.
    """
    try:
        return [
            PriorityStanding(
                priority=_whole(priority), virtual_time_s=_seconds(time_s), used_s={str(k): _seconds(v) for k, v in used_s.items()}
            )
            for priority, time_s, used_s in json.loads(text)
        ]
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise BadMessage("the shares of launchers make no sense") from None


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(value)
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)
