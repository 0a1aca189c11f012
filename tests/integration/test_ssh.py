"""A Docker host that is reached by SSH: a real sshd, on the loopback, in front of a real daemon."""

from __future__ import annotations

import glob
import io
import logging
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path

import docker
import psutil
import pytest

from jobmanager import ClientSync, DockerHost, JobInput, JobManager, Limits, Outcome, Task
from jobmanager.cli import run as run_command
from jobmanager.control.standalone_engine import open_engine
from jobmanager.errors import EngineUnavailable, InvalidHost
from tests.conftest import BUSYBOX, children, eventually, our_containers, our_threads, our_volumes
from tests.support.daemons import PrivateDaemon
from tests.support.faults import processes
from tests.support.printed import program_runs, wait_until_printed
from tests.support.runner_volumes import make_find_and_remove
from tests.support.sshd import Sshd

pytestmark = [pytest.mark.engine, pytest.mark.daemon]


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    with Sshd(tmp_path / "sshd") as sshd:
        yield sshd


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go during a test, which must leave none: a short path, as sockets are in there."""
    folder = Path(tempfile.mkdtemp(prefix="jm-", dir="/tmp"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    left = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    shutil.rmtree(folder)
    assert not left


@pytest.fixture
def host(private_engine: PrivateDaemon, sshd: Sshd, temporary: Path) -> Iterator[DockerHost]:
    """Afterwards no ssh runs, and nothing is left on the engine."""
    yield DockerHost(sshd.url(socket_of(private_engine)), name="over ssh", ssh_config=sshd.client_config)
    eventually(lambda: not tunnels(), within_s=5, what="no ssh runs")
    eventually(lambda: not our_containers(private_engine.url) and not our_volumes(private_engine.url))


def socket_of(daemon: PrivateDaemon) -> str:
    return daemon.url.removeprefix("unix://")


def tunnels() -> list[psutil.Process]:
    """Our children that are ssh clients; those of a caller that was killed are found by their arguments."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() == "ssh" and "StreamLocalBindUnlink=yes" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def complaint(host: DockerHost) -> str:
    """What start() says of a host that it cannot use."""
    before, began = set(children()), time.monotonic()
    with pytest.raises(EngineUnavailable) as raised:
        JobManager(host).start()
    assert time.monotonic() - began < 15
    assert set(children()) <= before and not our_threads()
    assert "\n" not in str(raised.value) and host.url in str(raised.value)
    return str(raised.value)


# ---- jobs


def test_a_job_s_input_output_and_files_come_through(host: DockerHost) -> None:
    content = bytes(range(256)) * 4096 * 8  # 8 MiB
    task = Task(
        BUSYBOX,
        command="cat; cat given.txt >&2; md5sum big; cp big back; exit 3",
        files={"given.txt": b"\x00\xff", "big": content},
        collect=["back"],
        limits=Limits(workspace_mib=64, archive_mib=32),
    )

    with JobManager(host) as manager:
        result = ClientSync(manager).new_job(task, JobInput(stdin=b"input\n"))

    assert (result.outcome, result.exit_code, result.host) == (Outcome.FAILED, 3, "over ssh")
    assert result.stdout.startswith(b"input\n") and result.stderr == b"\x00\xff"
    assert result.archive is not None
    with tarfile.open(fileobj=io.BytesIO(result.archive)) as archive:
        assert archive.extractfile("back").read() == content  # type: ignore[union-attr]


def test_many_jobs_go_through_one_tunnel(host: DockerHost) -> None:
    with JobManager(host) as manager:
        assert len(tunnels()) == 1
        futures = [manager.submit(Task(BUSYBOX, command=f"echo {number}")) for number in range(12)]
        wait(futures, timeout=60)
        assert len(tunnels()) == 1

    assert [future.result(0).stdout for future in futures] == [b"%d\n" % number for number in range(12)]


def test_this_machine_s_free_memory_says_nothing_of_a_host_behind_a_tunnel(host: DockerHost) -> None:
    with JobManager(host) as manager:
        (record,) = manager.hosts()

    assert record.free_memory_mib == record.memory_mib > 0


