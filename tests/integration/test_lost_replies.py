"""Answers of the engine that are lost, late or a refusal: every job runs once, and what was made is removed in the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from jobmanager import DockerHost, Limits
from tests.conftest import eventually, our_containers
from tests.support.daemons import PrivateDaemon
from tests.support.faults import LASTS, QUICK, RUNS_ONCE, jobs_on, ran_once, wake
from tests.support.proxy import ATTACH, CREATE, INSPECT, LIST, REMOVE, START, STATS, Proxy

pytestmark = [pytest.mark.engine, pytest.mark.daemon]

CALLS = {"create": CREATE, "start": START, "channel": ATTACH, "list": LIST, "remove": REMOVE}
MEASURED = replace(LASTS, limits=Limits(cpu_time_s=0.3, wall_time_s=60))


@pytest.fixture
def proxy(private_engine: PrivateDaemon) -> Iterator[Proxy]:
    with Proxy(private_engine.url) as proxy:
        yield proxy


@pytest.mark.case(13)
@pytest.mark.parametrize("call", CALLS)
def test_a_lost_answer_runs_no_job_twice_and_loses_none(proxy: Proxy, call: str) -> None:
    """The connection breaks when the engine has carried it out."""
    with jobs_on(DockerHost(proxy.url, max_concurrent_jobs=3)) as jobs:
        dropped = proxy.drop(CALLS[call], on_reply=True, times=3)
        jobs.add(QUICK, 3)
        results = jobs.results()
        eventually(lambda: dropped.times == 0, what="all three were dropped")
    assert all(ran_once(result) for result in results), results
    assert len(proxy.delivered) == len(set(proxy.delivered)) == 3


@pytest.mark.case(13)
@pytest.mark.parametrize("call", [INSPECT, ATTACH, STATS], ids=["inspect", "channel", "stats"])
def test_a_lost_answer_to_a_question_about_a_running_job_changes_nothing(proxy: Proxy, call: str) -> None:
    """Asked when the job's channel breaks, and when its CPU time could be over."""
    with jobs_on(DockerHost(proxy.url, max_concurrent_jobs=3)) as jobs:
        jobs.add(MEASURED, 3)
        jobs.wait_until_running(3)
        dropped = proxy.drop(call, on_reply=True, times=3)
        proxy.break_streams()
        eventually(lambda: dropped.times == 0, what="all three were dropped")
        wake()
        results = jobs.results()
    assert all(ran_once(result) for result in results), results
    assert len(proxy.delivered) == len(set(proxy.delivered)) == 3


@pytest.mark.case(24)
@pytest.mark.parametrize("status", [409, 404, 500])
def test_a_refused_removal_is_tried_again_until_the_container_is_gone(proxy: Proxy, status: int) -> None:
    """404 and 409 say that it is gone, or going; it is looked at whether that is so."""
    with jobs_on(proxy.url) as jobs:
        refused = proxy.refuse(REMOVE, status, times=4)
        jobs.add(QUICK, 2)
        results = jobs.results()
        eventually(lambda: not our_containers(proxy.url), what="both are gone before the manager is closed")
        eventually(lambda: jobs.manager.hosts()[0].running == 0, what="their slots are free")
    assert all(ran_once(result) for result in results)
    assert refused.times == 0


@pytest.mark.case(14)
def test_a_slow_engine_loses_nothing(proxy: Proxy) -> None:
    """Short: every answer is later than the manager waits for it; then the engine is quick again."""
    with jobs_on(DockerHost(proxy.url, max_concurrent_jobs=3), engine_timeout_s=2.0) as jobs:
        jobs.add(LASTS, 3)
        jobs.wait_until_running(3)
        with proxy.delay(3.0) as delayed:
            jobs.add(RUNS_ONCE, 3)
            assert delayed.reached.wait(10)
            eventually(lambda: not jobs.manager.hosts()[0].up, what="the host is taken for down")
            wake()
        results = jobs.results()
    assert all(ran_once(result) for result in results), results
    assert len(proxy.delivered) == len(set(proxy.delivered)) == 6
