"""The Docker API's configuration of a job's container: the security profile."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jobmanager.engine.docker.seccomp import seccomp_profile
from jobmanager.engine.pipes import pipes_volume
from jobmanager.model.container import (
    OLD_FOLDERS,
    SHARED_FOLDER,
    ContainerSpec,
    DiskVolume,
    ImageDefaults,
    SSHEndpoint,
    VolumeMount,
)
from jobmanager.model.limits import Limits
from jobmanager.model.network import Network
from jobmanager.runner.place import RUNNER_PATH, RunnerVolume

VOLUME_LABEL = "jobmanager.container"  # on a container's own volume: its container's name
SHARED_VOLUME_LABEL = "jobmanager.volume"  # on a volume that several containers of a job have: its name in the pipeline
USER = "65534:65534"  # nobody; numeric, so that it need not be in the image
_NUMERIC_USER = re.compile(r"([0-9]+)(?::([0-9]+))?")
_MOUNT_OPTIONS = "nosuid,nodev"
_NOBODY = "uid=65534,gid=65534"
_NO_CORE = 1  # bytes. At 0 a host that pipes cores to a program (systemd-coredump, apport) starts it at each crash; at 1 not
_IMAGE_VOLUME_MIB = 1
_ETC = "/etc"
_MIN_STACK_MIB = 8  # words of a command may take a quarter of the stack's limit
_MIN_FILES = 1024  # that PID 1 may have open; the limit is the run's
_ADDRESS_SPACE_MIB = 2**26  # half of a process's: usually each thread gets a stack of the size of the limit
_UNLIMITED = -1  # as a soft limit it makes C libraries fall back on small stacks for threads


def container_config(spec: ContainerSpec, defaults: ImageDefaults) -> dict[str, Any]:
    """The body of ``POST /containers/create``: closed by default, opened only where the spec says so."""
    config = {
        "Image": spec.image,
        "Entrypoint": [RUNNER_PATH, f"{spec.lease_s:g}"],
        "Cmd": [],
        "Env": [f"HOME={spec.workspace}"],
        "User": USER if spec.user is None else spec.user,
        "WorkingDir": "/",
        "Labels": dict(spec.labels),
        "OpenStdin": True,
        "StdinOnce": False,  # a waiter that takes over attaches again
        "Tty": False,
        "NetworkDisabled": spec.network is Network.OFF and not spec.network_of,  # starts in half the time of network mode "none"
        "Healthcheck": {"Test": ["NONE"]},
        "StopTimeout": 0,
        "HostConfig": {
            **_isolation(spec),
            **_resource_limits(spec.limits),
            "NetworkMode": f"container:{spec.network_of}" if spec.network_of else _network_mode(spec.network),
            "Mounts": [_disk_volume(RunnerVolume(sha256=spec.runner).mount()), *_volumes(spec)],
            "Tmpfs": {
                **{path: _tmpfs(spec, spec.limits.workspace_mib, spec.limits.workspace_inodes) for path in _writable_folders(spec)},
                **{path: _tmpfs(spec, _IMAGE_VOLUME_MIB, 64) for path in defaults.volumes if not _is_mounted(path, spec)},
            },
        },
    }
    if spec.ssh_endpoint is not None:
        _publish_ssh(config, spec, spec.ssh_endpoint)
    return config


def carrier_config(image: str, labels: Mapping[str, str], volumes: Sequence[DiskVolume]) -> dict[str, Any]:
    """The body for a container that is never started. Nothing of it is open, in case that somebody starts it."""
    return {
        "Image": image,
        "Entrypoint": [RUNNER_PATH],
        "Cmd": [],
        "User": USER,
        "Labels": dict(labels),
        "NetworkDisabled": True,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "LogConfig": {"Type": "none"},
            "Mounts": [_disk_volume(volume) for volume in volumes],
        },
    }


def _disk_volume(volume: DiskVolume) -> dict[str, Any]:
    return {
        "Type": "volume",
        "Source": volume.name,
        "Target": volume.path,
        "ReadOnly": volume.read_only,
        "VolumeOptions": {"Labels": dict(volume.labels), "NoCopy": True},
    }


def _publish_ssh(config: dict[str, Any], spec: ContainerSpec, endpoint: SSHEndpoint) -> None:
    """Publish the port, and make ``/etc`` a volume with the image's files, as accounts can be written only there."""
    inside, host = f"{endpoint.port}/tcp", config["HostConfig"]
    config["ExposedPorts"] = {inside: {}}
    host["PortBindings"] = {inside: [{"HostIp": "127.0.0.1" if endpoint.loopback_only else "", "HostPort": ""}]}
    host["Tmpfs"].pop(_ETC, None)
    labels = {**spec.labels, VOLUME_LABEL: spec.name}
    host["Mounts"].append({"Type": "volume", "Target": _ETC, "VolumeOptions": {"Labels": labels}})


def _isolation(spec: ContainerSpec) -> dict[str, Any]:
    """``Privileged`` overrides ``CapDrop``. Whether it overrides a seccomp profile depends on the engine, so it gets none."""
    profile = "unconfined" if spec.privileged else seccomp_profile(special_files=not spec.is_student, protects_pid_1=True)
    return {
        **({"Privileged": True} if spec.privileged else {}),
        **({"Devices": [_device(path) for path in spec.devices]} if spec.devices else {}),
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", f"seccomp={profile}"],
        "ReadonlyRootfs": True,
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "AutoRemove": False,  # it would also remove the output of a failed start
        "RestartPolicy": {"Name": "no"},
    }


