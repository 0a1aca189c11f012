"""The command line as a person uses it: what it prints, its exit codes, and that it leaves nothing behind."""

from __future__ import annotations

import gc
import io
import json
import os
import pty
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import psutil
import pytest

from jobmanager import JobManager, Limits, Task
from jobmanager.cli import run
from jobmanager.doctor import runner_check
from jobmanager.doctor.pid_1_calls import CALLS
from jobmanager.runner.place import RUNNER_LABEL
from jobmanager.testing import FakeEngineServer
from tests.conftest import BUSYBOX, end_with_all_children, eventually, our_containers, our_volumes
from tests.support.daemons import PrivateDaemon
from tests.support.printed import program_runs
from tests.support.proxy import CREATE, Proxy

COMMAND = [sys.executable, "-m", "jobmanager"]
ALL_PROBES = {
    *runner_check.NAMES,
    *("a job runs", "workspace rights"),
    *("memory", "processes", "workspace size", "workspace files", "size of /tmp", "open files", "output"),
    *("wall clock", "CPU time", "cores", "children left behind", "network", "user", "privileges", "root filesystem", "clean-up"),
}  # fmt: skip
OF_THE_PROFILE = {runner_check.CALLS, runner_check.PIPES}  # the engine enforces these
OURS = {  # no engine enforces these
    *({*runner_check.NAMES} - OF_THE_PROFILE),
    "open files",
    *("a job runs", "output", "wall clock", "CPU time", "children left behind", "clean-up"),
}


class Answer:
    """What a command gave."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def host(self) -> dict[str, Any]:
        """The only host of its JSON."""
        (host,) = json.loads(self.out)["hosts"]
        return dict(host)

    @property
    def failing(self) -> set[str]:
        return {probe["name"] for probe in self.host["probes"] if not probe["enforced"]}


Ask = Callable[..., Answer]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a command in this process."""

    def asked(*arguments: str) -> Answer:
        code = run(arguments)
        gc.collect()  # urllib3's exceptions refer to each other, with the socket that failed to connect
        return Answer(code, *capsys.readouterr())

    return asked


@pytest.fixture
def url(private_engine: PrivateDaemon) -> Iterator[str]:
    yield private_engine.url
    eventually(lambda: not our_containers(private_engine.url), what="containers are gone")
    eventually(lambda: not our_volumes(private_engine.url), what="volumes are gone")


def ready(url: str) -> int:
    """How many programs run on an engine."""
    client = docker.DockerClient(base_url=url, version="1.41", timeout=20)
    try:
        ours = our_containers(url)
        return sum(program_runs(each) for each in client.containers.list(ignore_removed=True) if each.name in ours)
    finally:
        client.close()


def runner_volumes(url: str) -> set[str]:
    """All that brings the runner to an engine."""
    client = docker.APIClient(base_url=url, version="1.41", timeout=20)
    try:
        return {volume["Name"] for volume in client.volumes(filters={"label": RUNNER_LABEL})["Volumes"] or ()}
    finally:
        client.close()


# ---- doctor


def test_the_doctor_finds_that_every_limit_holds_on_a_good_host(engine_url: str, ask: Ask) -> None:
    answer = ask("doctor", engine_url, "--image", BUSYBOX, "--json")

    assert answer.failing == set(), answer.host["probes"]
    assert (answer.code, answer.err) == (0, "")
    assert {probe["name"] for probe in answer.host["probes"]} == ALL_PROBES
    proofs = {probe["name"]: {each["kind"]: each["value"] for each in probe["evidence"]} for probe in answer.host["probes"]}
    assert proofs["memory"]["oom_kills"] >= 1
    assert proofs["processes"]["fork_refusals"] >= 1
    assert proofs["CPU time"]["cpu_time_s"] > 1
    assert answer.host["about"]["engine"] and answer.host["about"]["runc"]


def test_the_doctor_finds_the_one_limit_that_an_engine_drops(engine_url: str, ask: Ask) -> None:
    """A real engine that is never told how many processes a container may have."""
    with Proxy(engine_url) as proxy:
        proxy.rewrite(CREATE, lambda said: said["HostConfig"].pop("PidsLimit", None))

        answer = ask("doctor", proxy.url, "--image", BUSYBOX)

    assert answer.code == 1
    (row,) = [line for line in answer.out.splitlines() if " NO " in line]
    assert row.split()[:2] == ["processes", "NO"] and "64 processes started" in row
    assert "does not hold here: processes" in answer.out


