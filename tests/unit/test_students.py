"""Student containers on the fake engine, where a supervisor of a few lines says what no good supervisor would."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from jobmanager import DockerHost, Grader, JobManager, JobResult, Limits, Outcome, Task
from jobmanager._deleter import delete
from jobmanager._waiter import Waiter
from jobmanager.engine.connect import connect
from jobmanager.engine.labels import MANAGER_LABEL, OWNER_LABEL, STUDENT_LABEL
from jobmanager.engine.leftovers import survey
from jobmanager.engine.protocol import Engine
from jobmanager.grading.link import RunStudent
from jobmanager.ipc.messages import ContainerRemoved, GradingSettings, MonitorContainer, UnknownContainers, WaiterSettings
from jobmanager.model.container import ContainerSpec, ImageDefaults
from jobmanager.model.host import Address
from jobmanager.testing import FakeEngineServer
from jobmanager.watching.monitor import ContainerMonitor
from jobmanager.watching.student_container import StudentContainer
from jobmanager.watching.student_program import StudentProgram
from jobmanager.watching.students import StudentContainers
from tests.conftest import eventually

GRADING, STUDENT = "graders", "busybox"
LIMITS = Limits(wall_time_s=20, memory_mib=64)
SAYS = "printf '\\036%s . %s\\n' $(cat .jobmanager/link) "
SUCCEEDS = "echo '{\"result\": \"success\"}' > .jobmanager/result.json"


@pytest.fixture
def fake() -> Iterator[FakeEngineServer]:
    with FakeEngineServer(images=[GRADING, STUDENT], programs={"python3": "sh supervisor"}) as server:
        yield server


@pytest.fixture
def engine(fake: FakeEngineServer) -> Iterator[Engine]:
    engine = connect(Address(host="fake", url=fake.url), timeout_s=10)
    yield engine
    engine.close()


def said(**message: object) -> str:
    return SAYS + base64.b64encode(json.dumps(message).encode()).decode()


def graded(fake: FakeEngineServer, *lines: str, grader: Grader | None = None) -> JobResult:
    """A job whose container has this in the supervisor's place."""
    return all_graded(fake, [lines], grader=grader)[0]


def all_graded(fake: FakeEngineServer, scripts: Sequence[Sequence[str]], *, grader: Grader | None = None) -> list[JobResult]:
    """The same for several jobs, at once."""
    with JobManager(DockerHost(fake.url, max_concurrent_jobs=20)) as manager:
        files = [{"supervisor": "\n".join([*lines, SUCCEEDS])} for lines in scripts]
        tasks = [Task(GRADING, grader=grader or Grader("true"), files=each, limits=LIMITS) for each in files]
        jobs = [manager.submit(task) for task in tasks]
        results = [job.result(60) for job in jobs]
        eventually(lambda: not fake.containers(), what="no container is left")
    return results


