"""Student containers on the fake engine, where a supervisor of a few lines says what no good supervisor would."""

from __future__ import annotations

import base64
import json
import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import jobmanager.grading
from jobmanager import DockerHost, Grader, JobManager, JobResult, Limits, Outcome, Task
from jobmanager._deleter import delete
from jobmanager._waiter import Waiter
from jobmanager.engine.connect import connect
from jobmanager.engine.labels import MANAGER_LABEL, OWNER_LABEL, STUDENT_LABEL
from jobmanager.engine.leftovers import survey
from jobmanager.engine.protocol import Engine
from jobmanager.engine.runner_volume import RunnerVolumes
from jobmanager.grading.bundle import supervisor_command
from jobmanager.grading.link import RunStudent, output_message
from jobmanager.ipc.messages import ContainerRemoved, GradingSettings, MonitorContainer, UnknownContainers, WaiterSettings
from jobmanager.model.container import ContainerSpec, ImageDefaults
from jobmanager.model.host import Address
from jobmanager.testing import FakeEngineServer
from jobmanager.testing.steps import Echo, Exit, Print, ProgramStep, Receive, Send, Sleep, WriteFile
from jobmanager.watching.monitor import ContainerMonitor
from jobmanager.watching.student_container import StudentContainer
from jobmanager.watching.student_program import StudentProgram
from jobmanager.watching.students import StudentContainers
from tests.conftest import eventually

sys.path.insert(0, str(Path(jobmanager.grading.__file__).parent / "container" / "lib"))
from jobmanager_grading import messages as container_messages  # what runs in the container, and is no module of ours

GRADING, STUDENT = "graders", "busybox"
LIMITS = Limits(wall_time_s=20, memory_mib=64)
SUCCEEDS = WriteFile(".jobmanager/result.json", '{"result": "success"}')
FOREVER = Sleep(math.inf)


@pytest.fixture
def fake() -> Iterator[FakeEngineServer]:
    with FakeEngineServer(images=[GRADING, STUDENT]) as server:
        yield server


@pytest.fixture
def engine(fake: FakeEngineServer) -> Iterator[Engine]:
    engine = connect(Address(host="fake", url=fake.url), timeout_s=10)
    yield engine
    engine.close()


def said(**message: object) -> Send:
    return Send(message)


def asked(number: int = 1, command: object = "sleep 1000", **fields: object) -> Send:
    return said(type="student", id=number, command=command, **fields)


def graded(*steps: ProgramStep, grader: Grader | None = None) -> JobResult:
    """A job whose container has this in the supervisor's place."""
    return all_graded([steps], grader=grader)[0]


def all_graded(supervisors: Sequence[Sequence[ProgramStep]], *, grader: Grader | None = None) -> list[JobResult]:
    """The same for several jobs, at once."""
    graders = [replace(grader or Grader("true"), run=f"grader {number}") for number in range(len(supervisors))]
    programs: dict[str, Sequence[ProgramStep]] = {
        " ".join(supervisor_command(grader.run)): [*steps, SUCCEEDS] for grader, steps in zip(graders, supervisors, strict=True)
    }
    programs["talks"] = [Echo(), Print("err\n", stderr=True), Exit(3)]
    with (
        FakeEngineServer(images=[GRADING, STUDENT], programs=programs) as fake,
        JobManager(DockerHost(fake.url, max_concurrent_jobs=20)) as manager,
    ):
        jobs = [manager.submit(Task(GRADING, grader=each, limits=LIMITS)) for each in graders]
        results = [job.result(60) for job in jobs]
        eventually(lambda: not fake.containers(), what="no container is left")
    return results