def test_the_doctor_finds_every_limit_that_an_engine_drops(url: str, ask: Ask) -> None:
    """The same with nothing left of the default profile; the network is one with a way out."""
    client = docker.APIClient(base_url=url, version="1.41", timeout=20)
    network = client.create_network("jobmanager-test-open")["Id"]

    def opened(said: dict[str, Any]) -> None:
        if "Memory" not in said["HostConfig"]:  # a carrier of the runner, which is never started
            return
        kept = {key: said["HostConfig"][key] for key in ("Mounts", "LogConfig")}
        said["HostConfig"] = {**kept, "Tmpfs": {"/job": "rw,exec,mode=0777"}, "NetworkMode": network}
        del said["User"], said["NetworkDisabled"]

    try:
        with Proxy(url) as proxy:
            proxy.rewrite(CREATE, opened)
            answer = ask("doctor", proxy.url, "--image", BUSYBOX, "--json")
    finally:
        client.remove_network(network)
        client.close()

    assert answer.code == 1
    assert answer.failing == ALL_PROBES - OURS, answer.host["probes"]


def test_the_doctor_finds_that_an_engine_drops_what_protects_the_runner(engine_url: str, ask: Ask) -> None:
    """As with a runtime that knows no seccomp."""
    with Proxy(engine_url) as proxy:
        proxy.rewrite(CREATE, lambda said: said["HostConfig"].update(SecurityOpt=["no-new-privileges", "seccomp=unconfined"]))

        answer = ask("doctor", proxy.url, "--image", BUSYBOX, "--json")

    assert (answer.code, answer.failing) == (1, OF_THE_PROFILE | {"privileges"})
    seen = {probe["name"]: probe["seen"] for probe in answer.host["probes"]}
    for call in CALLS:
        assert call.name in seen[runner_check.PIPES if call.name in ("splice", "sendfile") else runner_check.CALLS]


@pytest.mark.parametrize(
    ("pid_1", "said"),
    [
        ("/.jobmanager", "it lets nothing in a volume be executed: mount its data folder without noexec; the engine says: "),
        ("/bin/false", "the runner has not answered; it ended with code 1. If it could not be executed: "),
    ],
)
def test_a_runner_that_cannot_be_executed_is_one_line_that_says_what_to_do_and_nothing_is_left(
    url: str, ask: Ask, pid_1: str, said: str
) -> None:
    """The two ways in which a runtime tells it: it refuses the start, or the container ends at once."""
    before = runner_volumes(url)
    with Proxy(url) as proxy:
        proxy.rewrite(CREATE, lambda request: request.update(Entrypoint=[pid_1]))

        answer = ask("doctor", proxy.url, "--json")

    assert answer.code == 1
    (probe,) = answer.host["probes"]
    assert (probe["name"], probe["enforced"]) == (runner_check.STARTS, False)
    assert probe["seen"].startswith(said)
    assert "\n" not in probe["seen"]
    assert runner_volumes(url) == before


def test_a_host_whose_architecture_has_no_runner_is_told_with_its_name(ask: Ask) -> None:
    with FakeEngineServer(architecture="riscv64") as board:
        answer = ask("doctor", board.url, "--json")

    assert answer.code == 1
    (probe,) = answer.host["probes"]
    assert "there is no runner for the architecture 'riscv64', only for x86_64 and aarch64" in probe["seen"]


def test_an_image_in_which_no_job_runs_is_told_and_nothing_else_is_tried(url: str, ask: Ask) -> None:
    with io.BytesIO() as packed:
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("nothing"))
        client = docker.APIClient(base_url=url, version="1.41", timeout=20)
        client.import_image_from_data(packed.getvalue(), repository="jobmanager-test-empty", tag="1")
    try:
        answer = ask("doctor", url, "--image", "jobmanager-test-empty:1")
    finally:
        client.remove_image("jobmanager-test-empty:1")
        client.close()

    assert answer.code == 1
    assert "the image has no sh" in answer.out
    assert "workspace size" not in answer.out
    assert "does not hold here: a job runs" in answer.out


def test_a_host_without_any_image_and_one_without_the_named_image_are_told_in_one_line(ask: Ask) -> None:
    with FakeEngineServer(images=[]) as empty:
        without, named = ask("doctor", empty.url), ask("doctor", empty.url, "--image", "nothing:1")

    assert (without.code, named.code) == (2, 2)
    assert "has no image to run the probes in: pull or load one that has sh" in without.err
    assert "nothing:1" in named.err
    assert without.err.count("\n") == named.err.count("\n") == 1


