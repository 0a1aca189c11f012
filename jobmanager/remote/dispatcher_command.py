"""``jobmanager dispatcher``: give the jobs of all clients to all nodes, without being a node."""

from __future__ import annotations

import logging

import click

from jobmanager.errors import RedisUnavailable
from jobmanager.remote.connect import open_redis, redis_errors
from jobmanager.remote.dispatcher_process import DispatcherSettings, run_alone
from jobmanager.remote.key_check import check_key
from jobmanager.remote.keys import checked_name
from jobmanager.remote.node import is_away
from jobmanager.remote.options import ClusterAddress, for_cluster
from jobmanager.remote.redis_checks import check_redis
from jobmanager.remote.store import ClusterStore
from jobmanager.remote.worker_command import default_name, log_to_stderr

_LOG = logging.getLogger(__name__)


@click.command(short_help="Give waiting jobs to the nodes of a cluster, without being one.")
@for_cluster
@click.option("--name", metavar="NAME", help="Its name in logs and in the audit. Default: this machine's.")
def dispatcher(address: ClusterAddress, name: str | None) -> int:
    """Stand for election, and lead when elected: give the jobs of all clients to all nodes.

    Workers do this, too, unless they were started with --dispatch never. SIGTERM or ctrl-C ends it, and another one leads.
    """
    log_to_stderr()
    name = checked_name("--name", name) if name is not None else default_name()
    with open_redis(address.url, address.timeouts) as redis:
        try:
            check_redis(redis, address.url)
            with redis_errors(address.url):
                store = ClusterStore(redis, address.namespace, address.timeouts)
                check_key(store, address.keyring.signer(address.namespace))
        except RedisUnavailable as problem:
            if not is_away(problem):
                raise
            _LOG.warning("Redis is tried again and again: %s", problem)
    run_alone(
        DispatcherSettings(
            url=address.url, namespace=address.namespace, keyring=address.keyring, timeouts=address.timeouts, name=name
        )
    )
    return 0
