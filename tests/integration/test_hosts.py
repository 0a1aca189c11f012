"""Several Docker hosts: which one takes a job, and what a host that is down, hung or back does to the others."""

from __future__ import annotations

import logging
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager
from pathlib import Path

import docker
import psutil
import pytest

from jobmanager import ClientSync, DockerHost, HookManager, HostInfo, JobFuture, JobManager, JobResult, Limits, Outcome, Task
from jobmanager.control import waiters
from jobmanager.errors import EngineUnavailable, InvalidHost, UnknownEnvironment, Unsatisfiable
from jobmanager.events import EnvironmentsChanged, HostDown
from jobmanager.scheduling.hosts import ENVIRONMENT_LABEL
from jobmanager.threads.log_thread import drain
from tests.conftest import BUSYBOX, children, eventually, our_containers, our_threads, our_volumes
from tests.support.daemons import PrivateDaemon
from tests.support.faults import command_line
from tests.support.printed import program_runs
from tests.support.registry import Registry

pytestmark = [pytest.mark.engine, pytest.mark.daemon]

PATIENCE_S = 60.0
LOOK_S = 20.0  # hosts are looked at every few seconds
ENDLESS = Task(BUSYBOX, command="echo ready; sleep 3000", limits=Limits(wall_time_s=3600))
NOBODY = "unix:///tmp/nobody-listens-here.sock"


@pytest.fixture(scope="module")
def daemons(image_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PrivateDaemon, PrivateDaemon]]:
    """Two that no test of this file ends; it may pause them."""
    folder = tmp_path_factory.mktemp("hosts")
    with PrivateDaemon(folder / "a") as a, PrivateDaemon(folder / "b") as b:
        for daemon in (a, b):
            daemon.load_image(Path(image_tar))
        yield a, b


@pytest.fixture
def urls(daemons: tuple[PrivateDaemon, PrivateDaemon]) -> Iterator[tuple[str, str]]:
    """Their urls; afterwards nothing of ours may be there."""
    yield daemons[0].url, daemons[1].url
    for daemon in daemons:
        eventually(lambda url=daemon.url: not our_containers(url) and not our_volumes(url), what="nothing is left behind")


@pytest.fixture(autouse=True)
def hosts_are_looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """As otherwise the tests of what a look finds wait for the next one most of the time."""
    monkeypatch.setattr(waiters, "_HOST_CHECK_INTERVAL_S", 0.5)


@contextmanager
def managing(*hosts: DockerHost, **options: object) -> Iterator[JobManager]:
    """A manager that has heard of all its hosts, but of one named down; its jobs are killed in the end."""
    manager = JobManager(hosts, **options)  # type: ignore[arg-type]
    manager.start()
    try:
        eventually(lambda: all(record.up for record in manager.hosts() if record.name != "down"), what="all hosts are up")
        yield manager
    finally:
        manager.close(kill=True)


def two(urls: Sequence[str], *, a: int | None = 4, b: int | None = 4) -> list[DockerHost]:
    """Hosts a and b with so many slots."""
    return [DockerHost(urls[0], name="a", max_concurrent_jobs=a), DockerHost(urls[1], name="b", max_concurrent_jobs=b)]


@contextmanager
def image(url: str, name: str, *, label: str | None = None, base: str = BUSYBOX) -> Iterator[str]:
    """An image of its own on one host, for a while; its id."""
    client = docker.APIClient(base_url=url, version="1.41")
    try:
        container = client.create_container(base, ["true"])["Id"]
        repository, _, tag = name.partition(":")
        changes = [f"LABEL {ENVIRONMENT_LABEL}={label}"] if label is not None else ["LABEL distinct=1"]
        made = str(client.commit(container, repository, tag, changes=changes)["Id"])
        client.remove_container(container)
        try:
            yield made
        finally:
            client.remove_image(name, force=True)
    finally:
        client.close()


def host(manager: JobManager, name: str) -> HostInfo:
    return next(record for record in manager.hosts() if record.name == name)


