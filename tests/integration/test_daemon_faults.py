"""Daemons that die, hang and come back: their death is not the program's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import psutil
import pytest

from jobmanager import DockerHost, HookManager, JobManager, Limits, Outcome, Task
from jobmanager.errors import Unsatisfiable
from jobmanager.events import HostDown, HostUp
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.support.daemons import PrivateDaemon
from tests.support.faults import ENDLESS, LASTS, QUICK, RUNS_ONCE, SLEEPS, SLEEPS_TOO, jobs_on, proof, ran_once, wake
from tests.support.proxy import ATTACH, CREATE, INSPECT, REMOVE, START, Proxy

pytestmark = [pytest.mark.engine, pytest.mark.daemon]

TRAPS = Task(
    BUSYBOX,
    command="trap 'echo told; exit 9' TERM INT HUP; echo begun; while :; do sleep 0.2; done",
    limits=Limits(wall_time_s=120),
)


@pytest.fixture(scope="module")
def daemon(image_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    """One that the tests of this file end, and start again."""
    with PrivateDaemon(tmp_path_factory.mktemp("mortal")) as daemon:
        daemon.load_image(Path(image_tar))
        yield daemon


@pytest.fixture(scope="module")
def restoring_daemon(image_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    """One whose containers outlive it."""
    with PrivateDaemon(tmp_path_factory.mktemp("restoring"), extra_args=("--live-restore",)) as daemon:
        daemon.load_image(Path(image_tar))
        yield daemon


@pytest.mark.case(8)
def test_exit_codes_are_true_when_a_killed_daemon_with_live_restore_comes_back(restoring_daemon: PrivateDaemon) -> None:
    """Programs that end while it is away, and after it is back; their files come back with them.

    Of such a container an engine of version 20.10 cannot remove the volume, empty by then, before its own next start.
    """
    url = restoring_daemon.url
    within = replace(LASTS, collect=["*"])
    after = Task(BUSYBOX, command=f"echo begun; {SLEEPS_TOO}; echo ended; exit 7", collect=["*"], limits=LASTS.limits)
    half_a_line = Task(BUSYBOX, command=f"printf 'begun\\nAnswer: '; {SLEEPS}; echo 42", limits=LASTS.limits)
    with jobs_on(DockerHost(url, max_concurrent_jobs=5), swept_later=True) as jobs:
        jobs.add(within, 2)
        jobs.add(after, 2)
        (followed,) = jobs.add(half_a_line)
        live = jobs.manager.follow(followed)
        jobs.wait_until_running(5)

        restoring_daemon.kill()
        assert wake() == 3
        restoring_daemon.restart()
        eventually(lambda: jobs.ended() == 3, within_s=60, what="those that ended meanwhile are called back")
        assert wake(SLEEPS_TOO) == 2

        *results, half = jobs.results()
        eventually(lambda: jobs.manager.hosts()[0].running == 0, what="the volumes hold no slots")
    assert all(ran_once(result) for result in results), results
    assert all(float(proof(result)["outage_s"]) > 0 for result in results[2:])
    assert (half.outcome, half.stdout) == (Outcome.SUCCESS, b"begun\nAnswer: 42\n"), half
    assert b"".join(output.data for output in live) == half.stdout
    assert all(result.archive is not None for result in results)
    assert not our_containers(url)

    restoring_daemon.restart()
    with JobManager(url):
        eventually(lambda: not our_volumes(url), what="the volumes are swept")


@pytest.mark.case(9)
def test_programs_that_a_killed_daemon_took_along_are_crashes_never_failures(daemon: PrivateDaemon) -> None:
    with jobs_on(DockerHost(daemon.url, max_concurrent_jobs=3)) as jobs:
        jobs.add(TRAPS, 2)
        jobs.add(ENDLESS)
        jobs.wait_until_running(3)
        waiting = jobs.add(QUICK, 3)

        daemon.kill()
        daemon.restart()

        results = jobs.results()
    for result in results[:3]:
        assert (result.outcome, result.stdout) == (Outcome.CRASH, b"begun\n"), result
        assert result.text == "the engine could not be reached when the container ended"
        assert float(proof(result)["outage_s"]) > 0
    assert len(waiting) == 3 and all(ran_once(result) for result in results[3:])


@pytest.mark.case(10)
def test_programs_that_a_daemon_stopped_when_it_was_told_to_end_are_crashes_never_failures(daemon: PrivateDaemon) -> None:
    """They get no signal that they could trap; and the manager goes on with the next daemon without a restart."""
    hooks, told = HookManager(), list[str]()
    hooks.add(HostUp, lambda event: told.append(f"{event.host} is up"))
    hooks.add(HostDown, lambda event: told.append(f"{event.host} is down{'' if event.reason else ', and nobody knows why'}"))
    with jobs_on(DockerHost(daemon.url, name="a", max_concurrent_jobs=10), hook_manager=hooks) as jobs:
        jobs.add(TRAPS, 5)
        jobs.add(ENDLESS, 5)
        jobs.wait_until_running(10)

        daemon.terminate()
        eventually(lambda: not jobs.manager.hosts()[0].up)
        daemon.restart()

        results = jobs.results()
        jobs.add(QUICK, 3)
        again = jobs.results()[10:]
    assert told == ["a is up", "a is down", "a is up"]
    for result in results:
        assert (result.outcome, result.stdout) == (Outcome.CRASH, b"begun\n"), result
        assert result.text == "the engine could not be reached when the container ended"
    assert all(ran_once(result) for result in again)


@pytest.mark.case(11)
@pytest.mark.parametrize("call", [CREATE, START, ATTACH, REMOVE], ids=["create", "start", "run", "remove"])
def test_a_daemon_that_hangs_for_a_while_makes_and_runs_nothing_twice(daemon: PrivateDaemon, call: str) -> None:
    """What it is asked meanwhile is given up, and carried out all the same when it goes on."""
    with Proxy(daemon.url) as proxy, jobs_on(proxy.url, engine_timeout_s=2.0) as jobs, proxy.hold(call) as held:
        jobs.add(RUNS_ONCE, 3)
        assert held.reached.wait(30)
        daemon.pause()
        try:
            held.go_on.set()
            eventually(lambda: not jobs.manager.hosts()[0].up, within_s=30, what="the manager knows that it hangs")
        finally:
            daemon.resume()
        results = jobs.results()
    assert all(ran_once(result) for result in results), results
    assert len(proxy.delivered) == len(set(proxy.delivered)) == 3


@pytest.mark.case(11)
@pytest.mark.parametrize("engine_timeout_s", [30.0, 2.0], ids=["waited for", "given up"])
def test_a_daemon_that_hangs_past_a_jobs_deadline_does_not_make_its_own_end_a_timeout(
    daemon: PrivateDaemon, engine_timeout_s: float
) -> None:
    """It had ended in time, and only its last words came late."""
    in_time = replace(LASTS, limits=Limits(wall_time_s=5))
    with Proxy(daemon.url) as proxy, jobs_on(proxy.url, engine_timeout_s=engine_timeout_s) as jobs:
        jobs.add(in_time)
        jobs.wait_until_running(1)
        inspected = proxy.count(INSPECT)
        daemon.pause()
        wake()
        try:
            eventually(lambda: proxy.count(INSPECT) > inspected, within_s=30, what="its waiter misses its end, and looks after it")
        finally:
            daemon.resume()
        (result,) = jobs.results()
    assert ran_once(result), result


@pytest.mark.case(12)
def test_a_killed_shim_is_one_crash_and_no_process_is_left(daemon: PrivateDaemon) -> None:
    """Its container is gone with it; the others go on."""
    with jobs_on(DockerHost(daemon.url, max_concurrent_jobs=2)) as jobs:
        jobs.add(ENDLESS)
        jobs.wait_until_running(1)
        shims = shims_of(daemon)
        program = psutil.Process(shims[0].pid).children(recursive=True)
        jobs.add(LASTS)
        jobs.wait_until_running(2)

        shims[0].kill()
        eventually(lambda: jobs.ended() == 1, what="its job has ended")
        wake()

        lost, kept = jobs.results()
    assert (lost.outcome, lost.stdout) == (Outcome.CRASH, b"begun\n"), lost
    assert {"stopped_externally", "ended_during_outage"} & proof(lost).keys()
    assert ran_once(kept)
    eventually(lambda: not any(process.is_running() for process in program), what="the program is gone too")


def shims_of(daemon: PrivateDaemon) -> list[psutil.Process]:
    """The processes that hold a private daemon's containers."""
    mine = daemon.url.removeprefix("unix://").removesuffix("docker.sock")
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.info["cmdline"] and "containerd-shim" in process.info["cmdline"][0] and mine in " ".join(process.info["cmdline"])
    ]


