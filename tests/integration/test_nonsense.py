"""An engine that trickles or answers nonsense, through a proxy, beside one that is well: nothing of it is final for a job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmanager import DockerHost, HookManager, JobManager, Outcome, Task
from jobmanager.control import waiters
from jobmanager.events import HostDown
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.support.daemons import PrivateDaemon
from tests.support.faults import LASTS, SLEEPS, processes, wake
from tests.support.proxy import CREATE, INSPECT, START, Proxy

pytestmark = [pytest.mark.engine, pytest.mark.daemon, pytest.mark.case(51)]

PATIENCE_S = 90.0
JSON = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nApi-Version: 1.41\r\n"
OK = JSON % b"200 OK"


def whole(body: bytes, status: bytes = b"200 OK") -> bytes:
    return JSON % status + b"Content-Length: %d\r\n\r\n" % len(body) + body


ILL = {
    "dict": (whole(b"{}"), 0.0),
    "null": (whole(b"null"), 0.0),
    "deep": (whole(b"[" * 200_000), 0.0),
    "403": (whole(b"{}", b"403 Forbidden"), 0.0),
    "409": (whole(b"[]", b"409 Conflict"), 0.0),
    "endless": (OK + b"Transfer-Encoding: chunked\r\n\r\n" + (b"100000\r\n" + b" " * 2**20 + b"\r\n") * 40, 0.0),
    "trickle": (whole(b" " * 1000), 0.2),
}


@pytest.fixture(autouse=True)
def hosts_are_looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiters, "_HOST_CHECK_INTERVAL_S", 0.5)


@pytest.fixture
def proxy(engine_url: str) -> Iterator[Proxy]:
    with Proxy(engine_url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def other_engine(image_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with PrivateDaemon(tmp_path_factory.mktemp("other")) as daemon:
        daemon.load_image(Path(image_tar))
        yield daemon.url


@pytest.fixture
def other(other_engine: str) -> Iterator[str]:
    """Another engine's url; afterwards nothing of ours may be there."""
    yield other_engine
    eventually(lambda: not our_containers(other_engine) and not our_volumes(other_engine), what="nothing is left behind")


def managing(proxy: Proxy, *others: str, hooks: HookManager | None = None) -> JobManager:
    """Of a host ``ill``, which is behind the proxy, and perhaps of one that is ``well``."""
    hosts = [DockerHost(proxy.url, name="ill", max_concurrent_jobs=4)]
    hosts += [DockerHost(url, name="well", max_concurrent_jobs=2) for url in others]
    return JobManager(hosts, engine_timeout_s=1.5, hook_manager=hooks)


def is_up(manager: JobManager, name: str) -> bool:
    return next(host.up for host in manager.hosts() if host.name == name)


@pytest.mark.parametrize("ill", ["dict", "deep", "403", "endless", "trickle"])
def test_all_jobs_run_on_the_well_host_and_running_ones_go_on(proxy: Proxy, other: str, ill: str) -> None:
    answer, pause_s = ILL[ill]
    with managing(proxy, other) as manager:
        eventually(lambda: is_up(manager, "ill") and is_up(manager, "well"), what="both are up")
        before = [manager.submit(Task(BUSYBOX, command=f"{SLEEPS}; echo ran", limits=LASTS.limits)) for _ in range(4)]
        eventually(lambda: len(manager.get_job_queue_snapshot()[0]) == 4, what="they have hosts")
        assert any(job.host == "ill" for job in manager.get_job_queue_snapshot()[0])
        with proxy.instead(answer, pause_s=pause_s):
            after = [manager.submit(Task(BUSYBOX, command="echo ran")) for _ in range(6)]
            eventually(lambda: not is_up(manager, "ill"), what="it is shown as down")
            eventually(lambda: not wake() and all(job.done() for job in after), within_s=PATIENCE_S, what="the well one runs all")
            results = [job.result(PATIENCE_S) for job in after]
        eventually(lambda: not wake() and all(job.done() for job in before), within_s=PATIENCE_S, what="those have ended, too")
        went_on = [job.result(PATIENCE_S) for job in before]
        eventually(lambda: is_up(manager, "ill"), what="it is up again")

    assert {(result.outcome, result.stdout, result.host) for result in results} == {(Outcome.SUCCESS, b"ran\n", "well")}
    assert {(result.outcome, result.stdout) for result in went_on} == {(Outcome.SUCCESS, b"ran\n")}