def running(manager: JobManager) -> dict[str, int]:
    """Slots taken by host."""
    return {record.name: record.running for record in manager.hosts()}


def results(futures: Sequence[JobFuture], within_s: float = PATIENCE_S) -> list[JobResult]:
    wait(futures, timeout=within_s)
    return [future.result(0) for future in futures]


def where(futures: Sequence[JobFuture]) -> Counter[str | None]:
    """How many jobs each host ran, all of which must have gone well."""
    found = results(futures)
    assert {result.outcome for result in found} == {Outcome.SUCCESS}, [result.text for result in found]
    return Counter(result.host for result in found)


def programs_run(url: str, count: int) -> bool:
    """Whether so many endless programs have begun on a host."""
    client = docker.DockerClient(base_url=url, version="1.41")
    try:
        return sum(program_runs(container) for container in client.containers.list()) == count
    finally:
        client.close()


def one_line(said: str) -> str:
    assert said and "\n" not in said, said
    return said


# ---- which host takes a job


@pytest.mark.case(16)
def test_the_host_with_the_fewest_running_jobs_takes_the_next(urls: tuple[str, str]) -> None:
    with image(urls[0], "only-on-a:1"), managing(*two(urls, a=8, b=8)) as manager:
        for _ in range(3):
            manager.submit(Task("only-on-a:1", command="sleep 3000"))
        eventually(lambda: running(manager) == {"a": 3, "b": 0})

        for _ in range(3):
            manager.submit(ENDLESS)

        eventually(lambda: sum(running(manager).values()) == 6)
        assert running(manager) == {"a": 3, "b": 3}


@pytest.mark.case(16)
def test_the_count_is_right_after_jobs_have_ended(urls: tuple[str, str]) -> None:
    """What ended, and what could not start, holds no slot."""
    with managing(*two(urls)) as manager:
        where([manager.submit(Task(BUSYBOX, command="true")) for _ in range(6)])
        refused = ClientSync(manager).new_job(Task(BUSYBOX, command=["/no/such/program"]), None)
        eventually(lambda: running(manager) == {"a": 0, "b": 0})

        for _ in range(8):
            manager.submit(ENDLESS)

        assert refused.outcome in (Outcome.FAILED, Outcome.CRASH)
        eventually(lambda: running(manager) == {"a": 4, "b": 4})


def test_ties_spread_over_the_hosts(urls: tuple[str, str]) -> None:
    """One job at a time: each finds all hosts idle."""
    with managing(*two(urls)) as manager:
        used = []
        for _ in range(4):
            used.append(ClientSync(manager).new_job(Task(BUSYBOX, command="true"), None).host)
            eventually(lambda: running(manager) == {"a": 0, "b": 0})

    assert sorted(used[:2]) == sorted(used[2:]) == ["a", "b"]


def test_no_host_has_more_jobs_at_once_than_it_may(urls: tuple[str, str]) -> None:
    with managing(*two(urls, a=1, b=2)) as manager:
        futures = [manager.submit(ENDLESS) for _ in range(6)]
        eventually(lambda: [len(our_containers(url)) for url in urls] == [1, 2])

        for ended in range(1, 4):  # each that ends makes room for one, on its host
            running_now, waiting = manager.get_job_queue_snapshot()
            assert (len(running_now), len(waiting)) == (3, 4 - ended)
            manager.kill_job(running_now[0].job_id)
            eventually(lambda ended=ended: sum(future.done() for future in futures) == ended)
            eventually(lambda ended=ended: len(manager.get_job_queue_snapshot()[1]) == 3 - ended)
            eventually(lambda: running(manager) == {"a": 1, "b": 2})
            assert len(our_containers(urls[0])) <= 1 and len(our_containers(urls[1])) <= 2


