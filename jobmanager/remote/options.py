"""What every command for a cluster is told: which Redis, which namespace, which key."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import click

from jobmanager.errors import InvalidValue
from jobmanager.remote.connect import URL_VARIABLE, has_password, open_redis, redis_errors, redis_url
from jobmanager.remote.keys import checked_name
from jobmanager.remote.signing import Keyring, Signer
from jobmanager.remote.store import ClusterStore
from jobmanager.remote.timeouts import ClusterTimeouts

TIMEOUTS_VARIABLE = "JOBMANAGER_CLUSTER_TIMEOUTS"  # a JSON object with fields of ClusterTimeouts


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAddress:
    """Which cluster, and the key to it."""

    url: str = field(repr=False)
    namespace: str
    keyring: Keyring
    timeouts: ClusterTimeouts

    @property
    def signer(self) -> Signer:
        """Signs and checks what travels there."""
        return self.keyring.signer(self.namespace)

    @contextmanager
    def open(self) -> Iterator[ClusterStore]:
        """What the cluster keeps in Redis.

        Raises:
            RedisUnavailable: at the beginning or at any call in the block.
        """
        with redis_errors(self.url), open_redis(self.url, self.timeouts) as redis:
            redis.ping()
            yield ClusterStore(redis, self.namespace, self.timeouts)


def for_cluster(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options that say which cluster; it gets a ClusterAddress as its first argument."""

    @wraps(command)
    def with_address(
        redis: str | None, redis_url_file: str | None, namespace: str, key_file: str | None, **others: Any
    ) -> int:
        return command(cluster_address(redis, redis_url_file, namespace, key_file), **others)

    options = (
        click.option("--redis", metavar="URL", help=f"Redis' address, without a password. Default: what {URL_VARIABLE} holds."),
        click.option("--redis-url-file", metavar="FILE", help="A file with Redis' address."),
        click.option("--namespace", metavar="NAME", default="default", show_default=True, help="Which of the clusters on it."),
        click.option("--key-file", metavar="FILE", help="The cluster's keys. Default: JOBMANAGER_KEY_FILE or JOBMANAGER_KEY."),
    )
    decorated: Callable[..., int] = with_address
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def cluster_address(url: str | None, url_file: str | None, namespace: str, key_file: str | None) -> ClusterAddress:
    """The cluster that a command's options name, or else the environment.

    Raises:
        InvalidValue: one is missing or wrong, or the url argument has a password: every user of a machine can see arguments.
    """
    address = redis_url(url, url_file=url_file)
    if url is not None and has_password(url):
        raise InvalidValue(
            f"--redis: a password among a program's arguments can be read by everybody: put the url into {URL_VARIABLE},"
            " or into a file for --redis-url-file"
        )
    return ClusterAddress(
        url=address,
        namespace=checked_name("namespace", namespace),
        keyring=Keyring.from_environment(key_file=key_file),
        timeouts=timeouts_from_environment(),
    )


def timeouts_from_environment(environ: Mapping[str, str] | None = None) -> ClusterTimeouts:
    """The timeouts that the environment sets, and the defaults of the others.

    Raises:
        InvalidValue: what stands there is no JSON object of timeouts.
    """
    text = (os.environ if environ is None else environ).get(TIMEOUTS_VARIABLE) or "{}"
    try:
        return ClusterTimeouts(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise InvalidValue(f"{TIMEOUTS_VARIABLE} must be a JSON object of the fields of ClusterTimeouts: {error}") from None
