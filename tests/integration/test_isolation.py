"""A job is closed in: what a program sees, may write and may become. What it may call: test_attacks.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from jobmanager import JobFuture, JobManager, Limits, Network, Outcome, Task
from jobmanager.engine.docker.seccomp import seccomp_profile
from jobmanager.runner.frames import Ended, HowEnded, OutputData, ProgramStream, StoppedBy
from jobmanager.runner.place import RUNNER_PATH
from jobmanager.runner.wire import PacketWriter
from tests.conftest import BUSYBOX
from tests.integration.conftest import PATIENCE_S, PYTHON, Run, Submit

pytestmark = pytest.mark.engine

PROBE = r"""
import errno, json, os, socket, sys

def tried(call, *args):
    try:
        result = call(*args)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    return "done" if result is None or not isinstance(result, int) or result >= 0 else result

def reach(address):
    with socket.create_connection(address, timeout=2):
        pass

def make(path):
    with open(path + "/probe", "w"):
        os.remove(path + "/probe")

def write(path, content):
    with open(path, "wb", buffering=0) as file:
        file.write(content)

def status():
    with open("/proc/self/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)

def loopback():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=2):
        pass

print(json.dumps({
    "interfaces": sorted(os.listdir("/sys/class/net")),
    "reach": {host: tried(reach, (host, port)) for host, port in [("172.17.0.1", 22), ("8.8.8.8", 53), ("169.254.169.254", 80)]},
    "loopback": tried(loopback),
    "ids": [os.getuid(), os.geteuid(), os.getgid(), os.getegid(), os.getgroups()],
    "status": {key: value.strip() for key, value in status().items()},
    "pid": os.getpid(),
    "parent": os.getppid(),
    "first": open("/proc/1/cmdline").read().split("\0")[:2],
    "pids": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
    "make": {path: tried(make, path) for path in sys.argv[1:]},
    "sockets": [path for path in ("/var/run/docker.sock", "/run/docker.sock") if os.path.exists(path)],
    "mounts": [line.split()[4] for line in open("/proc/self/mountinfo")],
    "devices": sorted(os.listdir("/dev")),
    "env": dict(os.environ),
    "denied": {
        "setuid": tried(os.setuid, 0),
        "setgid": tried(os.setgid, 0),
        "setgroups": tried(os.setgroups, [0]),
        "chown": tried(os.chown, "/job", 0, 0),
        "mknod": tried(os.mknod, "/tmp/device", 0o20666, os.makedev(1, 5)),
        "nice": tried(os.nice, -5),
        "oom score": tried(write, "/proc/self/oom_score_adj", b"-1000"),
    },
}))
"""
ELSEWHERE = [
    "/",
    "/etc",
    "/usr",
    "/bin",
    "/var",
    "/root",
    "/home",
    "/run",
    "/dev",
    "/sys",
    "/sys/fs/cgroup",
    "/proc",
    "/dev/mqueue",
    "/mnt",
]
MAY_WRITE = ["/job", "/tmp", "/dev/shm"]
ENV = {"GREETING": "hello"}
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # the engine's, for an image that says nothing


@pytest.fixture(scope="module")
def seen(shared_manager: JobManager) -> dict[str, Any]:
    """What a program finds when it tries everything."""
    task = Task(PYTHON, command=["python3", "-c", PROBE, *ELSEWHERE, *MAY_WRITE], env=ENV)
    result = shared_manager.submit(task).result(PATIENCE_S)
    assert result.outcome is Outcome.SUCCESS, result
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_there_is_no_network_but_loopback(seen: dict[str, Any]) -> None:
    assert seen["interfaces"] == ["lo"]
    assert set(seen["reach"].values()) <= {"ENETUNREACH", "EHOSTUNREACH", "ENETDOWN"}
    assert seen["loopback"] == "done"


def test_a_program_is_not_root_and_has_no_groups_but_its_own(seen: dict[str, Any]) -> None:
    assert seen["ids"][:4] == [65534] * 4
    assert set(seen["ids"][4]) <= {65534}


def test_a_program_has_no_capabilities_and_can_get_none(seen: dict[str, Any]) -> None:
    status = seen["status"]
    assert {key: int(status[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0
    )
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_a_program_in_busybox_is_closed_in_too(run: Run) -> None:
    result = run(
        "id -u; id -g; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; ls /sys/class/net; touch /x || echo ro"
    )
    words = result.stdout.split()
    assert words == [
        *(b"65534", b"65534", b"CapEff:", b"0" * 16, b"CapBnd:", b"0" * 16, b"NoNewPrivs:", b"1", b"Seccomp:", b"2", b"lo", b"ro")
    ]


def test_a_program_is_the_user_that_its_task_names_and_still_has_no_capabilities(run: Run) -> None:
    result = run("id -u; id -g; grep CapEff /proc/self/status; echo kept > file; cat file", user="1000:1001")

    assert result.stdout_text.split() == ["1000", "1001", "CapEff:", "0" * 16, "kept"]
    assert run("true", user="nobody-here").outcome is Outcome.CRASH


def test_a_device_that_the_host_lacks_starts_nothing(run: Run) -> None:
    lacking = run("true", devices=["/dev/no-such-device"])

    assert lacking.outcome is Outcome.CRASH and "/dev/no-such-device" in lacking.text


def test_what_takes_privileges_is_denied(seen: dict[str, Any]) -> None:
    assert {name: said for name, said in seen["denied"].items() if said not in ("EPERM", "EACCES")} == {}


def test_a_program_can_write_to_three_places_only(seen: dict[str, Any]) -> None:
    assert [path for path in MAY_WRITE if seen["make"][path] != "done"] == []
    may = {path: said for path, said in seen["make"].items() if path not in (*MAY_WRITE, "/dev/mqueue") and said == "done"}
    assert may == {}


def test_a_program_sees_no_docker_socket_and_no_folder_of_the_host(seen: dict[str, Any]) -> None:
    assert seen["sockets"] == []
    known = ("/proc", "/sys", "/dev", "/job", "/tmp", "/.jobmanager")
    assert {path for path in seen["mounts"] if path != "/" and not path.startswith(known)} <= {"/etc/hostname"}  # the container's


def test_a_program_sees_no_device_of_the_host(seen: dict[str, Any]) -> None:
    assert set(seen["devices"]) <= {
        *(
            "core",
            "fd",
            "full",
            "mqueue",
            "null",
            "ptmx",
            "pts",
            "random",
            "shm",
            "stderr",
            "stdin",
            "stdout",
            "tty",
            "urandom",
            "zero",
        )
    }


def test_a_program_sees_its_own_processes_only_and_pid_1_is_not_it(seen: dict[str, Any]) -> None:
    assert seen["first"][0] == RUNNER_PATH
    assert seen["pid"] != 1
    assert set(seen["pids"]) == {1, seen["pid"]}


@pytest.mark.parametrize("folder", ["mkdir -m 755 /job", "mkdir -m 700 /job; echo > /job/x", "mkdir -m 1777 /job"])
@pytest.mark.parametrize("user", [None, "1000:50"])
def test_an_image_may_have_a_folder_of_the_workspaces_name(
    engine_url: str, outsider: docker.DockerClient, folder: str, user: str | None
) -> None:
    """Some engines then mount the workspace with that folder's mode."""
    maker = outsider.containers.create(BUSYBOX, ["sh", "-c", folder], network_disabled=True)
    maker.start()
    maker.wait(timeout=PATIENCE_S)
    image = maker.commit("jobmanager-test-workspace", "1")
    maker.remove()
    try:
        task = Task(image.tags[0], command="ls; cat a; echo written > b && cat b", files={"a": "x\n"}, user=user)
        with JobManager(engine_url) as manager:
            result = manager.submit(task).result(PATIENCE_S)
    finally:
        outsider.images.remove(image.tags[0], force=True)
    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"a\nx\nwritten\n"), result