def test_a_host_has_its_url_for_a_name_and_a_limit_from_its_machine(urls: tuple[str, str]) -> None:
    with managing(DockerHost(urls[0])) as manager:
        record = manager.hosts()[0]

        assert record.name == record.url == urls[0]
        assert 1 <= record.limit < 10_000
        assert ClientSync(manager).new_job(Task(BUSYBOX, command="true"), None).host == urls[0]


def test_several_waiters_of_one_host_share_its_jobs(urls: tuple[str, str]) -> None:
    with managing(DockerHost(urls[0], waiters=3, max_concurrent_jobs=4)) as manager:
        assert sum("jobmanager._waiter" in child for child in full_command_lines()) == 3
        assert where([manager.submit(Task(BUSYBOX, command="echo hello")) for _ in range(8)]) == {urls[0]: 8}


def full_command_lines() -> list[str]:
    return [command_line(child) for child in psutil.Process().children()]


def test_two_hosts_of_one_name_are_refused(urls: tuple[str, str]) -> None:
    with pytest.raises(InvalidHost, match="two hosts have one name: 'same'"):
        JobManager([DockerHost(urls[0], name="same"), DockerHost(urls[1], name="same")])


# ---- images


@pytest.mark.case(18)
def test_a_job_runs_on_the_only_host_that_has_its_image(urls: tuple[str, str]) -> None:
    with image(urls[1], "only-on-b:1"), managing(*two(urls)) as manager:
        assert where([manager.submit(Task("only-on-b:1", command="true")) for _ in range(4)]) == {"b": 4}


@pytest.mark.case(18)
def test_an_environment_that_nobody_has_is_refused_with_the_known_names(urls: tuple[str, str]) -> None:
    with image(urls[1], "labelled:1", label="cobol"), managing(*two(urls), environments={"old": BUSYBOX}) as manager:
        began = time.monotonic()
        with pytest.raises(UnknownEnvironment) as raised:
            manager.new_job(Task("no-such-environment", command="true"))

        assert time.monotonic() - began < 1
        said = one_line(str(raised.value))
        assert "'no-such-environment'" in said
        assert all(name in said.partition("known:")[2] for name in ("cobol", "old", BUSYBOX, "labelled:1"))
        assert not any(running(manager).values())


def test_memory_that_no_host_has_is_refused(urls: tuple[str, str]) -> None:
    with managing(*two(urls)) as manager:
        with pytest.raises(Unsatisfiable, match=r"100000000 MiB.*largest host has \d+ MiB"):
            manager.new_job(Task(BUSYBOX, command="true", limits=Limits(memory_mib=100_000_000)))

        assert not any(running(manager).values())


def test_environments_have_names_by_alias_and_by_label(urls: tuple[str, str]) -> None:
    names = {"shell": BUSYBOX, "not-here": "no-such-image:1"}
    with image(urls[1], "labelled:1", label="cobol"), managing(*two(urls), environments=names) as manager:

        assert manager.get_available_environments() == {"docker": ["cobol", "shell"]}
        assert host(manager, "a").environments == ("shell",)
        assert host(manager, "b").environments == ("cobol", "shell")
        by_label = [manager.submit(Task("cobol", command="true")) for _ in range(2)]
        by_alias = [manager.submit(Task("shell", command="true")) for _ in range(2)]
        assert where(by_label) == {"b": 2}
        assert sum(where(by_alias).values()) == 2
        with pytest.raises(UnknownEnvironment, match="not-here"):
            manager.new_job(Task("not-here", command="true"))


def test_an_alias_goes_before_an_image_of_that_name(urls: tuple[str, str]) -> None:
    with image(urls[0], "meant:1"), image(urls[1], "shadowed:1", label="meant"), managing(
        *two(urls), environments={"meant": "meant:1"}
    ) as manager:
        assert where([manager.submit(Task("meant", command="true")) for _ in range(3)]) == {"a": 3}


