"""One manager with hosts by unix socket, by TCP with TLS and by SSH at once; one of them dies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from pathlib import Path

import docker
import pytest

from jobmanager import JobFuture, JobManager, JobResult, Limits, Outcome, Task
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.support.fleet import SLOTS, Member, fleet
from tests.support.printed import program_runs

pytestmark = [pytest.mark.engine, pytest.mark.daemon]

SHORT = Task(BUSYBOX, command="cat given; sleep 1", files={"given": b"a file\n"}, limits=Limits(wall_time_s=60))
ENDLESS = Task(BUSYBOX, command="echo ready; sleep 3000", limits=Limits(wall_time_s=3600))
PERSISTENT = Task(BUSYBOX, command="echo ready; sleep 3000", limits=Limits(wall_time_s=3600), retries=1)
PATIENCE_S = 60.0


@pytest.fixture
def members(image_tar: str, tmp_path: Path) -> Iterator[list[Member]]:
    with fleet(tmp_path, Path(image_tar), of_each=1) as members:
        yield members


def test_jobs_are_spread_over_hosts_of_all_kinds_and_one_that_dies_harms_only_its_own(members: list[Member]) -> None:
    check_that_jobs_are_spread_and_hosts_that_die_harm_only_their_own(members, dying=["tls1"])


def check_that_jobs_are_spread_and_hosts_that_die_harm_only_their_own(members: Sequence[Member], *, dying: Sequence[str]) -> None:
    names = [member.host.name for member in members]
    dead = [member for member in members if member.host.name in dying]
    with JobManager([member.host for member in members], host_lost_timeout_s=2) as manager:
        eventually(lambda: all(record.up for record in manager.hosts()), what="all hosts are up")

        all_at_once = results([manager.submit(SHORT) for _ in range(SLOTS * len(names))])
        assert Counter(result.host for result in all_at_once) == dict.fromkeys(names, SLOTS)
        assert {(result.outcome, result.stdout) for result in all_at_once} == {(Outcome.SUCCESS, b"a file\n")}

        eventually(lambda: not any(record.running for record in manager.hosts()), what="all slots are free")
        endless = [manager.submit(ENDLESS) for _ in names]
        persistent = [manager.submit(PERSISTENT) for _ in names]
        eventually(lambda: where(manager) == dict.fromkeys(names, 2), what="each host runs two")
        eventually(lambda: all(begun(member.daemon.url) == 2 for member in members), what="they have begun")
        on_the_dead = [job_id for job_id, host in placed(manager).items() if host in dying]
        for member in dead:
            member.daemon.kill()

        lost = results([job for job in endless if job.job_id in on_the_dead])
        assert {(result.outcome, result.host in dying) for result in lost} == {(Outcome.CRASH, True)} and len(lost) == len(dead)
        eventually(lambda: not set(where(manager)) & set(dying), what="the others' jobs have moved")
        assert sum(where(manager).values()) == 2 * len(names) - len(lost)

        for member in dead:
            member.daemon.restart()
        eventually(lambda: all(record.up for record in manager.hosts()), within_s=PATIENCE_S, what="all hosts are back")
        eventually(lambda: not any(our_containers(member.daemon.url) for member in dead), what="what was left there is removed")
        for job in [*endless, *persistent]:
            manager.kill_job(job.job_id)
        ended = results([*endless, *persistent])

    assert Counter(result.outcome for result in ended) == {Outcome.KILLED: len(ended) - len(lost), Outcome.CRASH: len(lost)}
    assert not any(our_containers(member.daemon.url) or our_volumes(member.daemon.url) for member in members)


def results(futures: Sequence[JobFuture]) -> list[JobResult]:
    wait(futures, timeout=PATIENCE_S)
    return [future.result(0) for future in futures]


def placed(manager: JobManager) -> dict[str, str]:
    """The hosts of the jobs that have one."""
    return {job.job_id: job.info.rpartition(" on ")[2] for job in manager.get_job_queue_snapshot()[0]}


def where(manager: JobManager) -> Counter[str]:
    return Counter(placed(manager).values())


def begun(url: str) -> int:
    """How many endless programs have begun on a host."""
    client = docker.DockerClient(base_url=url, version="1.41")
    try:
        return sum(program_runs(container) for container in client.containers.list())
    finally:
        client.close()
