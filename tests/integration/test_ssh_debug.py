"""``debug="ssh"``: a person logs in to a job's container with a real ssh, on an engine with a bridge network of its own."""

from __future__ import annotations

import io
import json
import logging
import tarfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import docker
import psutil
import pytest

from jobmanager import DockerHost, JobInput, JobManager, JobResult, Limits, Outcome, Task
from jobmanager.errors import Unsatisfiable
from jobmanager.remote import RemoteClient
from jobmanager.ssh import debug_session
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.support.daemons import PrivateDaemon
from tests.support.faults import processes
from tests.support.hand_made_cluster import KEY, NAMESPACE, TIMEOUTS, WorkerProcess
from tests.support.redis_server import RedisServer
from tests.support.ssh_client import IMAGE, Login, Person, make_image

pytestmark = [pytest.mark.engine, pytest.mark.daemon]

NOBODY = (None, None, None, None)
NO_RIGHTS = "0" * 16
TASK = Task(IMAGE, command="cat given; read line; echo $line $WORD; exit 3", files={"given": "a file\n"}, env={"WORD": "it's"})


@pytest.fixture(scope="module")
def daemon(image_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    with PrivateDaemon(tmp_path_factory.mktemp("ssh-debug"), bridge=True) as daemon:
        daemon.load_image(Path(image_tar))
        make_image(daemon)
        yield daemon


@pytest.fixture(scope="module")
def engine_url(daemon: PrivateDaemon) -> str:
    """The file's manager and the look at what is left behind are for this engine."""
    return daemon.url


@pytest.fixture
def person(daemon: PrivateDaemon, tmp_path: Path) -> Iterator[Person]:
    """Afterwards nothing of a session is left on the engine."""
    yield Person(daemon, tmp_path)
    eventually(lambda: not our_containers(daemon.url) and not our_volumes(daemon.url), what="containers and volumes are gone")
    eventually(lambda: not left_of_sessions(daemon), what="processes are gone")


@pytest.fixture(autouse=True)
def the_end_comes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug_session, "_GRACE_S", 1)


def left_of_sessions(daemon: PrivateDaemon) -> list[psutil.Process]:
    family = psutil.Process(daemon.pid).children(recursive=True)
    return [process for process in family if process.name() in ("sshd", "docker-proxy")]