def test_environments_come_and_go_with_images_and_hosts_and_a_hook_is_told(
    daemons: tuple[PrivateDaemon, PrivateDaemon], urls: tuple[str, str]
) -> None:
    told: list[tuple[str, ...]] = []
    hooks = HookManager()
    hooks.add(EnvironmentsChanged, lambda event: told.append(event.environments))
    options = {"environments": {"shell": BUSYBOX}, "hook_manager": hooks, "engine_timeout_s": 3.0}
    with managing(*two(urls), **options) as manager:
        with pytest.raises(UnknownEnvironment):
            manager.submit(Task("late", command="true"))

        with image(urls[1], "late:1", label="late"):
            eventually(lambda: told == [("shell",), ("late", "shell")], within_s=LOOK_S, what="the image is noticed")
            assert manager.get_available_environments() == {"docker": ["late", "shell"]}
            daemons[1].pause()
            try:
                eventually(lambda: told[2:] == [("shell",)], within_s=LOOK_S, what="its only host is missed")
                assert manager.get_available_environments() == {"docker": ["shell"]}
                job = manager.submit(Task("late", command="true"))  # it is taken all the same, and waits
            finally:
                daemons[1].resume()
            eventually(lambda: told[3:] == [("late", "shell")], within_s=LOOK_S, what="its host is back")
            assert where([job]) == {"b": 1}
            eventually(lambda: not our_containers(urls[1]), what="nothing uses the image any more")

        eventually(lambda: told[4:] == [("shell",)], within_s=LOOK_S, what="the image is missed")
        with pytest.raises(UnknownEnvironment):
            manager.submit(Task("late", command="true"))


