"""``debug="ssh"`` without an engine: what is opened, whom is told, and that it is told once."""

from __future__ import annotations

import queue
import shlex
from dataclasses import replace

import pytest

from jobmanager import Code, Grader, JobInput, Limits, Network, Task
from jobmanager._callback_manager import CallbackManagers
from jobmanager.engine.docker.container_config import container_config
from jobmanager.grading.bundle import grader_command, supervisor_command
from jobmanager.ipc.messages import ContainerStarted, MonitorContainer, StartFailed
from jobmanager.model.container import ContainerSpec, ImageDefaults
from jobmanager.model.job import Request, RunRequest
from jobmanager.results.verdict import KillReason, killed_verdict
from jobmanager.scheduling.commands import PublishResult, PublishSSH
from jobmanager.ssh import debug_session
from jobmanager.ssh.sha512_crypt import sha512_crypt
from tests.unit.ledger_driver import SUCCESS, Driver

TASK = Task("python3", command="true")
JOB = MonitorContainer(
    job_id="j",
    container_id="c",
    container_name="n",
    command=("printf", "%s", "it's"),
    env={},
    files={"a": b"b"},
    stdin=b"in",
    limits=Limits(),
    collect=(),
)


# ---- the password


@pytest.mark.parametrize(
    ("password", "salt", "rounds", "hashed"),
    [  # the first three are of the specification, the last of libxcrypt
        (
            "Hello world!",
            "saltstringsaltstring",
            10000,
            "saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v.",
        ),
        (
            "This is just a test",
            "toolongsaltstring",
            5000,
            "toolongsaltstrin$lQ8jolhgVRVhY4b5pZKaysCLi0QBxGoNeKQzQ3glMhwllF7oGDZxUhx1yxdYcz/e1JSbq3y6JMxxl8audkUEm0",
        ),
        (
            "a very much longer text to encrypt.  This one even stretches over morethan one line.",
            "anotherlongsaltstring",
            1400,
            "anotherlongsalts$POfYwTEok97VWcjxIiSOjiykti.o/pQs.wPvMxQ6Fm7I6IoYN3CmLs66x9t0oSwbtEW7o7UmJEiDwGqd8p4ur1",
        ),
        (
            "",
            "s",
            1000,
            "s$u6h1nDplZjxDo4zJTtL/gDw7SGioQGm.0uRtQXjSgB6lTpGGOfGi4A6UMV.7Q7d2K2ppsidkHUrit0FKUiAv71",
        ),
    ],
)
def test_a_password_is_hashed_as_other_programs_do(password: str, salt: str, rounds: int, hashed: str) -> None:
    assert sha512_crypt(password, salt, rounds=rounds) == f"$6$rounds={rounds}${hashed}"


def test_each_session_has_a_password_of_its_own_and_only_its_hash_goes_to_the_host() -> None:
    password, other = debug_session.new_password(), debug_session.new_password()
    endpoint = debug_session.ssh_endpoint(password, workspace="/job", loopback_only=True)

    assert password != other and len(password) >= 20
    assert password.encode() not in endpoint.accounts
    assert "accounts" not in repr(endpoint)
    hashed = endpoint.accounts.decode().splitlines()[1].split(":")[1]
    assert hashed == sha512_crypt(password, hashed.split("$")[3], rounds=1000)


# ---- what is opened


