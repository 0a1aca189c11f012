"""What a Redis must be so that no job is lost in it: looked at when a client or worker starts, and before a job is handed over.

Only INFO is asked, which needs few rights. Where it may not be asked, or does not tell, nothing is refused: the log says what was
not looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from redis import Redis, exceptions

from jobmanager.errors import RedisUnavailable
from jobmanager.remote.connect import redis_errors, shown_url

_LOG = logging.getLogger(__name__)
_OLDEST = (6, 2)  # has users with rights, BLMOVE and LPOS
_FULL = 0.8  # of maxmemory: what is left is for the results of what runs


def check_redis(redis: Redis, url: str) -> None:
    """Look at a Redis that is going to be used. Where its data would not survive it, a warning is logged.

    Raises:
        RedisUnavailable: it does not answer, is too old, a replica or a cluster, evicts or is nearly full; or it refuses us.
    """
    with redis_errors(url):
        redis.ping()
        facts = _facts(redis, url)
    where = f"Redis at {shown_url(url)}"
    _check_kind(facts, where)
    _check_memory(facts, where)
    if str(facts.get("aof_enabled", "1")) == "0":
        _LOG.warning(
            "%s keeps no append-only file: when it is restarted, jobs of clients that are gone are lost. Set appendonly yes", where
        )
    for name in ("aof_last_write_status", "rdb_last_bgsave_status"):
        if facts.get(name, "ok") != "ok":
            _LOG.warning("%s could not write its data to disk (%s): look at its log, and at the room there", where, name)


def check_memory(redis: Redis, url: str) -> None:
    """Jobs that are evicted would be lost, and where there is no room left results are.

    Raises:
        RedisUnavailable: Redis evicts, or is nearly full.
    """
    with redis_errors(url):
        facts = _facts(redis, url, "memory")
    _check_memory(facts, f"Redis at {shown_url(url)}")


def _facts(redis: Redis, url: str, *sections: str) -> Mapping[str, Any]:
    try:
        return redis.info(*sections)
    except exceptions.ResponseError as error:
        if not isinstance(error, exceptions.NoPermissionError) and not str(error).startswith("unknown command"):
            raise
    if not sections:
        _LOG.warning(
            "Redis at %s lets this user ask nothing about it (+info): its version, memory, eviction and persistence"
            " were not looked at",
            shown_url(url),
        )
    return {}


def _check_kind(facts: Mapping[str, Any], where: str) -> None:
    version = str(facts.get("redis_version", ""))
    numbers = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    if numbers and tuple(numbers) < _OLDEST:
        raise RedisUnavailable(f"{where} is too old ({version}): 6.2 or newer is needed")
    if facts.get("role", "master") != "master":
        raise RedisUnavailable(f"{where} is a replica: give the address of the one that it follows")
    if facts.get("redis_mode", "standalone") == "cluster":
        raise RedisUnavailable(f"{where} is a Redis Cluster, which RQ cannot use: take one Redis, with replicas if need be")


def _check_memory(facts: Mapping[str, Any], where: str) -> None:
    policy = str(facts.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise RedisUnavailable(
            f"{where} deletes keys when it is full (maxmemory-policy {policy}), and jobs with them: set maxmemory-policy noeviction"
        )
    limit = int(facts.get("maxmemory", 0))
    used = int(facts.get("used_memory", 0)) - int(facts.get("mem_not_counted_for_evict", 0))
    if limit and used > _FULL * limit:
        raise RedisUnavailable(
            f"{where} is nearly full ({100 * used // limit} % of {limit // 2**20} MiB), and no new job is taken so that results"
            " still have room: give it more memory (maxmemory), or wait until jobs end"
        )