def test_a_job_is_killed_and_limits_hold(host: DockerHost) -> None:
    with JobManager(host) as manager:
        slow = manager.submit(Task(BUSYBOX, command="echo a; sleep 300", limits=Limits(wall_time_s=1)))
        endless = manager.submit(Task(BUSYBOX, command="sleep 300"))
        eventually(lambda: (info := manager.get_job_queue_info(endless.job_id)) is not None and info.jobs_before == -1)
        assert manager.kill_job(endless.job_id)

        assert (slow.result(20).outcome, slow.result().stdout) == (Outcome.TIMEOUT, b"a\n")
        assert endless.result(20).outcome is Outcome.KILLED


def test_the_volume_with_the_runner_is_made_and_read_back(host: DockerHost) -> None:
    with open_engine(host, timeout_s=20.0) as engine:
        make_find_and_remove(engine)


# ---- a connection that breaks


def test_a_job_outlives_its_connection_and_its_result_is_right(
    host: DockerHost, private_engine: PrivateDaemon, sshd: Sshd
) -> None:
    with JobManager(host) as manager:
        future = manager.submit(Task(BUSYBOX, command="echo first; sleep 4; echo last; exit 7"))
        wait_until_printed(future, b"first\n")

        assert sshd.kill_sessions() > 0
        eventually(lambda: not manager.hosts()[0].up, what="the break is noticed")
        reason = manager.hosts()[0].reason  # a connection that was just opened is refused before the tunnel's end is seen
        assert "ssh tunnel ended" in reason or "Connection refused" in reason
        eventually(lambda: manager.hosts()[0].up, what="the tunnel is back")
        result = future.result(30)

        assert (result.outcome, result.exit_code, result.stdout) == (Outcome.FAILED, 7, b"first\nlast\n")
        assert result.wall_time_s is not None and result.wall_time_s > 3
        assert any(evidence.kind == "outage_s" for evidence in result.evidence)
        assert ClientSync(manager).new_job(Task(BUSYBOX, command="true"), None).outcome is Outcome.SUCCESS


def a_program_runs(daemon: PrivateDaemon) -> bool:
    client = docker.DockerClient(base_url=daemon.url, version="1.41")
    try:
        return any(program_runs(container) for container in client.containers.list())
    finally:
        client.close()


@pytest.mark.case(15)
def test_jobs_wait_while_the_sshd_is_away_and_run_when_it_is_back(
    host: DockerHost, sshd: Sshd, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "jobmanager"), JobManager(host) as manager:
        sshd.stop()
        try:
            eventually(lambda: not manager.hosts()[0].up, what="it is noticed")
            futures = [manager.submit(Task(BUSYBOX, command="echo hello")) for _ in range(3)]
            eventually(lambda: "refused" in manager.hosts()[0].reason, what="the reason is ssh's")
        finally:
            sshd.start()

        wait(futures, timeout=40)
        assert [future.result(0).stdout for future in futures] == [b"hello\n"] * 3


def test_a_connection_that_stands_still_holds_up_no_other_host(
    host: DockerHost, private_engine: PrivateDaemon, sshd: Sshd
) -> None:
    near = DockerHost(private_engine.url, name="near")
    with JobManager([host, near]) as manager:
        eventually(lambda: all(record.up for record in manager.hosts()))
        frozen = sshd.freeze_sessions()
        try:
            eventually(lambda: not manager.hosts()[0].up, within_s=20, what="it is noticed")
            futures = [manager.submit(Task(BUSYBOX, command="true")) for _ in range(4)]
            wait(futures, timeout=20)
            assert {future.result(0).host for future in futures} == {"near"}
        finally:
            for session in frozen:
                session.resume()


def test_a_tunnel_process_that_dies_is_replaced(host: DockerHost) -> None:
    with JobManager(host) as manager:
        tunnel = next(iter(processes("jobmanager.ssh.tunnel_worker")))
        before = tunnels()
        tunnel.kill()

        eventually(lambda: len(now := tunnels()) == 1 and now != before, what="another ssh took over")
        result = ClientSync(manager).new_job(Task(BUSYBOX, command="echo hello"), None, timeout_s=40)

    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"hello\n")


# ---- what is wrong is said