@pytest.fixture(scope="module")
def broken_runtime(image_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A daemon that creates containers, and can start none of them."""
    runtime = ("--add-runtime", "broken=/bin/false", "--default-runtime", "broken")
    with PrivateDaemon(tmp_path_factory.mktemp("broken"), extra_args=runtime) as daemon:
        daemon.load_image(Path(image_tar))
        yield daemon.url


@pytest.mark.case(19)
def test_a_host_whose_runtime_does_not_work_is_one_crash_with_its_words(broken_runtime: str) -> None:
    with jobs_on(broken_runtime) as jobs:
        jobs.add(QUICK, 2)
        results = jobs.results()
    for result in results:
        assert result.outcome is Outcome.CRASH
        assert "runtime" in result.text or "shim" in result.text, result


@pytest.mark.case(19)
def test_a_host_whose_runtime_does_not_work_leaves_its_jobs_to_the_other(broken_runtime: str, daemon: PrivateDaemon) -> None:
    with jobs_on(DockerHost(broken_runtime, name="broken"), DockerHost(daemon.url, name="works")) as jobs:
        jobs.add(QUICK, 4)
        results = jobs.results()
    assert all(ran_once(result) for result in results), results
    assert {result.host for result in results} == {"works"}


@pytest.mark.case(19)
def test_a_network_that_does_not_exist_is_refused_at_the_call_with_those_that_do(daemon: PrivateDaemon) -> None:
    with jobs_on(daemon.url) as jobs:
        said = r"no host that has its environment has the network 'no-such-network'; there are: (?!.*host)"
        with pytest.raises(Unsatisfiable, match=said):
            jobs.add(Task(BUSYBOX, command="true", network="no-such-network"))
        jobs.add(QUICK)
        assert ran_once(jobs.results()[0])


@pytest.mark.case(19)
def test_a_network_that_goes_between_two_looks_at_the_host_is_one_crash_with_its_name(daemon: PrivateDaemon) -> None:
    """Or a refusal, if a look has come in between."""
    client = docker.DockerClient(base_url=daemon.url, version="1.41", timeout=20)
    made = client.networks.create("goes-away", driver="bridge", internal=True)
    outcome, text = Outcome.CRASH, ""
    try:
        with jobs_on(daemon.url) as jobs:
            made.remove()
            made = None
            try:
                jobs.add(Task(BUSYBOX, command="true", network="goes-away"))
            except Unsatisfiable as refusal:
                text = str(refusal)
            else:
                (result,) = jobs.results()
                outcome, text = result.outcome, result.text
    finally:
        if made is not None:
            made.remove()
        client.close()
    assert outcome is Outcome.CRASH
    assert "goes-away" in text