def heard(result: JobResult) -> list[dict[str, object]]:
    """What the supervisor heard."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def until(count: int) -> str:
    """Shell that reads so many messages, and prints them."""
    return "\n".join(["read -r line; echo \"$line\""] * count)


def test_a_students_streams_and_end_reach_the_supervisor(fake: FakeEngineServer) -> None:
    result = graded(
        fake,
        said(type="student", id=1, command="cat; echo err >&2; exit 3", environment=STUDENT),
        until(1),
        said(type="stdin", id=1, data=base64.b64encode(b"in\n").decode()),
        said(type="stdin", id=1, data=""),
        until(4),
    )

    assert result.outcome is Outcome.SUCCESS, result
    messages = heard(result)
    assert messages[0] == {"type": "started", "id": 1}
    printed = {(message["stderr"], message["data"]) for message in messages if message["type"] == "output"}
    assert printed == {(False, base64.b64encode(b"in\n").decode()), (True, base64.b64encode(b"err\n").decode())}
    assert {"type": "taken", "id": 1, "bytes": 3} in messages
    end = messages[-1]
    assert (end["type"], end["outcome"], end["exit_code"], end["text"]) == ("end", "failed", 3, "exit code 3")


NONSENSE = [
    ([SAYS + "bm9uZQ=="], "no JSON"),
    ([SAYS + "?"], "not base64"),
    ([said(type="student", command="true")], "without an id"),
    ([said(type="stdin", id=7, data="")], "student 7, which it never asked for"),
    ([said(type="kill", id=7)], "student 7, which it never asked for"),
    ([said(type="student", id=1, command="true"), said(type="student", id=1, command="true")], "student 1 twice"),
    ([said(type="student", id=2, command="true"), said(type="student", id=1, command="true")], "student 1 twice"),
    ([said(type="student", id=1, command="true"), said(type="dance", id=1)], "of the type 'dance'"),
]


def test_a_supervisor_that_makes_no_sense_ends_its_job_as_error(fake: FakeEngineServer) -> None:
    results = all_graded(fake, [[*lines, "sleep 1000"] for lines, _ in NONSENSE])
    for result, (_, reason) in zip(results, NONSENSE, strict=True):
        assert (result.outcome, result.grade) == (Outcome.ERROR, 0), (result, reason)
        assert reason in result.text


@pytest.mark.parametrize("then", ["sleep 1000", "true"], ids=["waits", "goes on"])
def test_a_grader_that_wants_what_there_is_not_ends_its_job_as_error_whatever_it_does_then(
    fake: FakeEngineServer, then: str
) -> None:
    result = graded(fake, said(type="unsupported", id=1, reason="a session: there are none"), then)
    assert (result.outcome, result.grade, result.evidence[0].kind) == (Outcome.ERROR, 0, "protocol_error"), result
    assert result.text == "the grading container was stopped: a session: there are none"


REFUSED = [
    ({"command": []}, "command must be a string or a list of words"),
    ({"command": "a\0b"}, "NUL"),
    ({"command": "true", "memory_mib": 1000}, "wants 1000 MiB, and 64 MiB are left"),
    ({"command": "true", "environment": "none-such"}, "no environment 'none-such'"),
    ({"command": "true", "env": {"a b": "c"}}, "no name for an environment variable"),
    ({"command": ["no-such-program"]}, "there is no 'no-such-program' that can be run"),
]


def test_a_student_that_cannot_be_run_is_an_error_that_the_grader_hears(fake: FakeEngineServer) -> None:
    started = [asked["command"] == ["no-such-program"] for asked, _ in REFUSED]  # its container is
    wishes = [(said(type="student", id=1, **asked), until(1 + first)) for (asked, _), first in zip(REFUSED, started, strict=True)]
    for result, (_, reason) in zip(all_graded(fake, wishes), REFUSED, strict=True):
        assert result.outcome is Outcome.SUCCESS, (result, reason)
        end = heard(result)[-1]
        assert (end["outcome"], end["exit_code"]) == ("error", None) and reason in str(end["text"])


def test_more_students_than_may_ever_run_are_refused_without_a_thread_for_each(fake: FakeEngineServer) -> None:
    asked = [said(type="student", id=number, command="sleep 1000", memory_mib=16) for number in range(1, 21)]
    result = graded(fake, *asked, until(12), grader=Grader("true", most_students=1))
    ends = [message for message in heard(result) if message["type"] == "end"]
    assert len(ends) >= 11
    assert all(end["outcome"] == "error" for end in ends)


REQUEST = RunStudent(id=1, command="true", env={})


def program_of(sent: list[bytes], number: int = 1) -> StudentProgram:
    """Its messages and its output are kept in ``sent``."""
    return StudentProgram(
        replace(REQUEST, id=number), send=sent.append, send_output=lambda line: sent.append(line) is None, max_output_bytes=10
    )


def test_input_that_a_student_does_not_take_is_bounded() -> None:
    told: list[bytes] = []
    program = program_of(told)
    assert [program.write_stdin(bytes(500_000)) for _ in range(3)] == [True, True, False]

    program.report_end(Outcome.KILLED)

    end = json.loads(told[-1])
    assert (end["outcome"], end["text"]) == ("error", "more of its standard input was sent than it takes")


def test_output_past_its_limit_is_not_relayed() -> None:
    told: list[bytes] = []
    program = program_of(told)
    assert all(program.send_output(False, b"1234") for _ in range(5))
    assert [base64.b64decode(json.loads(line)["data"]) for line in told] == [b"1234", b"1234", b"12"]


def test_a_student_that_prints_faster_than_its_grader_reads_is_an_overflow_and_its_job_goes_on() -> None:
    # given: a supervisor that reads nothing
    all_of_them = students()
    told: list[bytes] = []
    flood = StudentProgram(REQUEST, send=told.append, send_output=all_of_them._send_output, max_output_bytes=2**30)
    # when:
    piece = bytes(2**20)
    sent = [flood.send_output(False, piece) for _ in range(100)]
    # then: it is to be stopped, no more is kept for it, and there is room for the end of it and of others
    assert sent[0] and not sent[-1]
    flood.report_end(Outcome.KILLED, "the grader has ended, or ended it")
    end = json.loads(told[-1])
    assert (end["outcome"], end["text"]) == ("overflow", "64 MiB of what it printed wait for its grader to read them")
    all_of_them._send(told[-1])
    assert not all_of_them._ended.is_set()
    # but not for ever more
    for _ in range(4 * 2**20 // len(told[-1])):
        all_of_them._send(told[-1])
    assert all_of_them._ended.is_set()


class _Removes:
    """An engine that can do no more than take something away."""

    def remove(self, container: str) -> None: ...

    def close(self) -> None: ...


def students(connect: Callable[[], object] = _Removes, *, taken_over: bool = False) -> StudentContainers:
    grading = GradingSettings(images={"": "x"}, cpu_time_s=1, memory_mib=64, network="off", most_students=1)
    job = MonitorContainer(
        job_id="j",
        container_id="g",
        container_name="g",
        token="t",
        command="true",
        env={},
        files={},
        stdin=None,
        limits=LIMITS,
        collect=(),
        grading=grading,
        taken_over=taken_over,
    )
    made = StudentContainers(job, connect=connect, host_lost_timeout_s=1, monitors=None)  # type: ignore[arg-type]
    made.attach_to(ContainerMonitor(job, _Removes(), host_lost_timeout_s=1, send=lambda _: None))  # type: ignore[arg-type]
    return made


def test_a_student_that_is_killed_while_it_waits_for_its_place_gets_no_container() -> None:
    told: list[bytes] = []
    all_of_them = students()
    student = StudentContainer(program_of(told), all_of_them._owner)
    assert all_of_them._add(student)
    student.kill()

    all_of_them._run(student)

    assert [json.loads(line)["outcome"] for line in told] == ["killed"]
    assert all_of_them._owner.budget.allocate(REQUEST).limits.memory_mib == 64  # nothing is taken any more


@pytest.mark.case(53)
def test_a_student_for_which_no_thread_can_be_had_costs_its_job_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    all_of_them, told = students(), []
    monkeypatch.setattr(all_of_them, "_send", told.append)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        all_of_them.on_message(RunStudent(id=1, command="true", env={}))

    end = json.loads(told[-1])
    assert (end["outcome"], end["text"]) == ("crash", "can't start new thread")
    assert not all_of_them._running
    all_of_them.close()


def test_the_budget_of_a_student_whose_engine_cannot_even_be_asked_comes_back() -> None:
    all_of_them, told = students(), []

    def cannot() -> Engine:
        raise ValueError("odd")

    all_of_them._connect = cannot
    for number in (1, 2):
        student = StudentContainer(program_of(told, number), all_of_them._owner)
        assert all_of_them._add(student)
        all_of_them._run(student)

    assert [json.loads(line)["text"] for line in told] == ["ValueError: odd"] * 2


def test_a_student_ends_with_its_job(fake: FakeEngineServer) -> None:
    result = graded(fake, said(type="student", id=1, command="sleep 1000"), until(1))
    assert result.outcome is Outcome.SUCCESS
    assert [message["type"] for message in heard(result)] == ["started"]


def test_a_grading_job_whose_engine_dies_is_a_crash_and_leaves_nothing(fake: FakeEngineServer) -> None:
    results: list[JobResult] = []
    files = {"supervisor": "\n".join([said(type="student", id=1, command="sleep 1000"), "sleep 1000"])}
    with JobManager(fake.url) as manager:
        manager.new_job(Task(GRADING, grader=Grader("true"), files=files, limits=LIMITS), callback=results.append)
        eventually(lambda: len(fake.containers()) == 2, what="its student runs")
        fake.faults.stop(keep_running=False)
        fake.faults.start_again()
        eventually(lambda: results, within_s=40)
        eventually(lambda: not fake.containers(), what="no container is left")
    assert results[0].outcome is Outcome.CRASH


# ---- whose is what


def made(engine: Engine, name: str, *, labels: dict[str, str], shared: str = "") -> str:
    """A container with a folder of its own to share, or with another one's."""
    kind = {"shared_volume": shared, "shares": not shared}
    spec = ContainerSpec(name=name, image=STUDENT, labels=labels, limits=LIMITS, workspace="/task", **kind)  # type: ignore[arg-type]
    engine.create(spec, ImageDefaults(command=(), volumes=()))
    return engine.inspect(name).volumes.get("/task/student", "")