def test_a_debugged_container_differs_from_any_other_by_its_network_a_port_and_a_folder_for_its_accounts() -> None:
    endpoint = debug_session.ssh_endpoint("secret", workspace="/job", loopback_only=True)
    closed = ContainerSpec(name="n", image="i", labels={"whose": "ours"}, limits=Limits(), network=Network.BRIDGE)
    opened = replace(closed, ssh_endpoint=endpoint)
    defaults = ImageDefaults(command=(), volumes=("/etc", "/data"))

    before, after = container_config(closed, defaults), container_config(opened, defaults)

    assert after.pop("ExposedPorts") == {"2222/tcp": {}}
    assert after["HostConfig"].pop("PortBindings") == {"2222/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
    folder = after["HostConfig"]["Mounts"].pop()
    labels = {"whose": "ours", "jobmanager.container": "n"}
    assert folder == {"Type": "volume", "Target": "/etc", "VolumeOptions": {"Labels": labels}}
    del before["HostConfig"]["Tmpfs"]["/etc"]
    assert after == before


def test_a_debugged_task_has_a_network_time_and_room_for_the_server_and_is_run_once() -> None:
    limits = Limits(cpu_time_s=1, memory_mib=100, processes=3, open_files=32, workspace_mib=2, cpus=0.5)
    task = Task("python3", command="true", files={"a": b"b"}, problems={"c": Code("c.py")}, limits=limits, retries=3)

    debugged = debug_session.debug_task(task, session_s=1800)

    assert (debugged.network, debugged.retries, debugged.files) == (Network.BRIDGE, 0, {"a": b"b"})
    assert (debugged.limits.cpu_time_s, debugged.limits.wall_s, debugged.limits.cpus) == (1800, 1800, 0.5)
    assert (debugged.limits.memory_mib, debugged.limits.processes, debugged.limits.open_files) == (164, 19, 64)
    assert debug_session.debug_task(Task("x", network="mine"), session_s=1).network == "mine"


def test_student_containers_have_the_budget_that_they_would_have_without_a_session() -> None:
    task = Task("x", grader=Grader("true", most_students=3), limits=Limits(cpu_time_s=7, memory_mib=100))

    grader = debug_session.debug_task(task, session_s=1800).grader

    assert grader == Grader("true", most_students=3, student_cpu_time_s=7, student_memory_mib=100)


def test_the_command_becomes_a_script_beside_the_server() -> None:
    session = debug_session.with_ssh_server(JOB)

    assert session.command == ("sh", ".jobmanager/ssh/serve")
    assert session.files[".jobmanager/run"] == b"cd /job && exec printf %s 'it'\"'\"'s' < .jobmanager/stdin\n"
    assert (session.files["a"], session.files[".jobmanager/stdin"], session.stdin) == (b"b", b"in", b"")


def test_a_graders_supervisor_starts_the_server_and_the_script_starts_the_grader() -> None:
    for run, words in ((None, ()), ("./check a", ("sh", "-c", "./check a")), (("python3", "check.py"), ("python3", "check.py"))):
        job = replace(JOB, command=grader_command(run), stdin=None, workspace="/task")

        session = debug_session.with_ssh_server(job)

        script = shlex.split(session.files[".jobmanager/run"].decode())
        assert script[:4] == ["cd", "/task", "&&", "exec"] and script[-2:] == ["<", "/dev/null"]
        assert script[4:6] == ["python3", "-c"] and tuple(script[7:-2]) == words
        assert supervisor_command(session.command)[-2:] == ("sh", ".jobmanager/ssh/serve")
        assert b"/job" not in session.files[".jobmanager/ssh/serve"] + session.files[".jobmanager/ssh/session"]


# ---- whom is told


def request(job_id: str = "j", task: Task = TASK) -> Request:
    return Request(
        job_id=job_id,
        task=task,
        inputs=JobInput(),
        runs=(RunRequest(task=task),),
        priority=0,
        launcher_name="x",
        debug="ssh",
        ssh_password="secret",
    )


def told(driver: Driver) -> list[PublishSSH | PublishResult]:
    return [order for order in driver.ledger.take_commands() if isinstance(order, (PublishSSH, PublishResult))]


def running(driver: Driver) -> str:
    """A debugged job's container, which runs."""
    driver.ledger.accept(request(), None, print)
    driver.ledger.take_commands()
    (container,) = driver.ledger.containers()
    driver.start_reported(container, ContainerStarted(container_id="c", image_command=(), duration_s=0.1))
    return container


def test_where_to_log_in_is_told_once_and_nothing_about_it_at_the_end() -> None:
    driver = Driver({"h": 1})
    container = running(driver)

    driver.ledger.ssh_ready(container, 49153)
    driver.ledger.ssh_ready(container, 49153)  # by the waiter that took over
    (where,) = told(driver)
    driver.ledger.run_ended(container, SUCCESS)
    (end,) = told(driver)

    assert isinstance(where, PublishSSH) and isinstance(end, PublishResult)
    assert (where.address, where.port, where.user, where.password) == ("127.0.0.1", 49153, "job", "secret")
    assert where.ssh_callback is print and end.ssh_callback is None
    assert "secret" not in repr(where) and "secret" not in repr(end)


def test_a_job_that_ends_without_a_session_tells_so_with_its_result() -> None:
    driver = Driver({"h": 1})
    driver.ledger.run_ended(running(driver), SUCCESS)

    (end,) = told(driver)

    assert isinstance(end, PublishResult) and end.ssh_callback is print


def test_a_door_that_opens_after_a_kill_is_told_to_nobody() -> None:
    driver = Driver({"h": 1})
    container = running(driver)
    driver.ledger.kill_all(KillReason.CLOSE)
    driver.ledger.ssh_ready(container, 49153)
    driver.ledger.run_ended(container, SUCCESS)

    (end,) = told(driver)

    assert isinstance(end, PublishResult) and end.ssh_callback is print


def test_a_job_that_no_host_can_start_tells_so_with_its_result() -> None:
    driver = Driver({"h": 1})
    driver.ledger.accept(request(), None, print)
    driver.ledger.take_commands()
    (container,) = driver.ledger.containers()
    driver.start_reported(container, StartFailed(reason="port is taken", unreachable=False))

    (end,) = told(driver)

    assert isinstance(end, PublishResult) and end.ssh_callback is print


def test_how_long_people_stay_says_nothing_of_how_long_the_tasks_jobs_take() -> None:
    driver = Driver({"h": 1})
    driver.ledger.run_ended(running(driver), replace(SUCCESS, wall_time_s=1000.0))
    told(driver)
    driver.ledger.callback_returned("j")

    for job_id in ("first", "second"):
        task = Task("python3", command="true", limits=Limits(wall_time_s=5000))
        driver.ledger.accept(replace(request(job_id, task), debug=False, ssh_password=""), None)

    assert driver.ledger.queue_info("second") == (1, None)
    driver.ledger.container_deleted(next(iter(driver.ledger.containers())))
    assert [job_class.endswith(" (ssh)") for job_class in driver.ledger._durations._averages] == [True]


def test_callback_threads_tell_of_a_session_or_of_none_before_the_result_and_a_callback_that_raises_harms_nothing() -> None:
    said: queue.SimpleQueue[tuple[object, ...]] = queue.SimpleQueue()

    def ssh(*where: object) -> None:
        said.put(where)
        raise RuntimeError("a bug of the caller's")

    managers = CallbackManagers(1, on_result=lambda _: None, on_called_back=lambda job_id: said.put((job_id,)))
    managers.start()
    managers.put(PublishSSH(job_id="a", ssh_callback=ssh, address="h", port=1, user="u", password="p"))
    managers.put(
        PublishResult(
            request=request("b"),
            callback=lambda result: said.put(("result", result.job_id)),
            verdict=killed_verdict(KillReason.CLOSE),
            facts=None,
            host=None,
            timings={},
            steps=(),
            ssh_callback=ssh,
        )
    )
    managers.close(10)

    assert [said.get(timeout=10) for _ in range(4)] == [("h", 1, "u", "p"), (None,) * 4, ("result", "b"), ("b",)]