@pytest.mark.parametrize("call", [CREATE, START], ids=["create", "start"])
@pytest.mark.parametrize("ill", ["409", "trickle"])
def test_a_host_that_answers_looks_well_and_starts_ill_costs_no_job(proxy: Proxy, other: str, ill: str, call: str) -> None:
    answer, pause_s = ILL[ill]
    with managing(proxy, other) as manager:
        eventually(lambda: is_up(manager, "ill") and is_up(manager, "well"), what="both are up")
        with proxy.instead(answer, call, pause_s=pause_s):
            jobs = [manager.submit(Task(BUSYBOX, command="sleep 0.5; echo ran")) for _ in range(8)]
            results = [job.result(PATIENCE_S) for job in jobs]

    assert {(result.outcome, result.stdout) for result in results} == {(Outcome.SUCCESS, b"ran\n")}


@pytest.mark.case(19)
@pytest.mark.parametrize(("failures", "outcome"), [(1, Outcome.SUCCESS), (2, Outcome.CRASH)], ids=["once", "twice"])
def test_a_start_that_fails_once_costs_no_job_even_where_there_is_no_other_host(
    proxy: Proxy, failures: int, outcome: Outcome
) -> None:
    """As where the runtime's own first process dies of the container's limits."""
    answer = whole(b'{"message": "cannot start a stopped process: unknown"}', b"500 Internal Server Error")
    with managing(proxy) as manager, proxy.instead(answer, START, times=failures):
        result = manager.submit(Task(BUSYBOX, command="echo ran")).result(PATIENCE_S)

    assert result.outcome is outcome, result
    if outcome is Outcome.CRASH:
        assert "cannot start a stopped process" in result.text


def test_a_job_that_no_other_host_can_run_waits_for_the_end_of_the_nonsense_and_the_host_does_not_flap(proxy: Proxy) -> None:
    downs: list[HostDown] = []
    hooks = HookManager()
    hooks.add(HostDown, downs.append)
    with managing(proxy, hooks=hooks) as manager:
        with proxy.instead(ILL["null"][0], CREATE):
            job = manager.submit(Task(BUSYBOX, command="echo ran"))
            eventually(lambda: len(downs) >= 4, what="it was tried some times, with longer and longer pauses")
        result = job.result(PATIENCE_S)

    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"ran\n")
    assert len(downs) < 12


def test_while_another_engine_answers_in_its_place_running_jobs_wait_as_for_one_that_is_away(
    engine_url: str, proxy: Proxy, other: str
) -> None:
    with managing(proxy) as manager:
        job = manager.submit(Task(BUSYBOX, command=f"echo begun; {SLEEPS}; echo ran", limits=LASTS.limits))
        assert next(iter(manager.follow(job.job_id, timeout_s=PATIENCE_S))).data == b"begun\n"
        proxy.lead_to(other)
        seen = proxy.count(INSPECT)
        eventually(lambda: proxy.count(INSPECT) > seen + 2, what="it was looked for on the other one")
        assert not job.done()
        proxy.lead_to(engine_url)
        wake()
        result = job.result(PATIENCE_S)

    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"begun\nran\n")


def test_an_endless_answer_takes_no_more_memory_than_one_that_makes_sense(proxy: Proxy) -> None:
    with managing(proxy) as manager:
        waiters = processes("jobmanager._waiter")
        before = [child.memory_info().rss for child in waiters]
        with proxy.instead(ILL["endless"][0]):
            eventually(lambda: not is_up(manager, "ill"), what="it is shown as down")
            seen = proxy.count("")
            eventually(lambda: proxy.count("") > seen + 2, what="it was looked at again")
            grown = [child.memory_info().rss - rss for child, rss in zip(waiters, before, strict=True)]

    assert waiters
    assert max(grown) < 150 * 2**20