def test_the_environment_is_the_images_and_the_tasks_and_no_more(seen: dict[str, Any], outsider: docker.DockerClient) -> None:
    image = outsider.images.list(filters={"label": f"jobmanager.environment={PYTHON}"})[0]
    from_image = dict(entry.split("=", 1) for entry in image.attrs["Config"]["Env"] or [])
    found = dict(seen["env"])
    of_the_container = {key: found.pop(key, None) for key in ("HOSTNAME", "PWD", "OLDPWD", "LC_CTYPE")}
    assert found == {"PATH": DEFAULT_PATH, "LANG": "C.UTF-8", **from_image, "HOME": "/job", **ENV}
    assert of_the_container["PWD"] in (None, "/job")
    assert of_the_container["OLDPWD"] in (None, "/")


def test_our_own_environment_stays_outside(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBMANAGER_TEST_SECRET", "shh")
    assert b"shh" not in run(["env"]).stdout


def test_a_job_cannot_see_one_that_runs_beside_it(submit: Submit, run: Run, running: Callable[[JobFuture], Container]) -> None:
    beside = submit("echo ready; echo secret > /tmp/f; cp /tmp/f /dev/shm/f; exec sleep 4711")
    running(beside)
    result = run("cat /proc/[0-9]*/cmdline; ls /tmp /dev/shm")
    assert b"/dev/shm:\n\n/tmp:\n" in result.stdout
    assert b"4711" not in result.stdout
    assert run("kill -9 -1; kill -9 1").outcome is Outcome.SUCCESS
    assert not beside.done()
    assert beside.cancel()


def test_an_image_with_volumes_of_its_own_leaves_no_more_room(engine_url: str, outsider: docker.DockerClient) -> None:
    maker = outsider.containers.create(BUSYBOX, ["true"])
    image = maker.commit("jobmanager-test-volumes", "1", changes='VOLUME ["/data", "/job"]')
    maker.remove()
    try:
        with JobManager(engine_url) as manager:
            task = Task(image.tags[0], command="touch /data/f && head -c 3000000 /dev/zero > /data/g || wc -c < /data/g")
            result = manager.submit(task).result(PATIENCE_S)
    finally:
        outsider.images.remove(image.tags[0], force=True)
    assert result.outcome is Outcome.SUCCESS, result
    assert int(result.stdout) <= 2**20


# ---- networks that a task asks for


def test_with_loopback_localhost_resolves(run: Run, shell: str) -> None:
    program = {
        BUSYBOX: ["grep", "localhost", "/etc/hosts"],
        PYTHON: ["python3", "-c", "import socket; print(socket.gethostbyname('localhost'))"],
    }
    result = run(program[shell], image=shell, network=Network.LOOPBACK)
    assert result.outcome is Outcome.SUCCESS
    assert b"127.0.0.1" in result.stdout
    assert run(["ls", "/sys/class/net"], image=shell, network=Network.LOOPBACK).stdout == b"lo\n"


def test_with_bridge_there_is_an_interface(run: Run, outsider: docker.DockerClient) -> None:
    if not outsider.networks.list(names=["bridge"]):
        pytest.skip("this engine has no bridge network: daemons in a network namespace of their own are started without one")
    assert b"eth0" in run(["ls", "/sys/class/net"], network=Network.BRIDGE).stdout


# ---- the automated checks of the CIS Docker Benchmark, section 5


@pytest.fixture
def inspected(submit: Submit, running: Callable[[JobFuture], Container]) -> Any:
    """A default job's container, as `docker inspect` shows it."""
    job = submit("echo ready; sleep 60")
    container = running(job)
    container.reload()
    yield container.attrs
    job.cancel()


def test_a_default_job_passes_the_automated_checks_of_cis_section_5(inspected: dict[str, Any]) -> None:
    host, config = inspected["HostConfig"], inspected["Config"]
    checks = {
        "5.3 capabilities are restricted": host["CapAdd"] in (None, []) and host["CapDrop"] == ["ALL"],
        "5.4 not privileged": host["Privileged"] is False,
        "5.5 no folder of the host": not host["Binds"] and all(mount["Type"] == "volume" for mount in inspected["Mounts"]),
        "5.7, 5.8, 5.13 no ports": not host["PortBindings"]
        and not host["PublishAllPorts"]
        and not inspected["NetworkSettings"]["Ports"],
        "5.9 not the host's network": host["NetworkMode"] != "host",
        "5.10 memory is limited": host["Memory"] > 0,
        "5.11 cores are limited": host["NanoCpus"] > 0,
        "5.12 read-only root": host["ReadonlyRootfs"] is True,
        "5.14 no restarts": host["RestartPolicy"]["Name"] == "no" and host["RestartPolicy"]["MaximumRetryCount"] <= 5,
        "5.15 not the host's processes": host["PidMode"] == "",
        "5.16 not the host's memory segments": host["IpcMode"] == "private",
        "5.17 no devices": not host["Devices"] and not host["DeviceRequests"],
        "5.18 ulimits are set": {limit["Name"] for limit in host["Ulimits"]} >= {"core", "nofile"},
        "5.19 no shared mounts": all(mount["Propagation"] in ("", "private", "rprivate") for mount in inspected["Mounts"]),
        "5.20 not the host's UTS": host["UTSMode"] == "",
        "5.21 a seccomp profile": f"seccomp={seccomp_profile(protects_pid_1=True)}" in host["SecurityOpt"],
        "5.24 the default cgroup": host["CgroupParent"] == "",
        "5.25 no new privileges": "no-new-privileges" in host["SecurityOpt"],
        "5.28 processes are limited": host["PidsLimit"] > 0,
        "5.29 not on docker0": config["NetworkDisabled"] is True
        and not any(network["EndpointID"] for network in inspected["NetworkSettings"]["Networks"].values()),
        "5.30 not the host's users": host["UsernsMode"] == "",
        "5.31 no docker socket": "docker.sock" not in json.dumps(inspected["Mounts"]),
    }
    assert [name for name, holds in checks.items() if not holds] == []


def test_a_default_job_has_the_default_profile(inspected: dict[str, Any]) -> None:
    host, config, limits = inspected["HostConfig"], inspected["Config"], Limits()
    assert config["User"] == "65534:65534"
    assert (host["Memory"], host["MemorySwap"]) == (limits.memory_mib * 2**20, limits.memory_mib * 2**20)
    assert host["PidsLimit"] == limits.processes + 1
    assert host["NanoCpus"] == 10**9
    assert host["AutoRemove"] is False
    assert host["LogConfig"]["Type"] == "none"
    assert config["Healthcheck"] == {"Test": ["NONE"]}
    assert host["OomKillDisable"] in (None, False)
    assert set(host["MaskedPaths"]) >= {"/proc/kcore", "/proc/keys", "/sys/firmware"}
    assert set(host["ReadonlyPaths"]) >= {"/proc/sys", "/proc/sysrq-trigger"}


def forged(session: int) -> bytes:
    """What a runner would send of a run that has ended well."""
    writer = PacketWriter()
    writer.write(OutputData(run=1, stream=ProgramStream.STDOUT, offset=0, data=b"forged"))
    writer.write(ended_well())
    writer.begin(session, 0)
    return writer.packets()


def ended_well() -> Ended:
    return Ended(
        run=1,
        how=HowEnded.EXITED,
        code=0,
        stopped_by=StoppedBy.NOBODY,
        cpu_us=1,
        wall_us=1,
        peak_bytes=1,
        peak_is_exact=True,
        oom_kills=0,
        fork_refusals=0,
        stdout_bytes=6,
        stderr_bytes=0,
        full=(),
        left=False,
    )


def test_a_report_that_a_program_forges_is_only_output(run: Run, shell: str) -> None:
    report = forged(0) + forged(1)
    result = run("cat forged; cat forged >&2; exit 3", image=shell, files={"forged": report})
    assert (result.outcome, result.exit_code) == (Outcome.FAILED, 3), result
    assert (result.stdout, result.stderr) == (report, report)


def test_a_flood_of_forged_reports_is_stopped_by_the_output_limit_all_the_same(run: Run) -> None:
    result = run("while :; do cat forged; done", files={"forged": forged(0) * 100}, limits=Limits(cpu_time_s=20, wall_time_s=30))
    assert (result.outcome, result.evidence[0].kind) == (Outcome.OVERFLOW, "output_bytes"), result