def test_an_sshd_that_is_down_at_the_start_is_told(host: DockerHost, sshd: Sshd) -> None:
    sshd.stop()
    try:
        assert "Connection refused" in complaint(host)
    finally:
        sshd.start()


def test_the_other_host_is_used_while_the_sshd_is_down(host: DockerHost, private_engine: PrivateDaemon, sshd: Sshd) -> None:
    sshd.stop()
    try:
        with JobManager([host, DockerHost(private_engine.url, name="near")]) as manager:
            assert ClientSync(manager).new_job(Task(BUSYBOX, command="true"), None, timeout_s=20).host == "near"
            sshd.start()
            eventually(lambda: all(record.up for record in manager.hosts()), what="the other is found later")
    finally:
        sshd.stop()
        sshd.start()


def test_a_key_that_is_not_accepted_is_told(host: DockerHost, sshd: Sshd, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True, capture_output=True)
    config = tmp_path / "config"
    config.write_text(sshd.client_config.read_text().replace("user_key", "no_key") + f"  IdentityFile {tmp_path}/key\n")

    assert "Permission denied" in complaint(DockerHost(host.url, ssh_config=config))


def test_a_host_key_that_is_not_the_known_one_is_told(host: DockerHost, sshd: Sshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(sshd.client_config.read_text().replace("known_hosts", "user_key.pub"))

    assert "Host key verification failed" in complaint(DockerHost(host.url, ssh_config=config))


def test_a_socket_that_is_not_there_is_told(host: DockerHost, sshd: Sshd) -> None:
    assert "no/such.sock" in complaint(DockerHost(sshd.url("/no/such.sock"), ssh_config=sshd.client_config))


def test_a_missing_ssh_config_is_refused_when_the_host_is_made() -> None:
    with pytest.raises(InvalidHost, match=r"ssh_config.*/no/such/config"):
        DockerHost("ssh://root@127.0.0.1", ssh_config="/no/such/config")


def test_a_machine_without_ssh_is_told(host: DockerHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/no/such/folder")

    with pytest.raises(EngineUnavailable, match="openssh-client"):
        JobManager(host).start()


# ---- the command line


def test_the_command_line_reaches_a_host_and_tells_of_one_that_it_cannot(
    host: DockerHost, sshd: Sshd, capsys: pytest.CaptureFixture[str]
) -> None:
    swept = ["sweep", host.url, "--ssh-config", str(sshd.client_config)]
    assert run_command([*swept, "--yes"]) == 0  # the runner's volume, which a later manager would use again
    assert run_command(swept) == 0
    assert "nothing to sweep" in capsys.readouterr().out

    assert run_command(["sweep", sshd.url("/no/such.sock"), "--ssh-config", str(sshd.client_config)]) == 3
    said = capsys.readouterr().err
    assert said.startswith("jobmanager: ssh://") and said.count("\n") == 1


# ---- the end of the caller

CALLER = """
import sys
from jobmanager import DockerHost, JobManager, Task
manager = JobManager(DockerHost(sys.argv[1], ssh_config=sys.argv[2]))
manager.start()
manager.new_job(Task("jobmanager-busybox:1", command="echo ready; sleep 300"))
print("submitted", flush=True)
sys.stdin.read()
"""


def test_a_caller_that_is_killed_leaves_no_ssh_and_no_folder(
    host: DockerHost, private_engine: PrivateDaemon, sshd: Sshd, temporary: Path
) -> None:
    command = [sys.executable, "-c", CALLER, host.url, str(sshd.client_config)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)) as caller:
        assert caller.stdout is not None and caller.stdout.readline() == b"submitted\n"
        eventually(lambda: a_program_runs(private_engine), what="the program runs")
        assert glob.glob(f"{temporary}/jobmanager-*/*.sock") and tunnels()
        caller.send_signal(signal.SIGKILL)

    eventually(lambda: not tunnels(), within_s=5, what="ssh is gone")
    eventually(lambda: not list(temporary.iterdir()), within_s=5, what="the folder is gone")
    with JobManager(private_engine.url):  # sweeps the container, which could not be reached any more
        eventually(lambda: not our_containers(private_engine.url), what="the container is gone")
