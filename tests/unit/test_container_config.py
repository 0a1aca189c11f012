"""The default profile: what automated checks of the CIS Docker Benchmark, section 5, ask of a container, for every task."""

from __future__ import annotations

import itertools
import json

import pytest

from jobmanager import Limits, Network
from jobmanager.engine.docker.container_config import container_config
from jobmanager.model.container import ContainerSpec, ImageDefaults, VolumeMount

NOTHING = ImageDefaults(command=("python3",), volumes=())
NETWORKS = [Network.OFF, Network.LOOPBACK, Network.BRIDGE, "course-db"]
LIMITS = [
    Limits(),
    Limits(memory_mib=16, processes=1, workspace_mib=1, cpus=0.01),
    Limits(memory_mib=100_000, cpus=64.0, processes=10_000),
]


def config_of(network=Network.OFF, limits=None, defaults=NOTHING, **fields):
    spec = ContainerSpec(name="n", image="sha256:1", labels={"a": "b"}, limits=limits or Limits(), network=network, **fields)
    return container_config(spec, defaults)


def findings(config):
    """What an automated check would complain of, by the benchmark's numbers."""
    host = config["HostConfig"]
    ulimits = {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in host["Ulimits"]}
    runner, *volumes = host["Mounts"]
    checks = {
        "4.1 runs as root": config["User"].split(":")[0] not in ("", "0", "root")
        and config["User"].split(":")[-1] not in ("", "0", "root"),
        "5.2/5.3 security options": not any("unconfined" in option or "disable" in option for option in host["SecurityOpt"]),
        "5.4 capabilities": host["CapDrop"] == ["ALL"] and not host.get("CapAdd"),
        "5.5 privileged": not host.get("Privileged"),
        "5.6/5.32 host paths or the Docker socket": not host.get("Binds")
        and not host.get("VolumesFrom")
        and all(mount["Type"] == "volume" for mount in host["Mounts"])
        and all("Source" not in mount for mount in volumes)
        and "docker.sock" not in json.dumps(config),
        "5.8/5.9 published ports": not host.get("PortBindings")
        and not host.get("PublishAllPorts")
        and not config.get("ExposedPorts"),
        "5.10 host network": host["NetworkMode"] not in ("host", "") and not host["NetworkMode"].startswith("container:"),
        "5.11 memory": 0 < host["Memory"] == host["MemorySwap"],
        "5.12 CPU": host["NanoCpus"] > 0,
        "5.13 root file system": host["ReadonlyRootfs"] is True,
        "5.15 restart": host["RestartPolicy"] == {"Name": "no"} and host["AutoRemove"] is False,
        "5.16 host PIDs": not host.get("PidMode"),
        "5.17 host IPC": host["IpcMode"] == "private",
        "5.18 devices": not host.get("Devices") and not host.get("DeviceRequests") and not host.get("DeviceCgroupRules"),
        "5.19 ulimits": ulimits["core"] == (1, 1) and {"nofile", "stack"} <= set(ulimits),  # others are a run's: run_order.py
        "5.20 mount propagation": not any("BindOptions" in mount for mount in host["Mounts"]),
        "5.21 host UTS": not host.get("UTSMode"),
        "5.22 seccomp": [option.split(",")[0] for option in host["SecurityOpt"] if option.startswith("seccomp")]
        == ['seccomp={"defaultAction":"SCMP_ACT_ERRNO"'],
        "5.25 cgroup parent": not host.get("CgroupParent"),
        "5.26 new privileges": any(option in ("no-new-privileges", "no-new-privileges:true") for option in host["SecurityOpt"]),
        "5.27 health check": config["Healthcheck"] == {"Test": ["NONE"]},
        "5.29 PIDs": host["PidsLimit"] > 0,
        "5.31 user namespace": host.get("UsernsMode") != "host",
        "cgroup namespace": host["CgroupnsMode"] == "private",
        "kernel settings": not host.get("Sysctls") and not host.get("OomKillDisable") and not host.get("OomScoreAdj"),
        "size of each tmpfs": all(
            "size=" in options and "nosuid" in options and "nodev" in options for options in host["Tmpfs"].values()
        ),
        "size of each volume": all("size=" in mount["VolumeOptions"]["DriverConfig"]["Options"]["o"] for mount in volumes),
        "the runner is read-only": runner["Target"] == "/.jobmanager" and runner["ReadOnly"],
        "no log": host["LogConfig"] == {"Type": "none"},
        "terminal": config["Tty"] is False,
    }
    return [name for name, passed in checks.items() if not passed]