class Heard:
    """What both callbacks of a job were told, in order."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.calls: list[tuple[object, ...]] = []
        self.results: list[JobResult] = []
        self.threads: list[str] = []
        self.calls_before_the_result: int | None = None

    def ssh(self, *told: object) -> None:
        self.threads.append(threading.current_thread().name)
        self.calls.append(told)

    def result(self, result: JobResult) -> None:
        self.calls_before_the_result = len(self.calls)
        self.results.append(result)

    def login(self) -> Login:
        (told,) = eventually(lambda: self.calls, what="somebody may log in")
        host, port, user, password = told
        assert isinstance(host, str) and isinstance(port, int) and isinstance(user, str) and isinstance(password, str)
        return Login(host=host, port=port, user=user, password=password)

    def end(self) -> JobResult:
        (result,) = eventually(lambda: self.results, what="the job has ended")
        assert len(self.calls) == self.calls_before_the_result == 1
        return result


Debug = Callable[..., Heard]


@pytest.fixture
def debug(shared_manager: JobManager, person: Person) -> Debug:
    """Submits a job that a person wants to look into."""

    def submitted(task: Task = TASK) -> Heard:
        heard = Heard()
        shared_manager.new_job(task, JobInput(stdin="a line\n"), heard.result, debug="ssh", ssh_callback=heard.ssh, job_id=heard.id)
        return heard

    return submitted


# ---- a session


def test_a_person_logs_in_reads_and_writes_files_runs_the_job_and_leaves(
    daemon: PrivateDaemon, person: Person, debug: Debug, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        heard = debug(replace(TASK, collect=["new", "sent"]))
        login = heard.login()
        assert (login.host, login.user) == ("127.0.0.1", "job") and login.port > 1024
        assert login.password not in described(daemon)

        with person.start(login, "echo open; cat") as first:  # as long as one session is open, no server leaves between two others
            assert first.stdout is not None and first.stdout.readline() == b"open\n"
            seen = person.runs(login, "cat given; pwd; echo new > new; sh .jobmanager/run; echo exit code $?")
            sftp = person.runs(login, "-s", "sftp")
            typed = person.runs(login, "-tt", "exec sh", stdin=b"tty; echo $WORD; echo sent > sent; exit\n")
            first.communicate(timeout=30)
        result = heard.end()

    assert seen.stdout == b"a file\n/job\na file\na line it's\nexit code 3\n"
    assert sftp.returncode == 0
    assert b"/dev/pts/0" in typed.stdout and b"it's" in typed.stdout
    assert (result.outcome, result.text) == (Outcome.SUCCESS, "")
    assert contents(result) == {"new": b"new\n", "sent": b"sent\n"}
    assert result.stderr.count(b"Accepted password for job") == 4
    assert "ssh_ready" in [step.name for step in result.steps]
    assert all(name.startswith("jobmanager-callbacks") for name in heard.threads)
    assert login.password not in caplog.text and login.password.encode() not in result.stdout + result.stderr


@pytest.mark.cluster
def test_a_person_logs_in_to_a_job_that_runs_on_another_machine_and_redis_never_has_the_password(
    daemon: PrivateDaemon, person: Person, tmp_path: Path
) -> None:
    heard = Heard()
    with RedisServer() as redis, ExitStack() as stack:
        worker = WorkerProcess(tmp_path, redis.socket_url, "--host", daemon.url, "--name", "n1", "--advertise", "127.0.0.1")
        stack.callback(worker.close)
        worker.wait_until_ready()
        client = stack.enter_context(RemoteClient(redis.socket_url, key=KEY, namespace=NAMESPACE, timeouts=TIMEOUTS))
        client.new_job(TASK, JobInput(stdin="a line\n"), heard.result, debug="ssh", ssh_callback=heard.ssh, job_id=heard.id)
        login = heard.login()

        seen = person.runs(login, "sh .jobmanager/run; echo exit code $?")
        result = heard.end()
        written = b"".join(path.read_bytes() for path in redis.data_files())

    assert seen.stdout == b"a file\na line it's\nexit code 3\n"
    assert result.outcome is Outcome.SUCCESS and result.host == "n1"
    assert heard.id.encode() in written and login.password.encode() not in written
    assert login.password not in worker.log


def described(daemon: PrivateDaemon) -> str:
    """All that the engine tells of its containers and volumes."""
    return json.dumps([containers(daemon), *look(daemon, lambda client: client.volumes()["Volumes"])])


def containers(daemon: PrivateDaemon) -> list[dict[str, Any]]:
    return look(daemon, lambda client: [client.inspect_container(found) for found in client.containers(all=True)])


def look(daemon: PrivateDaemon, ask: Callable[[docker.APIClient], Any]) -> Any:
    client = docker.APIClient(base_url=daemon.url, version="1.41")
    try:
        return ask(client)
    finally:
        client.close()


def contents(result: JobResult) -> dict[str, bytes]:
    assert result.archive is not None
    with tarfile.open(fileobj=io.BytesIO(result.archive)) as archive:
        return {name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]


def test_only_the_password_lets_in_and_limits_and_rights_are_those_of_a_job(
    daemon: PrivateDaemon, person: Person, debug: Debug
) -> None:
    heard = debug(replace(TASK, limits=Limits(memory_mib=64, open_files=100)))
    login = heard.login()
    host = containers(daemon)[0]["HostConfig"]
    refused = person.runs(login, "true", password="not the one")
    with person.start(login, "echo open; cat") as first:  # one session is open while the next ones work
        assert first.stdout is not None and first.stdout.readline() == b"open\n"
        asked = "grep -E 'Cap(Eff|Bnd)|NoNewPrivs|Seccomp:' /proc/self/status; ulimit -n; id -u; touch /etc/x /x"
        rights = person.runs(login, asked)
        forwarded = person.runs(login, "-W", "127.0.0.1:2222", "true")
        bomb = person.runs(login, "head -c 200m /dev/zero | tail -c 200m | wc -c; echo still here")
        out, _ = first.communicate(b"said\n", timeout=30)
    result = heard.end()

    assert refused.returncode == 255 and b"Permission denied" in refused.stderr
    assert out == b"said\n"
    said = rights.stdout.decode().split()
    assert said == ["CapEff:", NO_RIGHTS, "CapBnd:", NO_RIGHTS, "NoNewPrivs:", "1", "Seccomp:", "2", "100", "65534"]
    assert b"/etc/x: Permission denied" in rights.stderr and b"/x: Read-only file system" in rights.stderr
    assert forwarded.returncode == 255
    assert bomb.stdout == b"0\nstill here\n"
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Memory"]) == (True, ["ALL"], (64 + 64) * 2**20)
    assert [places[0]["HostIp"] for places in host["PortBindings"].values()] == ["127.0.0.1"]
    assert result.outcome is Outcome.SUCCESS


def test_a_session_outlives_its_waiter_and_ends_by_kill_job(shared_manager: JobManager, person: Person, debug: Debug) -> None:
    heard = debug()
    login = heard.login()
    with person.start(login, "cat") as ssh:
        before = waiters()
        psutil.Process(*before).kill()
        eventually(lambda: waiters() and not waiters() & before, what="another waiter has taken over")
        assert person.runs(login, "echo still there").stdout == b"still there\n"

        assert shared_manager.kill_job(heard.id)
        result = heard.end()
        assert ssh.wait(timeout=30) == 255

    assert result.outcome is Outcome.KILLED


def waiters() -> set[int]:
    return {child.pid for child in processes("jobmanager._waiter")}


def test_a_session_ends_when_its_time_is_over_or_its_manager_closes(daemon: PrivateDaemon, person: Person) -> None:
    """And it is reached at the address that its host was given: here the bridge's."""
    timed, waiting, closed = Heard(), Heard(), Heard()
    address = bridge_address(daemon)
    host = DockerHost(daemon.url, max_concurrent_jobs=1, address=address)
    with JobManager(host, ssh_timeout_s=4) as manager:
        for heard in (timed, waiting, closed):
            manager.new_job(TASK, None, heard.result, debug="ssh", ssh_callback=heard.ssh, job_id=heard.id)
        with person.start(timed.login(), "cat") as ssh:
            assert waiting.calls == [] and manager.kill_job(waiting.id)
            assert ssh.wait(timeout=30) == 255
        with person.start(closed.login(), "cat") as ssh:
            manager.close(kill=True)
            assert ssh.wait(timeout=30) == 255

    assert address != "127.0.0.1" and timed.login().host == closed.login().host == address
    assert (timed.end().outcome, timed.end().text) == (Outcome.TIMEOUT, "wall clock limit of 4 s reached")
    assert waiting.end().outcome is Outcome.KILLED and waiting.calls == [NOBODY]
    assert closed.end().outcome is Outcome.KILLED