def test_of_several_images_of_one_environment_the_newest_is_taken_and_a_person_is_told_once(
    urls: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with image(urls[0], "older:1", label="twice"), ExitStack() as newer, managing(*two(urls)) as manager:
        the_next_second()
        newer.enter_context(image(urls[1], "newer:1", label="twice"))
        eventually(lambda: host(manager, "a").older_versions == ("twice",), within_s=LOOK_S, what="the newer one is noticed")
        assert host(manager, "b").older_versions == ()
        assert where([manager.submit(Task("twice", command="true")) for _ in range(6)]) == {"b": 6}
        assert drain(10)
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        name = "(newer:1|sha256:[0-9a-f]{64})"  # an engine may be looked at before the image has its name
        assert re.search(rf"environment twice .*{name} of .* on b; older:1 of .* on a$", warnings[0])

        eventually(lambda: not our_containers(urls[1]), what="nothing uses the newer image any more")
        newer.close()
        eventually(lambda: host(manager, "a").older_versions == (), within_s=LOOK_S, what="its end is noticed")
        assert where([manager.submit(Task("twice", command="true"))]) == {"a": 1}


def test_an_image_that_is_made_from_a_labelled_one_takes_over_its_name_unless_it_has_a_label_of_its_own(
    urls: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    # given: an image without a name, made of one with a name
    with image(urls[0], "parent:1", label="parent") as parent, ExitStack() as derived, managing(*two(urls)[:1]) as manager:
        the_next_second()
        derived.enter_context(image(urls[0], "unnamed:1", label="", base="parent:1"))
        derived.enter_context(image(urls[0], "named:1", label="child", base="parent:1"))
        eventually(lambda: "child" in manager.get_available_environments()["docker"], within_s=LOOK_S, what="they are noticed")
        assert host(manager, "a").older_versions == ()
        # when: one is made that says nothing of its own
        taken_over = derived.enter_context(image(urls[0], "heir:1", base="parent:1"))
        eventually(lambda: host(manager, "a").older_versions == ("parent",), within_s=LOOK_S, what="the heir is noticed")
        # then: jobs run in it, and the log tells why and what would do
        assert taken_over != parent

        def warnings() -> list[str]:
            return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

        eventually(warnings, what="the log tells of it")
        assert len(warnings()) == 1
        told = "an image that is made FROM one of them has its label, unless it says LABEL jobmanager.environment= itself"
        assert re.search(rf"environment parent .*\({told}\): heir:1 of .* on a; parent:1 of .* on a$", warnings()[0])


def the_next_second() -> None:
    """Engines tell the second in which an image was made."""
    second = int(time.time())
    eventually(lambda: int(time.time()) > second, what="the next image is newer by the engine's clock")


@pytest.mark.case(18)
def test_an_image_that_vanished_unnoticed_is_one_clear_crash(urls: tuple[str, str]) -> None:
    with managing(*two(urls)) as manager:
        with image(urls[0], "brief:1", label="brief"):
            eventually(lambda: "brief" in host(manager, "a").environments, within_s=LOOK_S)

        # by its label: the engine may have been looked at before the image had its name
        result = ClientSync(manager).new_job(Task("brief", command="true"), None, timeout_s=LOOK_S)

    assert result.outcome is Outcome.CRASH
    assert "No such image" in one_line(result.text)


@pytest.mark.case(18)
def test_an_image_that_vanished_from_one_host_unnoticed_runs_on_the_other(urls: tuple[str, str]) -> None:
    with image(urls[1], "both:1", label="both"), managing(*two(urls, b=1)) as manager:
        busy = manager.submit(Task("both", command="sleep 3000"))  # so that the next ones are tried on a
        with image(urls[0], "both:1", label="both"):
            eventually(lambda: "both" in host(manager, "a").environments, within_s=LOOK_S)

        # by its label: the engine may have been looked at before the image had its name
        futures = [manager.submit(Task("both", command="true"), debug=True) for _ in range(3)]
        eventually(lambda: running(manager) == {"a": 0, "b": 1} and len(manager.get_job_queue_snapshot()[1]) == 3)
        manager.kill_job(busy.job_id)

        assert where(futures) == {"b": 3}
        steps = [[step.name for step in future.result().steps] for future in futures]
        assert any("start_failed" in names for names in steps), "once that has failed, the others need not be tried there"


@pytest.mark.case(18)
def test_an_environment_whose_newest_image_vanished_unnoticed_runs_in_the_one_before(urls: tuple[str, str]) -> None:
    with image(urls[0], "older:1", label="twice"), ExitStack() as newer:
        the_next_second()
        newer.enter_context(image(urls[0], "newer:1", label="twice"))
        with managing(DockerHost(urls[0], name="a", max_concurrent_jobs=1)) as manager:
            assert ClientSync(manager).new_job(Task("newer:1", command="true"), None).outcome is Outcome.SUCCESS
            newer.close()
            job = manager.submit(Task("twice", command="true"), debug=True)
            assert job.result(LOOK_S).outcome is Outcome.SUCCESS


def test_a_host_that_may_fetch_images_but_reaches_no_registry_says_so_once(urls: tuple[str, str]) -> None:
    """A real registry cannot be reached from here; the daemon says why it could not fetch."""
    fetching = DockerHost(urls[0], name="a", pull="missing")
    with managing(fetching) as manager:
        began = time.monotonic()
        result = ClientSync(manager).new_job(Task("registry.invalid/no/such:1", command="true"), None)

        assert result.outcome is Outcome.CRASH
        assert "registry.invalid" in one_line(result.text)
        assert time.monotonic() - began < 30
        eventually(lambda: running(manager) == {"a": 0})


def test_a_host_that_may_fetch_images_fetches_one_that_it_lacks(
    daemons: tuple[PrivateDaemon, PrivateDaemon], urls: tuple[str, str], image_tar: str, tmp_path: Path
) -> None:
    hosts = [DockerHost(urls[0], name="a"), DockerHost(urls[1], name="b", pull="missing")]
    with Registry(Path(image_tar), pid=daemons[1].pid, folder=tmp_path) as registry, managing(*hosts) as manager:
        try:
            futures = [manager.submit(Task(registry.image, command="echo fetched")) for _ in range(3)]

            assert where(futures) == {"b": 3}
            assert {future.result().stdout for future in futures} == {b"fetched\n"}
            missing = ClientSync(manager).new_job(Task(f"{registry.image}9", command="true"), None)
            assert missing.outcome is Outcome.CRASH
            assert "manifest unknown" in one_line(missing.text)
        finally:
            client = docker.APIClient(base_url=urls[1], version="1.41")
            client.remove_image(registry.image)
            client.close()


CONFIGURATIONS = {
    "a helper that is missing": '{"credsStore": "is-not-there"}',
    "one for this registry": '{"credHelpers": {"127.0.0.1:5000": "is-not-there"}}',
    "a list": "[1, 2]",
    "half": '{"auths": {',
    "a log-in that is none": '{"auths": {"127.0.0.1:5000": {"auth": "no base64!"}}}',
}


@pytest.mark.case(52)
@pytest.mark.parametrize("configuration", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_an_image_comes_without_a_log_in_where_docker_s_configuration_is_broken_and_the_host_stays_up(
    daemons: tuple[PrivateDaemon, PrivateDaemon],
    urls: tuple[str, str],
    image_tar: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    configuration: str,
) -> None:
    (tmp_path / "config.json").write_text(configuration)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    downs: list[HostDown] = []
    hooks = HookManager()
    hooks.add(HostDown, downs.append)
    host = DockerHost(urls[1], name="b", pull="missing")
    registry = Registry(Path(image_tar), pid=daemons[1].pid, folder=tmp_path)
    with registry, managing(host, hook_manager=hooks) as manager:
        try:
            absent = manager.submit(Task(f"{registry.image}9", command="true"))
            others = [manager.submit(Task(name, command="echo ran")) for name in (registry.image, BUSYBOX)]

            assert [future.result(PATIENCE_S).stdout for future in others] == [b"ran\n", b"ran\n"]
            assert absent.result(PATIENCE_S).outcome is Outcome.CRASH
            assert "manifest unknown" in one_line(absent.result().text)
        finally:
            monkeypatch.delenv("DOCKER_CONFIG")  # or our own hands below could not work either
            client = docker.APIClient(base_url=urls[1], version="1.41")
            client.remove_image(registry.image)
            client.close()
    assert downs == []


# ---- hosts that are down


def test_the_other_host_is_used_when_one_is_down_at_the_start(urls: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
    hosts = [DockerHost(NOBODY, name="down"), DockerHost(urls[1], name="b")]
    with caplog.at_level(logging.WARNING, "jobmanager"), managing(*hosts) as manager:
        assert where([manager.submit(Task(BUSYBOX, command="true")) for _ in range(4)]) == {"b": 4}
        record = host(manager, "down")

    assert (record.up, record.running, record.limit) == (False, 0, 0)
    assert "No such file" in record.reason
    assert any("host down is down" in line.getMessage() for line in caplog.records)


def test_a_start_without_any_host_says_what_to_do_and_leaves_nothing() -> None:
    manager = JobManager([DockerHost(NOBODY, name="x"), DockerHost("tcp://127.0.0.1:1", name="y")])
    began, before = time.monotonic(), set(children())

    with pytest.raises(EngineUnavailable) as raised:
        manager.start()

    assert time.monotonic() - began < 12
    said = one_line(str(raised.value))
    assert NOBODY in said and "tcp://127.0.0.1:1" in said and "start the engine" in said
    assert set(children()) <= before and not our_threads()
    manager.close()


def test_a_manager_that_could_not_start_starts_once_its_host_is_there(urls: tuple[str, str]) -> None:
    late = Path("/tmp") / f"jm-late-{os.getpid()}.sock"
    manager = JobManager(DockerHost(f"unix://{late}"))
    with pytest.raises(EngineUnavailable):
        manager.start()
    late.symlink_to(urls[0].removeprefix("unix://"))
    try:
        with manager:
            assert ClientSync(manager).new_job(Task(BUSYBOX, command="true"), None).outcome is Outcome.SUCCESS
    finally:
        late.unlink()


@pytest.mark.case(15)
def test_a_host_that_is_killed_while_jobs_wait_is_passed_over_and_takes_jobs_again_when_it_is_back(
    urls: tuple[str, str], image_tar: str, tmp_path: Path
) -> None:
    with PrivateDaemon(tmp_path / "mortal") as mortal:
        mortal.load_image(Path(image_tar))
        hosts = [DockerHost(mortal.url, name="mortal", max_concurrent_jobs=2), DockerHost(urls[1], name="b", max_concurrent_jobs=2)]
        with managing(*hosts, host_lost_timeout_s=30) as manager:
            first = [manager.submit(ENDLESS) for _ in range(4)]
            eventually(lambda: running(manager) == {"mortal": 2, "b": 2})
            eventually(lambda: all(programs_run(url, 2) for url in (mortal.url, urls[1])), what="four programs run")
            waiting = [manager.submit(Task(BUSYBOX, command="echo mine")) for _ in range(6)]

            mortal.kill()
            eventually(lambda: not host(manager, "mortal").up, within_s=LOOK_S, what="the manager knows that it is down")
            reason = host(manager, "mortal").reason
            for job in manager.get_job_queue_snapshot()[0]:
                if job.info.endswith("on b"):
                    manager.kill_job(job.job_id)
            assert where(waiting) == {"b": 6}
            assert {future.result().stdout for future in waiting} == {b"mine\n"}
            assert one_line(reason)

            mortal.restart()
            eventually(lambda: host(manager, "mortal").up, within_s=30, what="it is known to be back")
            lost = [result for result in results(first) if result.outcome is not Outcome.KILLED]
            assert {(result.outcome, result.host) for result in lost} == {(Outcome.CRASH, "mortal")}
            assert len(lost) == 2
            eventually(lambda: running(manager)["mortal"] == 0)
            again = [manager.submit(Task(BUSYBOX, command="true")) for _ in range(4)]
            assert where(again)["mortal"] >= 1
        eventually(lambda: not our_containers(mortal.url) and not our_volumes(mortal.url))


def test_a_hung_host_holds_up_no_job_of_the_other_and_its_own_go_on(
    daemons: tuple[PrivateDaemon, PrivateDaemon], urls: tuple[str, str]
) -> None:
    """Stopped for a few seconds, in which each host has jobs at every stage."""
    since = time.time()
    with image(urls[0], "only-on-a:1"), image(urls[1], "only-on-b:1"), managing(*two(urls)) as manager:
        own = [manager.submit(Task("only-on-a:1", command=f"sleep {n % 3}; echo ran")) for n in range(8)]
        eventually(lambda: our_containers(urls[0]))
        daemons[0].pause()
        try:
            others = [manager.submit(Task("only-on-b:1", command="echo ran")) for _ in range(8)]
            assert where(others) == {"b": 8}
            eventually(lambda: not host(manager, "a").up, within_s=LOOK_S, what="the manager knows that it hangs")
            assert where([manager.submit(Task(BUSYBOX, command="true")) for _ in range(4)]) == {"b": 4}
            assert not all(future.done() for future in own)
        finally:
            daemons[0].resume()

        assert where(own) == {"a": 8}
        assert {future.result().stdout for future in own} == {b"ran\n"}
        runs = deliveries(urls[0], since)
        assert {job_id: len(runs[job_id]) for job_id in (future.job_id for future in own)} == {f.job_id: 1 for f in own}


def deliveries(url: str, since: float) -> dict[str, set[str]]:
    """The containers of each job that somebody was attached to: only those can have been given the job."""
    found: dict[str, set[str]] = defaultdict(set)
    client = docker.APIClient(base_url=url, version="1.41")
    try:
        for event in client.events(since=int(since) - 1, until=int(time.time()) + 1, decode=True, filters={"event": "attach"}):
            found[event["Actor"]["Attributes"].get("jobmanager.job", "")].add(event["Actor"]["ID"])
    finally:
        client.close()
    return found