@pytest.mark.parametrize(("network", "limits"), list(itertools.product(NETWORKS, LIMITS)))
def test_no_task_gets_a_container_that_a_check_complains_of(network, limits):
    for volumes in ((), ("/data", "/var/lib/x", "/tmp", "/job/")):
        assert findings(config_of(network, limits, ImageDefaults(command=(), volumes=volumes))) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("CapDrop", []),
        ("CapAdd", ["SYS_ADMIN"]),
        ("Privileged", True),
        ("Binds", ["/:/host"]),
        ("NetworkMode", "host"),
        ("PidMode", "host"),
        ("IpcMode", "shareable"),
        ("ReadonlyRootfs", False),
        ("SecurityOpt", ["no-new-privileges", "seccomp=unconfined"]),
        ("SecurityOpt", ["no-new-privileges", 'seccomp={"defaultAction": "SCMP_ACT_ALLOW"}']),
        ("SecurityOpt", ["no-new-privileges"]),
        ("PidsLimit", -1),
        ("MemorySwap", -1),
        ("CgroupnsMode", "host"),
        ("RestartPolicy", {"Name": "always"}),
        ("Devices", [{"PathOnHost": "/dev/mem"}]),
    ],
)
def test_the_checks_do_complain(key, value):
    config = config_of()
    config["HostConfig"][key] = value

    assert findings(config)


def test_the_network_is_off_by_default_and_opened_one_by_one():
    modes = {
        network: (config_of(network)["NetworkDisabled"], config_of(network)["HostConfig"]["NetworkMode"]) for network in NETWORKS
    }

    assert modes == {
        Network.OFF: (True, "default"),
        Network.LOOPBACK: (False, "none"),
        Network.BRIDGE: (False, "bridge"),
        "course-db": (False, "course-db"),
    }
    assert config_of()["NetworkDisabled"] is True


def test_limits_become_the_engines():
    host = config_of(limits=Limits(memory_mib=100, processes=20, open_files=40, cpus=1.5, cpu_time_s=4.5, output_kib=512))[
        "HostConfig"
    ]

    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"], host["NanoCpus"]) == (
        100 * 2**20,
        100 * 2**20,
        21,
        1_500_000_000,
    )
    ulimits = {limit["Name"]: limit["Soft"] for limit in host["Ulimits"]}
    assert ulimits["nofile"] >= 1024  # PID 1 needs more than a run may have
    assert not {"cpu", "fsize"} & set(ulimits)  # PID 1 writes files, and may live long