def pair(engine: Engine, **labels: str) -> None:
    """A grading container and its student."""
    owned = {MANAGER_LABEL: "m", **labels}
    shared = made(engine, "g", labels=owned)
    made(engine, "g-s1", labels={**owned, STUDENT_LABEL: "g"}, shared=shared)


def test_a_waiter_takes_no_student_of_a_living_job_for_a_stray(fake: FakeEngineServer, engine: Engine) -> None:
    pair(engine)
    sent: list[object] = []
    settings = WaiterSettings(
        address=Address(host="fake", url=fake.url),
        manager_id="m",
        owner="",
        monitors_host=True,
        engine_timeout_s=10,
        host_lost_timeout_s=10,
        host_check_interval_s=10,
        reconcile_interval_s=10,
    )
    waiter = Waiter(settings, sent.append)

    waiter._compare(engine, waiter._compare(engine, set()))
    assert sent == [UnknownContainers(names=("g",))]

    engine.remove("g-s1")
    shared = engine.inspect("g").volumes["/task/student"]
    made(engine, "other-s1", labels={MANAGER_LABEL: "m", STUDENT_LABEL: "other"}, shared=shared)
    sent.clear()
    waiter._compare(engine, waiter._compare(engine, set()))
    assert sent == [UnknownContainers(names=("g", "other-s1"))]
    engine.remove("other-s1")
    engine.remove("g")


