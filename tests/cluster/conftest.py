"""What the tests of many machines share: a redis-server for each test, and a cluster on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.redis_server import RedisServer

HERE = Path(__file__).parent
_clusters: list[Cluster] = []  # of the test that runs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them have the mark `cluster`."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.cluster)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """With a failure stands what the workers have said."""
    report = yield
    if report.failed:
        report.sections += [("what the workers have said", cluster.logs()) for cluster in _clusters if cluster.was_started]
    return report


@pytest.fixture
def start_redis() -> Iterator[Callable[..., RedisServer]]:
    """Starts a redis-server with the options of `RedisServer`; it ends with the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(RedisServer(**options))


@pytest.fixture
def redis_server(start_redis: Callable[..., RedisServer]) -> RedisServer:
    """A redis-server on a unix socket whose data outlives its process."""
    return start_redis()


@pytest.fixture
def start_cluster(redis_server: RedisServer) -> Iterator[Callable[..., Cluster]]:
    """Starts a cluster with the options of `Cluster`. At the end of the test nothing of it may be left."""
    with ExitStack() as stack:

        def start(redis: RedisServer = redis_server, **options: object) -> Cluster:
            cluster = Cluster(redis, **options)
            _clusters.append(cluster)
            stack.callback(_clusters.remove, cluster)
            return stack.enter_context(cluster)

        yield start


@pytest.fixture
def cluster(start_cluster: Callable[..., Cluster]) -> Cluster:
    """Two nodes of four slots."""
    return start_cluster()
