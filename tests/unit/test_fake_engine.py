"""The fake engine's faults, and that it leaves nothing behind: what ``jobmanager.testing`` promises beyond the contract."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from jobmanager import DockerHost, JobManager
from jobmanager.engine.connect import connect
from jobmanager.engine.labels import JOB_LABEL, Owner
from jobmanager.engine.protocol import (
    Engine,
    EngineFailed,
    ImageMissing,
    NameTaken,
    NoSuchContainer,
    NotRunning,
    Refused,
    Unreachable,
)
from jobmanager.engine.runner_volume import RunnerVolumes, is_runner_missing
from jobmanager.errors import EngineUnavailable, InvalidValue
from jobmanager.model.container import ContainerSpec, ContainerStatus, ImageDefaults
from jobmanager.model.host import Address
from jobmanager.model.limits import Limits
from jobmanager.runner.binaries import binary
from jobmanager.runner.frames import (
    Ended,
    Fault,
    HowEnded,
    InputFrom,
    Kill,
    Leave,
    ListFolder,
    OutputData,
    Started,
    StoppedBy,
)
from jobmanager.testing import Echo, Exit, FakeEngineServer, Print, Repeat, Sleep
from jobmanager.testing.fake.server import FakeServer
from tests.conftest import eventually
from tests.support.channel_runner import ChannelRunner
from tests.support.driven_runner import RunnerGone

NAME = "one"
PROGRAMS = {
    "judge": [Print("judged\n"), Exit(4)],
    "judge & forget": "echo later",
    "python3": "cat main.py",
    "talker": [Repeat([Print("x\n"), Sleep(0.01)])],
    "flood": [Repeat([Print("0123456789" * 1000)])],
    "spinner": [Repeat([Sleep(0)])],
    "repeater": [Repeat([Echo(lines=1)], times=2)],
}
DEFAULTS = ImageDefaults(command=(), volumes=())


@pytest.fixture
def fake() -> Iterator[FakeEngineServer]:
    with FakeEngineServer(images={"busybox": {"kind": "small"}}, programs=PROGRAMS) as server:
        yield server


@pytest.fixture
def engine(fake: FakeEngineServer) -> Iterator[Engine]:
    """With the runner in its volume."""
    engine = connect(Address(host="fake", url=fake.url), 5.0)
    deliver(engine)
    yield engine
    engine.close()


@pytest.fixture
def runner(engine: Engine) -> Iterator[ChannelRunner]:
    """The runner of a container that runs."""
    runner = ChannelRunner(engine, started(engine, "driven"))
    yield runner
    runner.close()


def deliver(engine: Engine) -> None:
    RunnerVolumes(manager_id="m", owner=Owner.this_process(), binary_for=binary).ensure(engine, "fake")


def folder_of(url: str) -> Path:
    return Path(urlsplit(url).path).parent


def create(engine: Engine, name: str = NAME, **spec: object) -> str:
    spec = {"labels": {"a": "b"}, "limits": Limits(), "runner": binary("x86_64").sha256, **spec}
    engine.create(ContainerSpec(name=name, image="busybox", **spec), DEFAULTS)  # type: ignore[arg-type]
    return name


def started(engine: Engine, name: str = NAME, **spec: object) -> str:
    create(engine, name, **spec)
    engine.start(name)
    return name


# ---- the daemon


def test_a_stopped_daemon_is_unreachable_and_keeps_its_containers(fake: FakeEngineServer, engine: Engine) -> None:
    channel = engine.open_channel(started(engine))
    fake.faults.stop()
    with pytest.raises(Unreachable):
        engine.info()
    assert channel.read(5.0) is None
    channel.close()
    fake.faults.start_again()
    assert engine.inspect(NAME).status is ContainerStatus.RUNNING


def test_a_daemon_without_live_restore_has_ended_its_containers_when_it_is_back(fake: FakeEngineServer, engine: Engine) -> None:
    started(engine)
    create(engine, "two")
    fake.faults.stop(keep_running=False)
    fake.faults.start_again()
    assert (engine.inspect(NAME).status, engine.inspect(NAME).exit_code) == (ContainerStatus.ENDED, 137)
    assert engine.inspect("two").status is ContainerStatus.CREATED


def test_a_hanging_daemon_answers_nothing_and_does_later_what_it_was_asked(fake: FakeEngineServer) -> None:
    impatient = connect(Address(host="fake", url=fake.url), 0.2)
    impatient.info()
    fake.faults.pause()
    with pytest.raises(Unreachable):
        create(impatient)
    with pytest.raises(Unreachable):
        impatient.info()
    fake.faults.resume()
    eventually(lambda: [container.name for container in fake.containers()] == [NAME])
    assert impatient.inspect(NAME).status is ContainerStatus.CREATED
    impatient.close()


def test_a_dropped_reply_is_carried_out(fake: FakeEngineServer, engine: Engine) -> None:
    fake.faults.drop_replies("create", 1)
    with pytest.raises(Unreachable):
        create(engine)
    with pytest.raises(NameTaken):
        create(engine)


def test_a_delayed_reply_comes_too_late_for_the_impatient(fake: FakeEngineServer, engine: Engine) -> None:
    impatient = connect(Address(host="fake", url=fake.url), 0.1)
    fake.faults.delay_replies(0.5)
    with pytest.raises(Unreachable):
        impatient.info()
    assert engine.info().cores == 2
    impatient.close()


def test_no_output_overtakes_a_delayed_reply(fake: FakeEngineServer, engine: Engine, runner: ChannelRunner) -> None:
    runner.start(["talker"])
    runner.wait_for(OutputData)
    fake.faults.delay_replies(0.2)

    other = engine.open_channel("driven")

    fake.faults.delay_replies(0)
    assert (other.read(5.0) or b"").startswith(b"JMU1")
    other.close()


def test_a_refused_call_is_not_carried_out(fake: FakeEngineServer, engine: Engine) -> None:
    fake.faults.refuse("create", "the runtime is missing", 1)
    with pytest.raises(EngineFailed, match="the runtime is missing"):
        create(engine)
    assert fake.containers() == []
    create(engine)


def test_a_full_disk_lets_nothing_be_created(fake: FakeEngineServer, engine: Engine) -> None:
    fake.faults.fill_disk()
    with pytest.raises(EngineFailed, match="no space left on device"):
        create(engine)
    fake.faults.fill_disk(False)
    create(engine)


# ---- images and containers, from outside


def test_images_come_and_go(fake: FakeEngineServer, engine: Engine) -> None:
    fake.add_image("python3", {"environment": "python"}, command=("python3",))
    assert engine.image_defaults("python3").command == ("python3",)
    assert {reference for image in engine.images() for reference in image.references} == {"busybox:latest", "python3:latest"}
    fake.remove_image("busybox")
    with pytest.raises(ImageMissing):
        create(engine)


def test_only_what_the_registry_has_can_be_pulled() -> None:
    with FakeEngineServer(images=[], registry=["busybox"]) as fake:
        engine = connect(Address(host="fake", url=fake.url), 5.0)
        with pytest.raises(ImageMissing):
            engine.pull("other")
        engine.pull("busybox")
        create(engine)
        engine.close()


def test_strangers_kill_pause_and_remove(fake: FakeEngineServer, engine: Engine) -> None:
    started(engine)
    fake.faults.pause_container(NAME)
    assert engine.inspect(NAME).status is ContainerStatus.PAUSED
    fake.faults.unpause_container(NAME)
    assert engine.inspect(NAME).status is ContainerStatus.RUNNING
    fake.faults.kill_container(NAME)
    assert engine.inspect(NAME).exit_code == 137
    fake.faults.remove_container(NAME)
    with pytest.raises(NoSuchContainer):
        engine.inspect(NAME)


def test_what_was_asked_and_started_is_remembered(fake: FakeEngineServer, engine: Engine) -> None:
    before = len(fake.history())
    started(engine)
    engine.start(NAME)
    (record,) = fake.containers()
    assert (record.name, record.status, record.labels, record.times_started) == (NAME, ContainerStatus.RUNNING, {"a": "b"}, 1)
    engine.remove(record.id)
    assert fake.times_started(NAME) == 1
    assert fake.history()[before:] == [("create", NAME), ("start", NAME), ("start", NAME), ("remove", NAME)]


def test_programs_that_began_are_counted_by_job(fake: FakeEngineServer, engine: Engine) -> None:
    for name, command in (("one", "true"), ("two", "true"), ("without-a-job", "no-such-program")):
        runner = ChannelRunner(engine, started(engine, name, labels={JOB_LABEL: "job-7"}))
        runner.do(command)
        runner.close()
    engine.remove("one")
    assert fake.runs() == {"job-7": 2}


# ---- the runner and its channel


def test_a_container_without_the_runner_is_not_started_until_it_is_there(fake: FakeEngineServer) -> None:
    bare = connect(Address(host="fake", url=fake.url), 5.0)
    create(bare)
    with pytest.raises(Refused) as refused:
        bare.start(NAME)
    assert is_runner_missing(refused.value)
    deliver(bare)
    bare.start(NAME)
    bare.close()


def test_only_a_container_that_runs_has_a_channel(fake: FakeEngineServer, engine: Engine) -> None:
    with pytest.raises(NoSuchContainer):
        engine.open_channel("nobody")
    create(engine)
    with pytest.raises(NotRunning):
        engine.open_channel(NAME)
    engine.start(NAME)
    fake.faults.pause_container(NAME)
    with pytest.raises(Refused, match="paused"):
        engine.open_channel(NAME)
    fake.faults.kill_container(NAME)
    with pytest.raises(NotRunning):
        engine.open_channel(NAME)


def test_a_channel_ends_with_its_container_and_when_it_is_closed(engine: Engine) -> None:
    first, second = engine.open_channel(started(engine)), engine.open_channel(NAME)
    first.close()
    first.close()
    assert first.read(5.0) is None
    engine.kill(NAME)
    assert second.read(5.0) is None
    second.close()


def test_a_channel_is_woken_for_one_read(engine: Engine) -> None:
    channel = engine.open_channel(started(engine))
    channel.wake()
    assert channel.read(60.0) == b""
    assert channel.read(0.0) == b""
    channel.close()


def test_two_programs_run_one_after_the_other(runner: ChannelRunner) -> None:
    runner.put({"f": b"from the file"})
    first, second = runner.shell("cat f; exit 3"), runner.do("cat", stdin=b"what came")
    assert (first.stdout, first.ended.code, second.stdout, second.ended.code) == (b"from the file", 3, b"what came", 0)


def test_a_waiter_that_dies_loses_nothing_of_a_program_that_runs_on(runner: ChannelRunner) -> None:
    runner.acknowledging = False
    run = runner.start(["flood"], output_bytes=300_000)
    runner.wait_for(OutputData)
    read_to = runner.read_to
    runner.detach()
    runner.resume(read_to)
    record = runner.finish(run)
    assert record.stdout == (b"0123456789" * 30_000)
    assert record.ended.stopped_by is StoppedBy.OUTPUT


def test_a_full_window_stops_the_program_and_its_wall_clock(runner: ChannelRunner) -> None:
    runner.acknowledging = False
    run = runner.start(["flood"], wall_ms=1000)
    while runner.read_to < 2**20 - 2**16:
        runner.next_message()
    with pytest.raises(TimeoutError):
        runner.wait_for(Ended, timeout_s=1.2)  # without any room
    runner.acknowledging = True
    runner.acknowledge()
    assert runner.finish(run).ended.stopped_by is StoppedBy.WALL


def test_a_pipe_is_read_as_it_is_written_to(runner: ChannelRunner) -> None:
    run = runner.start(["repeater"], stdin=InputFrom.PIPE)
    runner.send_input(run, b"one\n", last=False)
    runner.wait_for(OutputData)
    runner.send_input(run, b"two\n", offset=4)
    record = runner.finish(run)
    assert (record.stdout, record.taken.input) == (b"one\ntwo\n", 8)


def test_a_program_is_killed_by_a_message_and_its_container_stays(runner: ChannelRunner) -> None:
    run = runner.start(["sleep", "1000"])
    runner.wait_for(Started)
    runner.send(Kill(run=run))
    ended = runner.finish(run).ended
    assert (ended.how, ended.code, ended.stopped_by) == (HowEnded.SIGNALLED, 9, StoppedBy.KILL)
    assert runner.do("true").ended.code == 0


@pytest.mark.parametrize("has_waiter", [False, True])
def test_a_container_without_a_sign_of_life_leaves_with_120(engine: Engine, has_waiter: bool) -> None:
    lease_s = 2.0 if has_waiter else 0.3  # with a waiter: long enough for its first words
    started(engine, lease_s=lease_s)
    channels = [ChannelRunner(engine, NAME, lease_s=lease_s)] if has_waiter else []
    for runner in channels:
        runner.start(["sleep", "1000"])
        runner.wait_for(Started)
    eventually(lambda: engine.inspect(NAME).status is ContainerStatus.ENDED)
    assert engine.inspect(NAME).exit_code == 120
    for runner in channels:
        runner.close()


def test_a_waiter_that_lives_keeps_its_container(engine: Engine) -> None:
    runner = ChannelRunner(engine, started(engine, lease_s=2.0), lease_s=2.0)
    assert runner.do("sleep", "5").ended.code == 0
    runner.close()


def test_a_container_that_is_told_to_leave_reports_its_run_and_ends_with_0(engine: Engine, runner: ChannelRunner) -> None:
    run = runner.start(["sleep", "1000"])
    runner.wait_for(Started)
    runner.send(Leave())
    assert runner.finish(run).ended.stopped_by is StoppedBy.LEAVE
    with pytest.raises(RunnerGone):
        runner.next_message()
    assert engine.inspect("driven").exit_code == 0


def test_what_makes_no_sense_is_a_fault(engine: Engine, runner: ChannelRunner) -> None:
    runner.start(["sleep", "1000"])
    runner.send(ListFolder(request=1, path=b"/job"))  # while a run is going on
    assert b"a run is going on" in runner.wait_for(Fault).text
    eventually(lambda: engine.inspect("driven").exit_code == 121)


def test_a_container_that_somebody_pauses_hears_later_what_it_was_told(fake: FakeEngineServer, runner: ChannelRunner) -> None:
    fake.faults.pause_container("driven")
    run = runner.start(["echo", "hi"])
    with pytest.raises(TimeoutError):
        runner.wait_for(Started, timeout_s=0.2)
    fake.faults.unpause_container("driven")
    assert runner.finish(run).stdout == b"hi\n"


# ---- programs for tests


def test_a_program_that_a_test_defined_is_found_by_its_name_and_by_its_whole_text(runner: ChannelRunner) -> None:
    runner.put({"main.py": b"source"})
    assert runner.do("judge", "me").ended.code == 4
    assert runner.shell("judge & forget").stdout == b"later\n"
    assert runner.do("python3", "main.py").stdout == b"source"


TEXTS = [
    ("echo a b  'c  d' \"e\"", b"a b c  d e\n", 0),
    ("false && echo no; echo yes", b"yes\n", 0),
    ("false || echo yes\ntrue || echo no", b"yes\n", 0),
    ("false", b"", 1),
    ("exit 300", b"", 44),
    ("exec echo last; echo no", b"last\n", 0),
    ("sh -c 'exit 5' && echo no", b"", 5),
    ("mkdir d; touch d/f; ls d; rm -r d; ls d || echo gone", b"f\ngone\n", 0),
    ("pwd;", b"/job\n", 0),
    ("touch f; cp f g && ls; cp none h", b"f\ng\n", 1),
    ("head -c 3; wc -c", b"inp16\n", 0),
    ("head -c 4 /dev/zero", bytes(4), 0),
    ("judge; echo on", b"judged\non\n", 0),
    ("fake-oom; echo on && fake-oom", b"on\n", 137),
    ("", b"", 0),
]


@pytest.mark.parametrize(("text", "stdout", "code"), TEXTS)
def test_a_text_is_a_few_commands(runner: ChannelRunner, text: str, stdout: bytes, code: int) -> None:
    record = runner.shell(text, stdin=b"input that is there")
    assert (record.stdout, record.ended.code) == (stdout, code), record.stderr


STRANGE = [
    ("echo a > f", ">"),
    ("yes | head -c 3", "|"),
    ("echo $HOME", "$HOME"),
    ("echo `date`", "`date`"),
    ("while true; do sleep 1; done", "while"),
    ("n=1; echo 2", "n=1"),
    ("echo *", "*"),
    ("sleep 1 & echo no", "&"),
    ("(exit 3)", "(exit"),
    ("gcc main.c", "gcc"),
    ("echo 'a", "'a"),
]


@pytest.mark.parametrize(("text", "what"), STRANGE)
def test_what_a_text_cannot_say_is_told_in_a_line_and_ends_with_127(runner: ChannelRunner, text: str, what: str) -> None:
    record = runner.shell(text)
    assert record.ended.code == 127
    (line,) = record.stderr.decode().splitlines()
    assert line.startswith(f"the fake engine has no {what!r}: give its steps: FakeEngineServer(programs={{{text!r}:")


WRONG = [("sleep", "x"), ("exit", "x"), ("sh", "-c", "kill -99 $$"), ("sh", "-x", "f"), ("env", "true")]


@pytest.mark.parametrize("command", WRONG)
def test_words_that_it_does_not_understand_end_the_program_only(runner: ChannelRunner, command: tuple[str, ...]) -> None:
    assert runner.do(*command).ended.code != 0
    assert runner.do("true").ended.code == 0


@pytest.mark.parametrize("program", ["flood", "spinner", "yes"])
def test_an_endless_program_holds_nobody_else_up(engine: Engine, runner: ChannelRunner, program: str) -> None:
    runner.start([program])
    runner.wait_for(Started)
    other = ChannelRunner(engine, started(engine))
    assert other.do("echo", "hi").stdout == b"hi\n"
    assert engine.inspect("driven").status is ContainerStatus.RUNNING
    other.close()


def test_a_signal_that_a_text_sends_itself_is_its_end(runner: ChannelRunner) -> None:
    ended = runner.shell("kill -SEGV $$; echo no").ended
    assert (ended.how, ended.code, ended.stdout_bytes) == (HowEnded.SIGNALLED, 11, 0)


def test_an_oom_kill_is_counted(runner: ChannelRunner) -> None:
    ended = runner.do("fake-oom").ended
    assert (ended.how, ended.code, ended.oom_kills) == (HowEnded.SIGNALLED, 9, 1)


def test_refused_forks_are_counted(runner: ChannelRunner) -> None:
    ended = runner.do("fake-forks", "3").ended
    assert (ended.code, ended.fork_refusals) == (1, 3)


def test_an_oom_kill_of_pid_1_ends_the_container(engine: Engine, runner: ChannelRunner) -> None:
    runner.start(["fake-pid1-oom"])
    with pytest.raises(RunnerGone):
        runner.wait_for(Ended)
    state = engine.inspect("driven")
    assert (state.status, state.exit_code, state.oom_killed) == (ContainerStatus.ENDED, 137, True)


# ---- its process


def test_nothing_is_left_after_the_end() -> None:
    with FakeEngineServer() as fake:
        folder, pid = folder_of(fake.url), fake.pid
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_its_folder_goes_with_its_process_when_that_is_told_to_end() -> None:
    with FakeEngineServer() as fake:
        folder = folder_of(fake.url)
        os.kill(fake.pid, signal.SIGTERM)
        eventually(lambda: not folder.exists())


def test_it_ends_with_an_owner_that_was_killed_though_a_sibling_holds_its_pipe() -> None:
    script = (
        "import os, time\n"
        "from jobmanager.testing import FakeEngineServer\n"
        "fake = FakeEngineServer(); fake.start()\n"
        "if os.fork() == 0: time.sleep(30); os._exit(0)\n"
        "print(fake.url, flush=True); time.sleep(30)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True) as owner:
        assert owner.stdout is not None
        folder = folder_of(owner.stdout.readline().decode().strip())
        assert folder.exists()
        owner.kill()
        eventually(lambda: not folder.exists(), within_s=5.0)
        os.killpg(owner.pid, signal.SIGKILL)


def test_a_process_that_talks_to_a_fake_imports_no_docker(fake: FakeEngineServer) -> None:
    script = (
        "import sys; from jobmanager.engine.connect import connect; from jobmanager.model.host import Address\n"
        f"engine = connect(Address(host='f', url={fake.url!r}), 5.0); engine.info(); print('docker' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("fault", ["drop_replies", "refuse"])
def test_a_fault_for_a_call_that_there_is_not_is_refused(fake: FakeEngineServer, fault: str) -> None:
    words = ["oops"] if fault == "refuse" else []
    with pytest.raises(InvalidValue, match=r"no call of an engine has the name 'crate': take one of .*create"):
        getattr(fake.faults, fault)("crate", *words)


def test_it_can_be_started_in_a_daemonic_process_and_on_any_start_method(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(
        "import multiprocessing\n"
        "def child():\n"
        "    from jobmanager.testing import FakeEngineServer\n"
        "    with FakeEngineServer() as fake: print(fake.url.startswith('fake:///'), flush=True)\n"
        "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context('spawn').Process(target=child, daemon=True)\n"
        "    process.start(); process.join()\n"
    )
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=30, env=env)
    assert done.stdout == "True\n"


def test_a_host_whose_architecture_has_no_runner_is_refused_in_one_line_that_names_it() -> None:
    said = r"host board: there is no runner for the architecture 'riscv64', only for x86_64 and aarch64"
    with FakeEngineServer(architecture="riscv64") as board:
        engine = connect(Address(host="board", url=board.url), 5.0)
        runners = RunnerVolumes(manager_id="m", owner=Owner.this_process(), binary_for=binary)
        for call in (runners.ensure, runners.named):
            with pytest.raises(Refused, match=f"^{said}$"):
                call(engine, "board")
        engine.close()

        with pytest.raises(EngineUnavailable, match=said), JobManager(DockerHost(board.url, name="board")):
            pass


def test_the_loop_can_wait_for_a_program_that_runs_for_30_years() -> None:
    """A selector takes no such time: the whole engine would end."""
    ours, theirs = socket.socketpair()
    nothing = {"programs": {}, "registry": {}, "images": {}, "networks": []}
    settings = {"cores": 1, "memory_mib": 1024, "architecture": "x86_64", **nothing}
    server = FakeServer("/nowhere", theirs, os.getpid(), settings)
    with ours, theirs, selectors.DefaultSelector() as selector:
        selector.register(theirs, selectors.EVENT_WRITE)  # so that it returns at once
        server._later(1e9, lambda: None)
        assert selector.select(server._select_timeout_s())
    server._selector.close()