def bridge_address(daemon: PrivateDaemon) -> str:
    (pool,) = look(daemon, lambda client: client.inspect_network("bridge")["IPAM"]["Config"])
    return str(next(ip_network(pool["Subnet"]).hosts()))


# ---- no session


def test_without_an_sshd_in_the_image_nobody_logs_in_and_the_result_says_why(debug: Debug) -> None:
    heard = debug(Task(BUSYBOX, command="true"))
    result = heard.end()

    assert heard.calls == [NOBODY]
    assert result.outcome is Outcome.CRASH
    assert result.text == 'the program was not started: debug="ssh" needs sshd, which the image does not have'


def accepted(debug: Debug, task: Task) -> Heard | None:
    """The session of a job that is accepted; None while its network is not known."""
    try:
        return debug(task)
    except Unsatisfiable:
        return None


def test_on_a_network_that_publishes_no_port_nobody_logs_in(daemon: PrivateDaemon, debug: Debug) -> None:
    look(daemon, lambda client: client.create_network("closed-off", driver="bridge", internal=True))
    try:
        heard = eventually(lambda: accepted(debug, replace(TASK, network="closed-off")), what="the network is noticed")
        result = heard.end()
        eventually(lambda: not our_containers(daemon.url), what="nobody is on that network")
    finally:
        look(daemon, lambda client: client.remove_network("closed-off"))

    assert heard.calls == [NOBODY]
    assert result.outcome is Outcome.CRASH and "it published no port" in result.text
