"""The faults of tests/integration that take long, or need to be repeated."""

from __future__ import annotations

import dataclasses
import random
import socket
import time
from collections.abc import Iterator

import docker
import psutil
import pytest

from jobmanager import DockerHost, JobManager, JobResult, Limits, Outcome
from tests.conftest import BUSYBOX, eventually
from tests.integration.test_lost_replies import CALLS, MEASURED
from tests.support.daemons import PrivateDaemon
from tests.support.faults import LASTS, QUICK, RUNS_ONCE, jobs_on, kill_pool_workers, ran_once, wake
from tests.support.proxy import ATTACH, CREATE, INSPECT, REMOVE, START, STATS, Proxy

pytestmark = [pytest.mark.engine, pytest.mark.daemon, pytest.mark.timeout(600)]

PATIENT = dataclasses.replace(RUNS_ONCE, limits=Limits(wall_time_s=600))
LOST = 20
EVENTS_HELD = 1_024  # by an engine, for one who does not read


@pytest.fixture
def proxy(private_engine: PrivateDaemon) -> Iterator[Proxy]:
    with Proxy(private_engine.url) as proxy:
        yield proxy


@pytest.mark.case(4)
def test_pool_workers_killed_ten_times_in_a_run_of_many_jobs_lose_none(private_engine: PrivateDaemon) -> None:
    results: list[JobResult] = []
    chance = random.Random(4)
    with JobManager(private_engine.url) as manager:
        for _ in range(60):
            manager.new_job(QUICK, callback=results.append)
        for kill in range(10):
            wanted = 5 * kill + chance.randint(1, 4)
            eventually(lambda wanted=wanted: len(results) >= wanted, within_s=60)
            kill_pool_workers()
        eventually(lambda: len(results) == 60, within_s=60)
    assert all(ran_once(result) for result in results), [r for r in results if not ran_once(r)]
    assert len({result.job_id for result in results}) == 60