@pytest.mark.parametrize(
    ("limits", "mib"),
    [
        (Limits(memory_mib=512), 512),
        (Limits(memory_mib=16), 16),
        (Limits(memory_mib=2**20, processes=1000), 2**26 // 1000),  # of 1000 threads each is given addresses for a whole one
    ],
)
def test_the_stack_is_as_large_as_the_memory_limit_and_can_be_made_larger(limits: Limits, mib: int) -> None:
    (stack,) = (limit for limit in config_of(limits=limits)["HostConfig"]["Ulimits"] if limit["Name"] == "stack")
    assert (stack["Soft"], stack["Hard"]) == (mib * 2**20, -1)


def test_shared_memory_leaves_a_little_of_the_memory_limit() -> None:
    sizes = {mib: config_of(limits=Limits(memory_mib=mib))["HostConfig"]["ShmSize"] for mib in (16, 256)}
    assert sizes == {16: 12 * 2**20, 256: 252 * 2**20}


@pytest.mark.parametrize(
    ("user", "owner"),
    [
        (None, "mode=0700,uid=65534,gid=65534"),
        ("0:0", "mode=0700,uid=0,gid=0"),
        ("1000:50", "mode=0700,uid=1000,gid=50"),
        ("1000", "mode=0700,uid=1000,gid=1000"),
        ("builder", "mode=1777"),
    ],
)
def test_the_workspace_is_memory_of_limited_size_that_belongs_to_who_writes_there(user, owner):
    host = config_of(limits=Limits(workspace_mib=7), user=user)["HostConfig"]

    assert [mount["Target"] for mount in host["Mounts"]] == ["/.jobmanager"]
    assert host["Tmpfs"]["/job"] == f"rw,exec,size=7m,nr_inodes=1472,{owner},nosuid,nodev"


def test_a_grading_container_has_the_folders_that_old_graders_know():
    assert set(config_of(shares=True)["HostConfig"]["Tmpfs"]) == {"/job", "/tmp", "/archive", "/course"}
    assert set(config_of(shared_volume="of the grader")["HostConfig"]["Tmpfs"]) == {"/job", "/tmp"}


def test_what_an_image_declares_as_a_volume_becomes_a_small_tmpfs():
    tmpfs = config_of(defaults=ImageDefaults(command=(), volumes=("/data", "/tmp/", "/job", "/job/")))["HostConfig"]["Tmpfs"]

    assert set(tmpfs) == {"/job", "/tmp", "/data"}
    assert "size=1m" in tmpfs["/data"]


def test_what_an_image_declares_as_a_volume_where_only_graders_work_is_limited_in_other_jobs():
    image = ImageDefaults(command=(), volumes=("/task", "/task/student"))

    assert {"/task", "/task/student"} <= set(config_of(defaults=image)["HostConfig"]["Tmpfs"])
    for kind in ({"shares": True}, {"shared_volume": "v"}):
        host = config_of(defaults=image, workspace="/task", **kind)["HostConfig"]
        assert "size=1m" not in host["Tmpfs"]["/task"] and "/task/student" not in host["Tmpfs"]
        assert [mount["Target"] for mount in host["Mounts"]] == ["/.jobmanager", "/task/student"]


def test_a_student_container_has_another_ones_folder_and_may_have_its_network():
    config = config_of(workspace="/task", shared_volume="v", network_of="abc")
    _, shared = config["HostConfig"]["Mounts"]

    assert (shared["Target"], shared["Source"]) == ("/task/student", "v")
    assert (config["HostConfig"]["NetworkMode"], config["NetworkDisabled"]) == ("container:abc", False)


def test_the_jobs_command_and_files_are_not_in_the_container():
    config = config_of(lease_s=75.5)

    assert config["Entrypoint"] == ["/.jobmanager/runner", "75.5"]
    assert config["Cmd"] == []
    assert config["Env"] == ["HOME=/job"]
    assert (config["OpenStdin"], config["StdinOnce"]) == (True, False)
    assert "python3" not in json.dumps(config)


def test_the_config_can_be_sent():
    json.dumps(config_of())


def opened(**fields):
    """What of a container's configuration its fields change."""
    plain, made = config_of(), config_of(**fields)
    changed = {key: made[key] for key in made if key != "HostConfig" and made[key] != plain.get(key)}
    host = {key: value for key, value in made["HostConfig"].items() if value != plain["HostConfig"].get(key)}
    return changed, host


def test_another_user_changes_who_runs_and_whose_its_folders_are_and_nothing_else():
    for user, owner in {"0:0": "mode=0700,uid=0,gid=0", "1000": "mode=0700,uid=1000,gid=1000", "builder": "mode=1777"}.items():
        config, host = opened(user=user)
        assert config == {"User": user}
        assert list(host) == ["Tmpfs"]
        assert host["Tmpfs"]["/tmp"].endswith(f",{owner},nosuid,nodev")


def test_devices_are_added_by_their_paths_and_nothing_else_is():
    added = {"PathOnHost": "/dev/kvm", "PathInContainer": "/dev/kvm", "CgroupPermissions": "rwm"}
    assert opened(devices=("/dev/kvm",)) == ({}, {"Devices": [added]})


def test_privileged_takes_the_seccomp_profile_away_and_leaves_the_rest_closed():
    config, host = opened(privileged=True)
    assert config == {}
    assert host == {"Privileged": True, "SecurityOpt": ["no-new-privileges", "seccomp=unconfined"]}


def test_a_volume_by_name_is_a_limited_tmpfs_with_the_jobs_labels_and_not_its_containers():
    volume = VolumeMount(name="made-for-j1", path="/volumes/work", size_mib=3, read_only=True)
    _, host = opened(volumes=(volume,))
    (mount,) = (mount for mount in host["Mounts"] if mount["Target"] == "/volumes/work")
    options = mount["VolumeOptions"]
    assert (mount["Type"], mount["Source"], mount["ReadOnly"]) == ("volume", "made-for-j1", True)
    assert options["Labels"] == {"a": "b", "jobmanager.volume": "work"}
    assert options["NoCopy"] is True
    assert options["DriverConfig"]["Options"]["o"] == "size=3m,nr_inodes=1216,mode=0777,uid=65534,gid=65534,nosuid,nodev"


def test_a_volume_of_the_image_where_a_volume_by_name_is_gives_way():
    defaults = ImageDefaults(command=(), volumes=("/volumes/work/", "/data"))
    volume = VolumeMount(name="made-for-j1", path="/volumes/work", size_mib=3)
    assert set(config_of(defaults=defaults, volumes=(volume,))["HostConfig"]["Tmpfs"]) == {"/job", "/tmp", "/data"}
