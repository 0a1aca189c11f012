"""Where the runner is, and the engines' words when it is not there."""

from __future__ import annotations

import json

import pytest

from jobmanager import cli
from jobmanager.engine.connect import connect
from jobmanager.engine.docker.container_config import carrier_config
from jobmanager.engine.labels import Owner
from jobmanager.engine.protocol import EngineError, EngineFailed, Refused, Unreachable
from jobmanager.engine.runner_volume import RunnerVolumes, is_runner_missing
from jobmanager.model.host import Address
from jobmanager.runner.place import RunnerVolume
from jobmanager.testing import FakeEngineServer

VOLUME = RunnerVolume(sha256="0123456789abcdef" * 4)
MISSING = 'exec: "/.jobmanager/runner": stat /.jobmanager/runner: no such file or directory: unknown'
OF_20_10 = f"OCI runtime create failed: container_linux.go:380: starting container process caused: {MISSING}"
OF_28 = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: "
    f"unable to start container process: error during container init: {MISSING}"
)
NOT_EXECUTABLE = 'starting container process caused: exec: "/.jobmanager/runner": permission denied: unknown'


class Program:
    content = b"\x7fELF"
    sha256 = VOLUME.sha256


@pytest.mark.parametrize("error", [Refused(OF_20_10), Refused(OF_28), EngineFailed(OF_28), Refused(NOT_EXECUTABLE)])
def test_a_start_that_misses_the_runner_is_recognised(error: EngineError) -> None:
    assert is_runner_missing(error)


@pytest.mark.parametrize(
    "error",
    [
        Refused(OF_20_10.replace("/.jobmanager/runner", "/usr/bin/mine")),
        Refused('OCI runtime create failed: exec: "/.jobmanager/runner": operation not permitted: unknown'),
        Unreachable("/.jobmanager/docker.sock: no such file or directory"),
        EngineFailed("no space left on device"),
    ],
)
def test_another_failure_is_not_taken_for_it(error: EngineError) -> None:
    assert not is_runner_missing(error)


def test_the_docker_api_is_told_to_mount_it_read_only_with_its_labels_and_to_copy_nothing_of_the_image() -> None:
    (mount,) = carrier_config("sha256:1", {}, [VOLUME.mount()])["HostConfig"]["Mounts"]
    assert mount == {
        "Type": "volume",
        "Source": "jobmanager-runner-0123456789abcdef",
        "Target": "/.jobmanager",
        "ReadOnly": True,
        "VolumeOptions": {"Labels": {"jobmanager.runner": VOLUME.sha256}, "NoCopy": True},
    }


def test_a_carrier_that_somebody_starts_may_do_nothing() -> None:
    config = carrier_config("sha256:1", {"a": "b"}, [VOLUME.mount(read_only=False)])
    host = config["HostConfig"]
    assert (config["User"], config["NetworkDisabled"], config["Labels"]) == ("65534:65534", True, {"a": "b"})
    assert (host["CapDrop"], host["SecurityOpt"], host["ReadonlyRootfs"]) == (["ALL"], ["no-new-privileges"], True)


# ---- the command line


def sweep(url: str, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[list[str], list[str]]:
    """Names of what it removes, or would, and of what it leaves alone."""
    assert cli.run(["sweep", url, "--json", *options]) == 0
    (host,) = json.loads(capsys.readouterr().out)["hosts"]
    return [each["name"] for each in host["leftovers"]], [each["name"] for each in host["left_alone"]]


def test_a_sweep_removes_the_volume_once_no_manager_uses_it(capsys: pytest.CaptureFixture[str]) -> None:
    claim = f"{VOLUME.name}-for-m1"
    with FakeEngineServer(images={"i": {}}) as fake:
        engine = connect(Address(host="h", url=fake.url), timeout_s=5.0)
        volumes = RunnerVolumes(manager_id="m1", owner=Owner.this_process(), binary_for=lambda _: Program())
        volumes.ensure(engine, "h")

        assert sweep(fake.url, capsys, "--yes") == ([], [claim])
        volumes.release(engine, "h")
        assert sweep(fake.url, capsys) == ([VOLUME.name], [])
        assert sweep(fake.url, capsys, "--manager", "m1") == ([], [VOLUME.name])
        assert sweep(fake.url, capsys, "--yes") == ([VOLUME.name], [])
        assert engine.volumes({"jobmanager.runner": None}) == []
        engine.close()


def test_a_sweep_says_in_words_what_it_does_with_the_volume(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeEngineServer(images={"i": {}}) as fake:
        engine = connect(Address(host="h", url=fake.url), timeout_s=5.0)
        volumes = RunnerVolumes(manager_id="m1", owner=Owner.this_process(), binary_for=lambda _: Program())
        volumes.ensure(engine, "h")
        cli.run(["sweep", fake.url])
        assert "left alone: 1 volume of manager m1, which may be alive" in capsys.readouterr().out

        volumes.release(engine, "h")
        cli.run(["sweep", fake.url, "--manager", "m1"])
        assert "left alone" not in capsys.readouterr().out
        cli.run(["sweep", fake.url])
        assert "1 volume to remove" in capsys.readouterr().out
        engine.close()
