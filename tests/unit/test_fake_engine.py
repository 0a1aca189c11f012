"""The fake engine's faults, and that it leaves nothing behind: what ``jobmanager.testing`` promises beyond the contract."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from jobmanager.engine.connect import connect
from jobmanager.engine.labels import JOB_LABEL
from jobmanager.engine.pid1 import end_mark, payload
from jobmanager.engine.protocol import Engine, EngineFailed, ImageMissing, NameTaken, NoSuchContainer, Unreachable
from jobmanager.errors import InvalidValue
from jobmanager.model.container import ContainerSpec, ContainerStatus, ImageDefaults
from jobmanager.model.host import Address
from jobmanager.model.limits import Limits
from jobmanager.testing import FakeEngineServer
from tests.conftest import eventually

NAME = "one"
DEFAULTS = ImageDefaults(command=(), volumes=())


@pytest.fixture
def fake() -> Iterator[FakeEngineServer]:
    with FakeEngineServer(images={"busybox": {"kind": "small"}}, programs={"judge": 'echo "judged $1"; exit 4'}) as server:
        yield server


@pytest.fixture
def engine(fake: FakeEngineServer) -> Iterator[Engine]:
    engine = connect(Address(host="fake", url=fake.url), 5.0)
    yield engine
    engine.close()


def folder_of(url: str) -> Path:
    return Path(urlsplit(url).path).parent


def create(engine: Engine, name: str = NAME) -> str:
    return engine.create(ContainerSpec(name=name, image="busybox", labels={"a": "b"}, limits=Limits()), DEFAULTS)


def started(engine: Engine, name: str = NAME) -> str:
    create(engine, name)
    engine.start(name)
    return name


def output(engine: Engine, *command: str) -> bytes:
    """A program's standard output up to PID 1's last word, marks included."""
    started(engine, "program")
    stream = engine.attach("program")
    engine.feed("program", payload("tok", command=command, env={}, files={}, stdin=b""), 5.0)
    out = b""
    while b"\x1etok bye" not in out:
        chunks = stream.read(5.0)
        if chunks is None:
            break
        out += b"".join(chunk.data for chunk in chunks if not chunk.stderr)
    stream.close()
    return out


def end_of(out: bytes) -> bytes:
    return out.partition(b"\x1etok end ")[2].partition(b"\n")[0]


# ---- the daemon


def test_a_stopped_daemon_is_unreachable_and_keeps_its_containers(fake: FakeEngineServer, engine: Engine) -> None:
    stream = engine.attach(started(engine))
    fake.faults.stop()
    with pytest.raises(Unreachable):
        engine.info()
    assert stream.read(5.0) is None
    stream.close()
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


def test_no_output_overtakes_a_delayed_reply(fake: FakeEngineServer, engine: Engine) -> None:
    talker = ("sh", "-c", "while :; do echo x; sleep 0.01; done")
    engine.feed(started(engine), payload("tok", command=talker, env={}, files={}, stdin=b""), 5.0)
    fake.faults.delay_replies(0.2)

    stream = engine.logs(NAME)

    fake.faults.delay_replies(0)
    heard = b""
    while b"x" not in heard:
        chunks = stream.read(5.0)
        assert chunks
        heard += b"".join(chunk.data for chunk in chunks)
    assert heard.startswith(b"\x1etok got")
    stream.close()
    engine.kill(NAME)


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
    started(engine)
    engine.start(NAME)
    (record,) = fake.containers()
    assert (record.name, record.status, record.labels, record.times_started) == (NAME, ContainerStatus.RUNNING, {"a": "b"}, 1)
    engine.remove(record.id)
    assert fake.times_started(NAME) == 1
    assert fake.history() == [("create", NAME), ("start", NAME), ("start", NAME), ("remove", NAME)]


def test_programs_that_began_are_counted_by_job(fake: FakeEngineServer, engine: Engine) -> None:
    labels = {JOB_LABEL: "job-7"}
    for name in ("one", "two", "without-a-job"):
        engine.create(ContainerSpec(name=name, image="busybox", labels=labels, limits=Limits()), DEFAULTS)
        engine.start(name)
    for name, command in (("one", ("true",)), ("two", ("true",)), ("without-a-job", ("no-such-program",))):
        engine.feed(name, payload("tok", command=command, env={}, files={}, stdin=b""), 5.0)
    engine.remove("one")
    assert fake.runs() == {"job-7": 2}


# ---- programs for tests


def test_a_program_that_a_test_defined_gets_its_arguments(engine: Engine) -> None:
    out = output(engine, "judge", "me")
    assert b"judged me\n" in out
    assert end_of(out).startswith(b"4 ")


def test_an_oom_kill_is_counted(engine: Engine) -> None:
    mark = end_mark(end_of(output(engine, "fake-oom")).decode(), 0)
    assert mark is not None
    assert (mark.exit_code, mark.oom_kills) == (137, 1)


def test_refused_forks_are_counted(engine: Engine) -> None:
    mark = end_mark(end_of(output(engine, "fake-forks", "3")).decode(), 0)
    assert mark is not None
    assert (mark.exit_code, mark.fork_refusals) == (1, 3)


def test_an_oom_kill_of_pid_1_ends_the_container(engine: Engine) -> None:
    output(engine, "fake-pid1-oom")
    state = engine.inspect("program")
    assert (state.status, state.exit_code, state.oom_killed) == (ContainerStatus.ENDED, 137, True)


ENDLESS = ["yes > /dev/null", "yes | wc -l", "while true; do true; done", "yes | while read x; do :; done"]


@pytest.mark.parametrize("script", ENDLESS)
def test_an_endless_program_holds_nobody_else_up(engine: Engine, script: str) -> None:
    started(engine, "endless")
    engine.feed("endless", payload("tok", command=script, env={}, files={}, stdin=b""), 5.0)
    assert b"hi\n" in output(engine, "echo", "hi")
    assert engine.inspect("endless").status is ContainerStatus.RUNNING


WRONG = [("seq", "x"), ("sh", "-c", "kill -99 $$"), ("sh", "-c", "shift x"), ("dd", "count=x"), ("sh", "-c", "echo `")]


@pytest.mark.parametrize("command", WRONG)
def test_words_that_it_does_not_understand_end_the_program_only(engine: Engine, command: tuple[str, ...]) -> None:
    assert not end_of(output(engine, *command)).startswith(b"0 ")
    assert engine.info().cores == 2


def test_a_substitution_without_end_meets_the_limit_of_memory(engine: Engine) -> None:
    mark = end_mark(end_of(output(engine, "sh", "-c", "x=$(yes)")).decode(), 0)
    assert mark is not None
    assert (mark.exit_code, mark.oom_kills) == (137, 1)


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