def test_a_deleter_removes_students_that_outlived_their_waiter(engine: Engine) -> None:
    pair(engine)
    assert delete(engine, "g", "m", is_ours=True) == ContainerRemoved()
    assert engine.list({MANAGER_LABEL: None}) == []
    assert engine.volumes({MANAGER_LABEL: None}) == []


def test_a_waiter_that_takes_over_removes_the_students_of_the_dead_one_when_the_link_breaks(
    fake: FakeEngineServer, engine: Engine
) -> None:
    pair(engine)
    taken_over = students(lambda: connect(Address(host="fake", url=fake.url), timeout_s=10), taken_over=True)
    taken_over.on_disconnect()
    taken_over.close()
    assert [left.name for left in engine.list({MANAGER_LABEL: "m"})] == ["g"]
    engine.remove("g")


def test_a_request_that_comes_while_its_job_ends_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    all_of_them, told = students(), []
    monkeypatch.setattr(all_of_them, "_send", told.append)
    all_of_them._ended.set()  # and others were killed, before it was one of them

    all_of_them._run_student(REQUEST)
    all_of_them.close()

    assert [json.loads(line)["outcome"] for line in told] == ["killed"]


def test_a_sweep_removes_students_first(engine: Engine) -> None:
    pair(engine, **{OWNER_LABEL: "another-boot/1/1/1"})
    found = survey(engine, closed_managers={"m"})
    assert [leftover.name for leftover in found.leftovers] == ["g-s1", "g"]