def _device(path: str) -> dict[str, str]:
    return {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"}


def _resource_limits(limits: Limits) -> dict[str, Any]:
    """Those of the whole container, and of each process that it may have. A run's own come with it (``watching/run_order.py``)."""
    files = max(limits.open_files, _MIN_FILES)
    stack = max(min(limits.memory_mib, _ADDRESS_SPACE_MIB // limits.processes), _MIN_STACK_MIB) * 2**20
    return {
        **changeable_limits(limits),
        "NanoCpus": int(limits.cpus * 1e9),
        "ShmSize": limits.shm_mib * 2**20,
        "Ulimits": [
            {"Name": "core", "Soft": _NO_CORE, "Hard": _NO_CORE},
            {"Name": "nofile", "Soft": files, "Hard": files},
            {"Name": "stack", "Soft": stack, "Hard": _UNLIMITED},
        ],
        "LogConfig": {"Type": "none"},  # the runner keeps what nobody has read yet
    }


def changeable_limits(limits: Limits) -> dict[str, int]:
    """Those that a running container may be given anew."""
    return {
        "Memory": limits.memory_mib * 2**20,
        "MemorySwap": limits.memory_mib * 2**20,  # the same: no swap
        "PidsLimit": limits.processes + 1,  # PID 1 is ours
    }


def _network_mode(network: Network | str) -> str:
    if isinstance(network, Network):
        return {Network.OFF: "default", Network.LOOPBACK: "none", Network.BRIDGE: "bridge"}[network]
    return network


def _volumes(spec: ContainerSpec) -> list[dict[str, Any]]:
    """The folder that grading and student containers share, in their workspace, and the volumes of all the job's containers."""
    shares = spec.shares or spec.shared_volume
    shared = [_own_volume(spec, SHARED_FOLDER, spec.shared_volume)] if shares else []
    pipes = [_disk_volume(pipes_volume(spec.pipes, spec.labels))] if spec.pipes else []
    return [*shared, *pipes, *(_named_volume(spec, volume) for volume in spec.volumes)]


def _own_volume(spec: ContainerSpec, path: str, name: str = "") -> dict[str, Any]:
    """A volume that is removed with its container; one with a name belongs to another container, and goes with that."""
    options = _volume_options(spec.limits.workspace_mib, spec.limits.workspace_inodes, "1777")
    mount = _volume(path, {**spec.labels, VOLUME_LABEL: spec.name}, options)
    return {**mount, **({"Source": name} if name else {})}


def _named_volume(spec: ContainerSpec, volume: VolumeMount) -> dict[str, Any]:
    """A volume that outlives its containers. Not sticky: they may have different users, and each may replace another's files."""
    options = _volume_options(volume.size_mib, volume.inodes, "0777")
    mount = _volume(volume.path, {**spec.labels, SHARED_VOLUME_LABEL: volume.short_name}, options)
    return {**mount, "Source": volume.name, "ReadOnly": volume.read_only}


def _volume(path: str, labels: dict[str, str], options: str) -> dict[str, Any]:
    """A tmpfs volume: limited, and seen by the archive calls (a plain tmpfs mount is not)."""
    return {
        "Type": "volume",
        "Target": path,
        "VolumeOptions": {
            "Labels": labels,
            "NoCopy": True,
            "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs", "o": options}},
        },
    }


def _volume_options(size_mib: int, inodes: int, mode: str) -> str:
    """The *host* mounts it; where users are remapped, 65534 is another user there. So every user of its containers may write."""
    return f"size={size_mib}m,nr_inodes={inodes},mode={mode},{_NOBODY},{_MOUNT_OPTIONS}"


def _tmpfs(spec: ContainerSpec, size_mib: int, inodes: int) -> str:
    return f"rw,exec,size={size_mib}m,nr_inodes={inodes},{_owner(spec.user)},{_MOUNT_OPTIONS}"


def _owner(user: str | None) -> str:
    """Who may use the container's own folders: its user; where only the image knows who that is, everybody.

    Where the image has such a folder, runc before 1.2 gives the mount that folder's mode, whatever is asked for here. So a
    folder belongs to who writes to it.
    """
    if user is None:
        return f"mode=0700,{_NOBODY}"
    numeric = _NUMERIC_USER.fullmatch(user)
    return "mode=1777" if numeric is None else f"mode=0700,uid={numeric[1]},gid={numeric[2] or numeric[1]}"


def _writable_folders(spec: ContainerSpec) -> tuple[str, ...]:
    """The workspace and others; a grading container has those that INGInious graders use."""
    return (spec.workspace, "/tmp", *OLD_FOLDERS) if spec.shares else (spec.workspace, "/tmp")


def _is_mounted(path: str, spec: ContainerSpec) -> bool:
    volumes = {mount["Target"] for mount in _volumes(spec)}
    return path.rstrip("/") in (*volumes, *_writable_folders(spec))
