"""``ClusterTimeouts``: every lease and timeout of a cluster. All its clients and workers must have the same."""

from __future__ import annotations

from dataclasses import dataclass, fields

from jobmanager.errors import InvalidValue
from jobmanager.model import _checks


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTimeouts:
    """Every lease and timeout, in seconds.

    Raises:
        InvalidValue: one that is not a positive number, or does not fit the others.
    """

    leader_lease_s: float = 6.0  # for how long a dispatcher is the leader after its last sign of life
    beat_s: float = 2.0  # between two signs of life of a node
    suspect_s: float = 15.0  # a node that was not heard for so long gets nothing new
    node_lost_s: float = 60.0  # after so long its jobs are given up
    client_lease_s: float = 30.0  # for how long a client id is taken after its holder's last sign of life
    settle_s: float = 10.0  # after Redis lost data, until jobs are placed again: all say meanwhile what they have
    redis_s: float = 5.0  # for each call of Redis
    outage_s: float = 10.0  # for how long ``new_job`` tries while Redis does not answer
    result_ttl_s: float = 7 * 86400.0  # for how long a result waits for its client, and a job's record stays

    def __post_init__(self) -> None:
        for field in fields(self):
            _checks.positive(field.name, getattr(self, field.name))
        if not self.beat_s < self.suspect_s < self.node_lost_s:
            raise InvalidValue("beat_s must be less than suspect_s, and suspect_s less than node_lost_s")