@pytest.mark.case(13)
@pytest.mark.parametrize("carried_out", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("call", CALLS)
def test_twenty_lost_answers_run_no_job_twice_and_lose_none(proxy: Proxy, call: str, carried_out: bool) -> None:
    """One for each job, before the engine has carried it out, or after."""
    with jobs_on(DockerHost(proxy.url, max_concurrent_jobs=1)) as jobs:
        for _ in range(LOST):
            dropped = proxy.drop(CALLS[call], on_reply=carried_out, times=1)
            jobs.add(QUICK if call != "list" else RUNS_ONCE)
            jobs.results()
            eventually(lambda dropped=dropped: dropped.times == 0, what="it was dropped")
        results = jobs.results()
    assert all(ran_once(result) for result in results), results
    assert len(proxy.delivered) == len(set(proxy.delivered)) == LOST


@pytest.mark.case(13)
@pytest.mark.parametrize("call", [INSPECT, ATTACH, STATS], ids=["inspect", "channel", "stats"])
def test_twenty_lost_answers_to_questions_about_running_jobs_change_nothing(proxy: Proxy, call: str) -> None:
    with jobs_on(DockerHost(proxy.url, max_concurrent_jobs=5)) as jobs:
        for _ in range(LOST // 5):
            ids = jobs.add(MEASURED, 5)
            jobs.wait_until_running(5)
            dropped = proxy.drop(call, on_reply=True, times=5)
            proxy.break_streams()
            eventually(lambda dropped=dropped: dropped.times == 0, what="all five were dropped")
            wake()
            eventually(lambda ids=ids: jobs.ended() % 5 == 0 and jobs.ended() >= len(ids), within_s=60)
            jobs.results()
        results = jobs.results()
    assert all(ran_once(result) for result in results), results
    assert len(proxy.delivered) == len(set(proxy.delivered)) == LOST


@pytest.mark.case(14)
def test_an_engine_whose_answers_come_five_seconds_late_loses_nothing(proxy: Proxy) -> None:
    """First within the manager's patience, then beyond it."""
    for patience_s in (30.0, 3.0):
        with jobs_on(DockerHost(proxy.url, max_concurrent_jobs=3), engine_timeout_s=patience_s) as jobs:
            jobs.add(LASTS, 3)
            jobs.wait_until_running(3)
            with proxy.delay(5.0):
                jobs.add(RUNS_ONCE, 6)
                time.sleep(5)
                wake()
                time.sleep(35)  # as long as the fault lasts
            results = jobs.results(within_s=120)
        assert all(ran_once(result) for result in results), results
    assert len(proxy.delivered) == len(set(proxy.delivered)) == 18


@pytest.mark.case(11)
@pytest.mark.parametrize("call", [CREATE, START, ATTACH, REMOVE], ids=["create", "start", "run", "remove"])
def test_a_daemon_that_hangs_for_ninety_seconds_makes_and_runs_nothing_twice(private_engine: PrivateDaemon, call: str) -> None:
    """The jobs' own limit is later: one that is reached while nobody can look is a timeout."""
    with (
        Proxy(private_engine.url) as proxy,
        jobs_on(proxy.url, engine_timeout_s=5.0, host_lost_timeout_s=300.0) as jobs,
        proxy.hold(call) as held,
    ):
        jobs.add(PATIENT, 3)
        assert held.reached.wait(30)
        private_engine.pause()
        try:
            held.go_on.set()
            time.sleep(90)  # as long as the fault lasts
        finally:
            private_engine.resume()
        results = jobs.results(within_s=120)
    assert all(ran_once(result) for result in results), results
    assert len(proxy.delivered) == len(set(proxy.delivered)) == 3


@pytest.mark.case(12)
def test_a_killed_containerd_loses_nothing_of_what_runs_and_what_cannot_start_says_so(private_engine: PrivateDaemon) -> None:
    """Dockerd starts another one after a while."""
    with Proxy(private_engine.url) as proxy, jobs_on(DockerHost(proxy.url, max_concurrent_jobs=2)) as jobs:
        jobs.add(LASTS, 2)
        jobs.wait_until_running(2)
        waiting = jobs.add(QUICK, 2)

        for child in psutil.Process(private_engine.pid).children():
            child.kill()
        wake()

        results = jobs.results()
    assert all(ran_once(result) for result in results[:2]), results
    for result in results[2:]:
        assert ran_once(result) or (result.outcome, "containerd" in result.text) == (Outcome.CRASH, True), result
    assert len(waiting) == 2 and len(proxy.delivered) == len(set(proxy.delivered)) <= 4


@pytest.mark.case(21)
def test_a_stranger_who_reads_no_events_slows_the_engine_down_and_costs_no_job(private_engine: PrivateDaemon) -> None:
    """The jobs' ends are not heard of by events, so none can be lost."""
    outsider = docker.DockerClient(base_url=private_engine.url, version="1.41", timeout=30)
    image = outsider.images.get(BUSYBOX)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(private_engine.url.removeprefix("unix://"))
        deaf.sendall(b"GET /v1.41/events HTTP/1.1\r\nHost: docker\r\n\r\n")
        for _ in range(EVENTS_HELD):
            slow_event(image)
        eventually(lambda: all(slow_event(image) for _ in range(5)), within_s=300, what="the engine waits for the reader")
        with jobs_on(DockerHost(private_engine.url, max_concurrent_jobs=4)) as jobs:
            jobs.add(QUICK, 20)
            results = jobs.results()
    outsider.images.remove("made-an-event:1")
    outsider.close()
    assert all(ran_once(result) for result in results), results


def slow_event(image: docker.models.images.Image) -> bool:
    """Make one event; whether the engine took as long as it waits for a reader who does not read."""
    began = time.monotonic()
    image.tag("made-an-event", "1")
    return time.monotonic() - began >= 0.1