def test_ctrl_c_while_probes_run_leaves_nothing_behind(url: str) -> None:
    doctor = subprocess.Popen(
        [*COMMAND, "doctor", url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    eventually(lambda: len(our_containers(url)) >= 2, what="probes run")
    family = psutil.Process(doctor.pid).children(recursive=True)
    os.killpg(doctor.pid, signal.SIGINT)
    out, err = doctor.communicate(timeout=30)

    assert (doctor.returncode, out, err) == (130, "", "\njobmanager: interrupted\n")  # the terminal's ^C has a line of its own
    assert not our_containers(url) and not our_volumes(url)
    assert family and not any(child.is_running() for child in family)


def test_a_terminal_shows_how_far_the_probes_are_and_the_only_image_is_taken(url: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm"}
    with (tmp_path / "out").open("w") as out:
        doctor = subprocess.Popen([*COMMAND, "doctor", url, "--json"], stdout=out, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with open(ours, "rb", buffering=0) as terminal:
        while True:
            try:
                shown += terminal.read(4096)
            except OSError:  # EIO: the other end is closed
                break

    assert doctor.wait(30) == 0
    assert b"looking" in shown and b"16/16" in shown
    (host,) = json.loads((tmp_path / "out").read_text())["hosts"]
    assert host["image"] == BUSYBOX


# ---- bad input, hosts that are away


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing"], 2, "there is no command 'nothing': there are doctor, grade, run, sweep, worker, "),
        (["swep"], 2, "there is no command 'swep': did you mean sweep?"),
        (["doctor", "/var/run/docker.sock"], 2, "did you mean unix:///var/run/docker.sock?"),
        (["doctor", "unix:///etc/passwd"], 3, "/etc/passwd is no socket"),
        (["doctor", "--nothing"], 2, "No such option"),
        (["doctor", "docker.example.org"], 2, "makes no sense"),
        (["doctor", "tcp://example.org"], 2, "names no port"),
        (["doctor", "tcp://127.0.0.1:1", "--tls", "/nothing"], 2, "no file that can be read at '/nothing/ca.pem'"),
        (["sweep", "unix:///nothing", "--tls", "/nothing"], 2, "--tls is for tcp hosts"),
        (["sweep", "unix:///nothing", "--ssh-config", "/nothing"], 2, "--ssh-config is for ssh hosts"),
        (["sweep", "unix:///nothing", "--manager", "a", "--all"], 2, "give one of them"),
        (["sweep", "unix:///nothing"], 3, "unix:///nothing: [Errno 2] No such file or directory"),
        (["doctor", "tcp://127.0.0.1:1"], 3, "Connection refused"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(ask: Ask, arguments: list[str], code: int, said: str) -> None:
    answer = ask(*arguments)
    assert (answer.code, answer.out) == (code, "")
    assert answer.err.startswith("jobmanager: ") and answer.err.count("\n") == 1
    assert said in answer.err


def test_the_command_alone_prints_its_help(ask: Ask) -> None:
    answer = ask()
    assert (answer.code, answer.err) == (2, "")
    assert answer.out.startswith("Usage: jobmanager ") and "doctor" in answer.out and "worker" in answer.out


def test_a_host_that_is_away_does_not_keep_the_others(url: str, ask: Ask) -> None:
    answer = ask("sweep", "unix:///nothing", url, "--json")

    away, here = json.loads(answer.out)["hosts"]
    assert answer.code == json.loads(answer.out)["exit_code"] == 3
    assert "No such file" in away["problem"]
    left = [each for each in here["leftovers"] if not each["name"].startswith("jobmanager-runner-")]  # it stays for the next one
    assert (here["url"], left, here["left_alone"]) == (url, [], [])


def test_without_hosts_the_default_engine_is_asked(url: str, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", url)

    assert ask("sweep", "--json").host["url"] == url


def test_without_its_libraries_the_command_says_how_to_install_them() -> None:
    without = "import sys; sys.modules['click'] = None; from jobmanager.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, timeout=30, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "jobmanager: the command needs the extra `cli`: there is no click here; in a checkout of jobmanager: pip install '.[cli]'\n"
    )


# ---- sweep

DOOMED = """
import sys
from jobmanager import JobManager, Limits, Task
manager = JobManager({url!r}, name="doomed")
manager.start()
for _ in range(3):
    manager.new_job(Task({image!r}, command="sleep 300", limits=Limits(wall_time_s=300)))
sys.stdin.read()
"""


def kill_with_children(url: str) -> None:
    """A manager with three running jobs dies, and with it all who could tidy up."""
    there_before = len(our_containers(url))
    doomed = subprocess.Popen([sys.executable, "-c", DOOMED.format(url=url, image=BUSYBOX)], stdin=subprocess.PIPE)
    eventually(lambda: len(our_containers(url)) == there_before + 3, what="its jobs run")
    end_with_all_children(doomed)
    doomed.communicate(timeout=10)


def test_a_dead_managers_leftovers_are_listed_then_removed_and_a_living_neighbours_are_not(url: str, ask: Ask) -> None:
    with JobManager(url, name="web-1") as neighbour:
        job = neighbour.submit(Task(BUSYBOX, command="sleep 300", limits=Limits(wall_time_s=300)))
        (living,) = eventually(lambda: our_containers(url), what="the neighbour's job runs")
        kill_with_children(url)
        dead = set(our_containers(url)) - {living}
        assert len(dead) == 3

        listed = ask("sweep", url)
        assert listed.code == 0
        assert all(name in listed.out for name in dead) and living not in listed.out
        assert "has ended" in listed.out
        assert "3 containers and 1 volume to remove: add --yes to remove them" in listed.out
        assert "left alone: 1 container and 1 volume of manager" in listed.out and " (web-1), which may be alive" in listed.out
        assert listed.out.count(" (doomed) ") == 4
        assert dead < set(our_containers(url))

        host = ask("sweep", url, "--json").host
        assert {each["manager_name"] for each in host["leftovers"]} == {"doomed"}
        assert {each["manager_name"] for each in host["left_alone"]} == {"web-1"}

        removed = ask("sweep", url, "--yes")
        assert (removed.code, "removed 3 containers and 1 volume" in removed.out) == (0, True)
        assert our_containers(url) == [living]
        assert "nothing to sweep" in ask("sweep", url, "--yes").out
        neighbour.kill_job(job.job_id)


def test_a_persons_word_removes_what_a_named_manager_has(url: str, ask: Ask) -> None:
    with JobManager(url) as one, JobManager(url) as other:
        task = Task(BUSYBOX, command="echo ready; sleep 300", limits=Limits(wall_time_s=300))
        jobs = [manager.submit(task) for manager in (one, other)]
        eventually(lambda: ready(url) == 2, what="both programs run: one that has not begun would go elsewhere")
        alone = ask("sweep", url, "--yes", "--json").host
        assert (alone["leftovers"], len(alone["left_alone"])) == ([], 4)  # beside each container its claim to the runner
        doomed, spared = (each for each in alone["left_alone"] if each["kind"] == "container")

        named = ask("sweep", url, "--yes", "--manager", doomed["manager_id"])

        assert (named.code, our_containers(url)) == (0, [spared["name"]])
        assert doomed["name"] in named.out and "chosen by you" in named.out
        assert ask("sweep", url, "--yes", "--all").code == 0
        assert [job.result(30).outcome for job in jobs] == ["crash", "crash"]


def test_what_cannot_be_removed_is_told_and_the_exit_code_says_so(url: str, ask: Ask) -> None:
    """A volume that a stranger's container has."""
    kill_with_children(url)
    client = docker.APIClient(base_url=url, version="1.41", timeout=20)
    for name in our_containers(url):
        client.remove_container(name, force=True, v=False)
    (taken,) = (name for name in runner_volumes(url) if "-for-" in name)
    config = client.create_host_config(binds=[f"{taken}:/data"])
    stranger = client.create_container(BUSYBOX, "true", volumes=["/data"], host_config=config)["Id"]

    answer = ask("sweep", url, "--yes", "--json")

    client.remove_container(stranger)
    client.close()
    assert answer.code == 1
    assert {each["name"]: (each["kind"], each["removed"]) for each in answer.host["leftovers"]}[taken] == ("volume", False)
    assert taken in runner_volumes(url)
    assert ["in use" in each["error"] for each in answer.host["leftovers"] if each["name"] == taken] == [True]
    assert ask("sweep", url, "--yes").code == 0
