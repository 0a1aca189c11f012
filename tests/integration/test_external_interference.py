"""External interference: what others on the same engine do to our containers is reported, and what is theirs is left alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import docker
import pytest
from docker.models.containers import Container

from jobmanager import DockerHost, Limits, Outcome, Task
from jobmanager.engine.labels import JOB_LABEL
from tests.conftest import BUSYBOX, eventually
from tests.support.daemons import PrivateDaemon
from tests.support.faults import ENDLESS, LASTS, PATIENCE_S, QUICK, Jobs, jobs_on, pause, proof, ran_once, restart, wake
from tests.support.printed import wait_until_job_printed
from tests.support.proxy import CREATE, LIST, Proxy

pytestmark = [pytest.mark.engine, pytest.mark.daemon]


@pytest.fixture
def outsider(private_engine: PrivateDaemon) -> Iterator[docker.DockerClient]:
    """A client of somebody else who uses the same engine."""
    client = docker.DockerClient(base_url=private_engine.url, version="1.41", timeout=30)
    yield client
    client.close()


def container_of(jobs: Jobs, outsider: docker.DockerClient, job_id: str) -> Container:
    """A job's container, once its program has begun."""
    wait_until_job_printed(jobs.manager, job_id, b"begun")
    (found,) = outsider.containers.list(filters={"label": f"{JOB_LABEL}={job_id}"})
    return found


ACTIONS: dict[str, Callable[[Container], object]] = {
    "rm -f": lambda container: container.remove(force=True),
    "stop": lambda container: container.stop(timeout=0),
    "kill": lambda container: container.kill(),
    "restart": restart,
    "pause and kill": lambda container: (pause(container), container.kill()),
}


@pytest.mark.case(22)
def test_whatever_a_stranger_does_to_a_container_is_one_crash_that_says_so(
    private_engine: PrivateDaemon, outsider: docker.DockerClient
) -> None:
    with jobs_on(DockerHost(private_engine.url, max_concurrent_jobs=6)) as jobs:
        ids = jobs.add(ENDLESS, len(ACTIONS))
        (untouched,) = jobs.add(LASTS)
        jobs.wait_until_running(len(ACTIONS) + 1)
        for job_id, apply in zip(ids, ACTIONS.values(), strict=True):
            apply(container_of(jobs, outsider, job_id))
        wake()
        results = jobs.results()
    for result, action in zip(results, ACTIONS, strict=False):
        assert (result.outcome, result.stdout) == (Outcome.CRASH, b"begun\n"), (action, result)
        assert "somebody else" in result.text, action
        assert {"removed", "stopped_externally"} & proof(result).keys(), action
    assert results[-1].job_id == untouched and ran_once(results[-1])


@pytest.mark.case(22)
def test_a_container_that_a_stranger_froze_goes_on_when_let_go_and_ends_at_its_deadline_when_not(
    private_engine: PrivateDaemon, outsider: docker.DockerClient
) -> None:
    with jobs_on(DockerHost(private_engine.url, max_concurrent_jobs=2)) as jobs:
        (kept,) = jobs.add(Task(BUSYBOX, command="echo begun; sleep 3000", limits=Limits(wall_time_s=10)))
        (let_go,) = jobs.add(LASTS)
        for job_id in (kept, let_go):
            pause(container_of(jobs, outsider, job_id))
        eventually(lambda: jobs.ended() == 1, within_s=PATIENCE_S, what="one has reached its deadline")
        container_of(jobs, outsider, let_go).unpause()
        eventually(wake, what="its program goes on")
        results = jobs.results()
    assert (results[0].outcome, results[0].stdout) == (Outcome.TIMEOUT, b"begun\n")
    assert proof(results[0])["paused_externally"] == "the container had been paused by somebody else"
    assert ran_once(results[1])


@pytest.mark.case(23)
def test_a_name_that_a_stranger_has_taken_is_an_error_and_the_strangers_container_stays(
    private_engine: PrivateDaemon, outsider: docker.DockerClient
) -> None:
    with Proxy(private_engine.url) as proxy:
        with jobs_on(proxy.url) as jobs:
            jobs.add(QUICK)
            jobs.results()  # the runner is on the host
            with proxy.hold(CREATE) as held:
                jobs.add(QUICK)
                assert held.reached.wait(20)
                name = re.search(r"name=([^ &]+)", [line for line in proxy.seen if re.match(CREATE, line)][-1])
                assert name is not None
                foreign = outsider.containers.create(BUSYBOX, ["sleep", "3000"], name=name[1], network_disabled=True)
                foreign.start()
            _, result = jobs.results()
            eventually(lambda: jobs.manager.hosts()[0].running == 0, what="the slot is free again")
        try:
            foreign.reload()
            assert foreign.status == "running"
        finally:
            foreign.remove(force=True)
    assert result.outcome is Outcome.CRASH
    assert f"a container that is not ours has the name {name[1]}" in result.text


@pytest.mark.case(22)
def test_a_container_that_a_stranger_renames_goes_on_and_is_removed_at_its_end(
    private_engine: PrivateDaemon, outsider: docker.DockerClient
) -> None:
    """Its list is compared by id: by name it would be taken for one that is nobody's, and removed."""
    with Proxy(private_engine.url) as proxy, jobs_on(proxy.url) as jobs:
        (job_id,) = jobs.add(LASTS)
        container = container_of(jobs, outsider, job_id)
        container.rename("renamed-by-a-stranger")
        seen = proxy.count(LIST)
        eventually(lambda: proxy.count(LIST) > seen + 2, within_s=60, what="it was listed under its new name")
        wake()
        (result,) = jobs.results()
        assert (result.outcome, result.stdout, result.exit_code) == (Outcome.FAILED, b"begun\nended\n", 7)
        eventually(lambda: not outsider.api.containers(all=True, filters={"name": "renamed-by-a-stranger"}), what="it is removed")