def heard(result: JobResult) -> list[dict[str, object]]:
    """What the supervisor heard."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_students_streams_and_end_reach_the_supervisor() -> None:
    result = graded(
        asked(command=["talks"], environment=STUDENT),
        Receive(),
        said(type="stdin", id=1, data=base64.b64encode(b"in\n").decode()),
        said(type="stdin", id=1, data=""),
        Receive(4),
    )

    assert result.outcome is Outcome.SUCCESS, result
    messages = heard(result)
    assert messages[0] == {"type": "started", "id": 1}
    printed = {(message["stderr"], message["data"]) for message in messages if message["type"] == "output"}
    assert printed == {(False, base64.b64encode(b"in\n").decode()), (True, base64.b64encode(b"err\n").decode())}
    assert {"type": "taken", "id": 1, "bytes": 3} in messages
    end = messages[-1]
    assert (end["type"], end["outcome"], end["exit_code"], end["signal"], end["text"]) == ("end", "failed", 3, None, "exit code 3")


NONSENSE = [
    ([Send(b"\0none", is_whole=False)], "no JSON"),
    ([Send(b"\2{}", is_whole=False)], "no message"),
    ([Send(b"", is_whole=False)], "no message"),
    ([said(type="student", command="true")], "without an id"),
    ([said(type="stdin", id=7, data="")], "student 7, which it never asked for"),
    ([said(type="kill", id=7)], "student 7, which it never asked for"),
    ([asked(1), asked(1)], "student 1 twice"),
    ([asked(2), asked(1)], "student 1 twice"),
    ([asked(1), said(type="dance", id=1)], "of the type 'dance'"),
]


def test_a_supervisor_that_makes_no_sense_ends_its_job_as_error() -> None:
    results = all_graded([[*steps, FOREVER] for steps, _ in NONSENSE])
    for result, (_, reason) in zip(results, NONSENSE, strict=True):
        assert (result.outcome, result.grade) == (Outcome.ERROR, 0), (result, reason)
        assert reason in result.text


@pytest.mark.parametrize("then", [[FOREVER], []], ids=["waits", "goes on"])
def test_a_grader_that_wants_what_there_is_not_ends_its_job_as_error_whatever_it_does_then(then: list[ProgramStep]) -> None:
    result = graded(said(type="unsupported", id=1, reason="a session: there are none"), *then)
    assert (result.outcome, result.grade, result.evidence[0].kind) == (Outcome.ERROR, 0, "protocol_error"), result
    assert result.text == "the grading container was stopped: a session: there are none"


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"command": []}, "command must be a string or a list of words"),
    ({"command": "a\0b"}, "NUL"),
    ({"command": "true", "memory_mib": 1000}, "wants 1000 MiB, and 64 MiB are left"),
    ({"command": "true", "environment": "none-such"}, "no environment 'none-such'"),
    ({"command": "true", "env": {"a b": "c"}}, "no name for an environment variable"),
    ({"command": ["no-such-program"]}, "there is no 'no-such-program' that can be run"),
]


def test_a_student_that_cannot_be_run_is_an_error_that_the_grader_hears() -> None:
    for result, (_, reason) in zip(all_graded([[asked(**wish), Receive()] for wish, _ in REFUSED]), REFUSED, strict=True):
        assert result.outcome is Outcome.SUCCESS, (result, reason)
        (end,) = heard(result)
        assert (end["outcome"], end["exit_code"]) == ("error", None) and reason in str(end["text"])


def test_a_students_exit_code_is_not_mixed_up_with_a_signal() -> None:
    results = all_graded([[asked(command=command), Receive(2)] for command in ("exit 139", "kill -SEGV $$")])
    ends = [heard(result)[-1] for result in results]
    assert [(end["outcome"], end["exit_code"], end["signal"]) for end in ends] == [
        ("failed", 139, None),
        ("failed", None, "SIGSEGV"),
    ]


def test_more_students_than_may_ever_run_are_refused_without_a_thread_for_each() -> None:
    wishes = [asked(number, memory_mib=16) for number in range(1, 21)]
    result = graded(*wishes, Receive(12), grader=Grader("true", most_students=1))
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


def test_input_goes_to_the_pump_and_its_end_comes_last() -> None:
    program, woken = program_of([]), []
    program.attach_to(wake=lambda: woken.append(1), kill=lambda: None)
    assert program.write_stdin(b"abc") and program.write_stdin(b"")
    assert [(piece.data, piece.last) for piece in program.input.due(1)] == [(b"abc", True)]
    assert len(woken) == 2


def test_what_a_student_has_taken_is_told() -> None:
    told: list[bytes] = []
    program = program_of(told)
    program.write_stdin(b"abcdef")
    program.input.due(1)
    for total in (2, 2, 6):
        program.input.taken(total)
    assert [json.loads(line)["bytes"] for line in told] == [2, 4]


def test_output_past_its_limit_is_not_relayed() -> None:
    told: list[bytes] = []
    program = program_of(told)
    for _ in range(5):
        program.on_output(False, b"1234")
    assert [base64.b64decode(json.loads(line)["data"]) for line in told] == [b"1234", b"1234", b"12"]


def test_a_student_that_prints_faster_than_its_grader_reads_is_an_overflow_and_its_job_goes_on() -> None:
    # given: a supervisor that reads nothing
    all_of_them = students()
    told: list[bytes] = []
    killed: list[int] = []
    printed = 0
    flood = StudentProgram(REQUEST, send=told.append, send_output=all_of_them._send_output, max_output_bytes=2**30)
    flood.attach_to(wake=lambda: None, kill=lambda: killed.append(printed))
    # when:
    while printed < 100:
        flood.on_output(False, bytes(2**20))
        printed += 1
    # then: it is stopped once, no more is kept for it, and there is room for the end of it and of others
    assert len(killed) == 1 and 40 <= killed[0] <= 50, "64 MiB as base64"
    flood.report_end(Outcome.KILLED, "the grader has ended, or ended it")
    end = json.loads(told[-1])
    assert (end["outcome"], end["text"]) == ("overflow", "64 MiB of what it printed wait for its grader to read them")
    all_of_them._send(told[-1])
    assert not all_of_them.cut_off
    # but not for ever more
    for _ in range(4 * 2**20 // len(told[-1])):
        all_of_them._send(told[-1])
    assert all_of_them.cut_off


def test_the_pieces_of_two_messages_are_not_mixed_up() -> None:
    all_of_them, buffer = students(), container_messages.PieceBuffer()
    threads = [
        threading.Thread(target=all_of_them._send_output, args=(output_message(number, False, bytes([number]) * 200_000),))
        for number in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = []
    while sent := all_of_them.messages.due(1):
        whole += [message for piece in sent if (message := buffer.feed(piece.data)) is not None]
        all_of_them.messages.taken(sent[-1].number + 1)
    read = sorted((message["id"], base64.b64decode(message["data"])) for message in map(json.loads, whole))
    assert read == [(number, bytes([number]) * 200_000) for number in range(1, 9)]


class _Removes:
    """An engine that can do no more than take something away."""

    def remove(self, container: str) -> None: ...

    def list(self, labels: object) -> list[object]:
        return []

    def close(self) -> None: ...


class WatchedStudents(StudentContainers):
    """It tells how often it has had its job ended, as its grader cannot go on."""

    def attach_to(self, monitor: ContainerMonitor) -> None:
        super().attach_to(monitor)
        self.cut_off = 0
        self._end_for_lost_link = self._count

    def _count(self) -> None:
        self.cut_off += 1


def students(connect: Callable[[], object] = _Removes, *, taken_over: bool = False) -> WatchedStudents:
    grading = GradingSettings(images={"": "x"}, cpu_time_s=1, memory_mib=64, network="off", most_students=1)
    job = MonitorContainer(
        job_id="j",
        container_id="g",
        container_name="g",
        command="true",
        env={},
        files={},
        stdin=None,
        limits=LIMITS,
        collect=(),
        grading=grading,
        taken_over=taken_over,
    )
    runners = RunnerVolumes.of_owner({MANAGER_LABEL: "m"})
    made = WatchedStudents(job, host="fake", runners=runners, connect=connect, host_lost_timeout_s=1, monitors=None)  # type: ignore[arg-type]
    made.attach_to(ContainerMonitor(job, _Removes(), host_lost_timeout_s=1, send=lambda _: None))  # type: ignore[arg-type]
    return made


def test_a_student_that_is_killed_while_it_waits_for_its_place_gets_no_container() -> None:
    told: list[bytes] = []
    all_of_them = students()
    student = StudentContainer(program_of(told), all_of_them._owner)
    assert all_of_them._add(student, "")
    student.kill()

    all_of_them._run(student, "")

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
        for piece in container_messages.pieces({"type": "student", "id": 1, "command": "true"}):
            all_of_them.on_message(piece)

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
        assert all_of_them._add(student, "")
        all_of_them._run(student, "")

    assert [json.loads(line)["text"] for line in told] == ["ValueError: odd"] * 2


def test_a_student_ends_with_its_job() -> None:
    result = graded(asked(), Receive())
    assert result.outcome is Outcome.SUCCESS
    assert [message["type"] for message in heard(result)] == ["started"]


def test_a_grading_job_whose_engine_dies_is_a_crash_and_leaves_nothing() -> None:
    results: list[JobResult] = []
    with (
        FakeEngineServer(images=[GRADING, STUDENT], programs={"python3": [asked(), FOREVER]}) as fake,
        JobManager(fake.url) as manager,
    ):
        manager.new_job(Task(GRADING, grader=Grader("true"), limits=LIMITS), callback=results.append)
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


def test_a_waiter_that_takes_over_removes_the_students_of_the_dead_one_when_their_job_ends(
    fake: FakeEngineServer, engine: Engine
) -> None:
    pair(engine)
    taken_over = students(lambda: connect(Address(host="fake", url=fake.url), timeout_s=10), taken_over=True)
    taken_over.on_end()
    taken_over.close()
    assert [left.name for left in engine.list({MANAGER_LABEL: "m"})] == ["g"]
    engine.remove("g")


def tell(all_of_them: WatchedStudents, *told: dict[str, object]) -> None:
    for message in told:
        for piece in container_messages.pieces(message):
            all_of_them.on_message(piece)


def question_of(all_of_them: WatchedStudents) -> int:
    """What a waiter that takes over asks the supervisor, once the runner has told how much that has taken."""
    assert all_of_them.messages.due(1) == []
    all_of_them.messages.resume(5)
    (sent,) = all_of_them.messages.due(1)
    asked = json.loads(sent.data[1:])
    assert (sent.number, asked["type"]) == (5, "open")
    all_of_them.messages.resume(5)
    assert len(all_of_them.messages.due(1)) == 1, "it is asked once"
    return int(asked["id"])


def test_a_grader_that_has_a_student_when_its_waiter_dies_is_cut_off() -> None:
    taken_over = students(taken_over=True)
    violations: list[str] = []
    taken_over._end_for_protocol_error = violations.append  # type: ignore[method-assign, assignment]
    tell(taken_over, {"type": "student", "id": 1, "command": "true"}, {"type": "student", "id": 2, "command": "true"})
    tell(taken_over, {"type": "kill", "id": 1}, {"type": "stdin", "id": 2, "data": "no base64"})
    question = question_of(taken_over)
    assert (taken_over.cut_off, taken_over._running, violations) == (0, {}, [])
    tell(taken_over, {"type": "open", "id": question + 1, "students": [1]})  # the answer to a waiter between the two
    assert taken_over.cut_off == 0
    tell(taken_over, {"type": "open", "id": question, "students": [2]})
    assert (taken_over.cut_off, taken_over._running, violations) == (1, {}, [])
    taken_over.close()


def test_a_grader_whose_students_had_ended_is_given_new_ones_by_the_next_waiter(
    fake: FakeEngineServer, engine: Engine
) -> None:
    taken_over = students(lambda: connect(Address(host="fake", url=fake.url), timeout_s=10), taken_over=True)
    tell(taken_over, {"type": "student", "id": 1, "command": "true"})
    tell(taken_over, {"type": "open", "id": question_of(taken_over), "students": []})
    assert (taken_over.cut_off, taken_over._running) == (0, {})
    tell(taken_over, {"type": "student", "id": 2, "command": "true"})
    assert taken_over.cut_off == 0 and taken_over._highest_id == 2
    taken_over.close()



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
