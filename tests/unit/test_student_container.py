"""The life of a student container on the fake engine, killed at each moment of it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from jobmanager import Limits
from jobmanager.engine.connect import connect
from jobmanager.engine.labels import JOB_LABEL, MANAGER_LABEL, STUDENT_LABEL
from jobmanager.engine.protocol import Engine, EngineFailed
from jobmanager.engine.runner_volume import RunnerVolumes
from jobmanager.grading.link import RunStudent
from jobmanager.ipc.messages import ContainerRemoved, GradingSettings, MonitorContainer, RemovalFailed
from jobmanager.model.container import ContainerSpec, ImageDefaults
from jobmanager.model.container_states import ContainerAction, ContainerEvent, ContainerState
from jobmanager.model.host import Address
from jobmanager.model.limits import OnOutputLimit
from jobmanager.testing import FakeEngineServer
from jobmanager.watching import student_container
from jobmanager.watching.monitor import ContainerMonitor
from jobmanager.watching.student_budget import StudentBudget
from jobmanager.watching.student_container import GradingContainer, StudentContainer
from jobmanager.watching.student_program import StudentProgram

IMAGE = "busybox"
LIMITS = Limits(wall_time_s=20, memory_mib=64)
REQUEST = RunStudent(id=1, command="echo hello", env={})
LABELS = {MANAGER_LABEL: "m", JOB_LABEL: "j"}
START_UNTIL = {  # what is called on the engine until the container waits for its run
    "inspect",  # the grading container
    "info",
    "image_defaults",
    "create",
    "start",
}


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeEngineServer]:
    """With the runner's volume: each test counts what is called, and must not be the one that brings it."""
    with FakeEngineServer(images=[IMAGE]) as server:
        with closing(connect(Address(host="fake", url=server.url), timeout_s=10)) as engine:
            runners = RunnerVolumes.of_owner(LABELS)
            runners.ensure(engine, "fake")
            runners.release(engine, "fake")
        yield server


class TurningEngine:
    """An engine that does what a test wants before its calls."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.calls: list[str] = []
        self.before: Callable[[str], None] = lambda _: None

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._engine, name)

        def call(*args: object, **kwargs: object) -> object:
            self.calls.append(name)
            self.before(name)
            return real(*args, **kwargs)

        return call


@pytest.fixture
def engine(fake: FakeEngineServer) -> Iterator[TurningEngine]:
    """With a grading container."""
    real = connect(Address(host="fake", url=fake.url), timeout_s=10)
    spec = ContainerSpec(name="g", image=IMAGE, labels=LABELS, limits=LIMITS, workspace="/task", shares=True)
    real.create(spec, ImageDefaults(command=(), volumes=()))
    yield TurningEngine(real)
    real.remove("g")
    RunnerVolumes.of_owner(LABELS).release(real, "fake")
    assert real.list({}) == [] and real.volumes({MANAGER_LABEL: None}) == []
    real.close()


class Registered:
    """A waiter's monitors."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def register(self, name: str, _: ContainerMonitor) -> None:
        self.names.add(name)

    def unregister(self, name: str) -> None:
        self.names.remove(name)


class WatchedStudent(StudentContainer):
    """It tells its states, and is killed as soon as it is in a certain one."""

    def __init__(
        self,
        owner: GradingContainer,
        request: RunStudent = REQUEST,
        kill_in: ContainerState | None = None,
        *,
        when_ended: Callable[[int], object] | None = None,
    ) -> None:
        """``when_ended``: the container is kept, and this is called with the id of each program that has ended."""
        self.heard: list[dict[str, Any]] = []
        self.when_ended = when_ended
        super().__init__(self.program_for(request), owner, is_kept=when_ended is not None)
        self.way = [self.state]
        self._kill_in = kill_in

    def program_for(self, request: RunStudent) -> StudentProgram:
        return StudentProgram(request, send=self.hear, send_output=self.hear, max_output_bytes=2**20)

    def hear(self, line: bytes) -> bool:
        message = json.loads(line)
        self.heard.append(message)
        if message["type"] == "end" and self.when_ended is not None:
            self.when_ended(message["id"])
        return True

    def _apply(self, event: ContainerEvent) -> bool:
        changes = super()._apply(event)
        if changes and self.way[-1] is not self.state:
            self.way.append(self.state)
            if self.state is self._kill_in:
                self.kill()
        return changes

    @property
    def way_names(self) -> str:
        return " ".join(state.name for state in self.way)

    def ends(self) -> list[str]:
        return [message["outcome"] for message in self.heard if message["type"] == "end"]

    def has_started(self) -> bool:
        return any(message["type"] == "started" for message in self.heard)


def owner_of(budget: StudentBudget | None = None, limits: Limits = LIMITS) -> GradingContainer:
    """With room for one student at a time."""
    settings = GradingSettings(images={"": IMAGE}, cpu_time_s=20, memory_mib=64, network="off", most_students=1)
    job = MonitorContainer(
        job_id="j",
        container_id="g",
        container_name="g",
        command="true",
        env={},
        files={},
        stdin=None,
        limits=limits,
        collect=(),
        grading=settings,
    )
    budget = budget or StudentBudget(
        limits, cpu_time_s=20, memory_mib=64, most_students=1, wall_time_left_s=lambda: 20.0, wait_s=0.0
    )
    runners = RunnerVolumes.of_owner(LABELS)
    return GradingContainer(
        job=job, settings=settings, budget=budget, host="fake", runners=runners, host_lost_timeout_s=5, monitors=Registered()
    )


def nothing_is_left_of(student: WatchedStudent, engine: TurningEngine, owner: GradingContainer) -> bool:
    """Neither on its host nor in the budget nor in the waiter."""
    engine.before = lambda _: None
    owner.budget.allocate(replace(REQUEST, memory_mib=64))  # or it raises
    assert isinstance(owner.monitors, Registered)
    return not owner.monitors.names and not engine.list({STUDENT_LABEL: None}) and not student._due


FULL_WAY = "WANTED STARTING READY BUSY SPENT REMOVING GONE"


def test_its_way_is_that_of_any_container(engine: TurningEngine) -> None:
    owner = owner_of()
    student = WatchedStudent(owner)
    student.run(engine)  # type: ignore[arg-type]
    assert student.way_names == FULL_WAY
    assert student.ends() == ["success"]
    assert nothing_is_left_of(student, engine, owner)


@pytest.mark.parametrize(
    ("command", "word", "outcome", "printed", "is_cut"),
    [
        (f"echo {'x' * 3000}; exit 4", "stop", "overflow", 1024, True),
        (f"echo {'x' * 3000}; exit 4", "truncate", "failed", 1024, True),
        ("echo hello; exit 4", "truncate", "failed", 6, False),
    ],
)
def test_output_past_the_limit_stops_it_or_is_dropped_and_its_grader_hears_of_that(
    engine: TurningEngine, command: str, word: OnOutputLimit, outcome: str, printed: int, is_cut: bool
) -> None:
    owner = owner_of(limits=replace(LIMITS, output_kib=1, on_output_limit=word))
    student = WatchedStudent(owner, replace(REQUEST, command=command))
    student.run(engine)  # type: ignore[arg-type]
    (end,) = [message for message in student.heard if message["type"] == "end"]
    assert (end["outcome"], end["output_cut"]) == (outcome, is_cut)
    data = [base64.b64decode(message["data"]) for message in student.heard if message["type"] == "output"]
    assert sum(map(len, data)) == printed
    assert nothing_is_left_of(student, engine, owner)


def test_every_action_of_the_table_is_carried_out_but_for_one() -> None:
    """A student's waiter is its owner's, so no other can follow it."""
    actions = set(WatchedStudent(owner_of())._actions) | {ContainerAction.KILL}
    assert actions == set(ContainerAction) - {ContainerAction.REASSIGN}


# ---- killed at each moment

KILLED_IN = [  # the state, the way from then on, its outcome, whether its program started
    (ContainerState.WANTED, "WANTED GONE", "killed", False),
    (ContainerState.STARTING, "WANTED STARTING UNWANTED REMOVING GONE", "killed", False),
    (ContainerState.READY, "WANTED STARTING READY REMOVING GONE", "killed", False),
    (ContainerState.BUSY, "WANTED STARTING READY BUSY SPENT REMOVING GONE", "killed", None),
    (ContainerState.SPENT, FULL_WAY, "success", True),
    (ContainerState.REMOVING, FULL_WAY, "success", True),
    (ContainerState.GONE, FULL_WAY, "success", True),
]


@pytest.mark.parametrize(("state", "way", "outcome", "started"), KILLED_IN, ids=lambda value: getattr(value, "name", None))
def test_a_kill_is_an_event_of_the_table_in_each_state(
    engine: TurningEngine, state: ContainerState, way: str, outcome: str, started: bool | None
) -> None:
    owner = owner_of()
    student = WatchedStudent(owner, kill_in=state)
    if state is ContainerState.WANTED:
        student.kill()
    told_before_removal: list[bool] = []
    engine.before = lambda name: told_before_removal.append(bool(student.ends())) if name == "remove" else None
    student.run(engine)  # type: ignore[arg-type]
    assert student.way_names == way
    assert student.ends() == [outcome]
    assert told_before_removal == [True] * ("REMOVING" in way), "a grader does not wait for the removal"
    assert state is not ContainerState.WANTED or engine.calls == []
    assert started in (None, student.has_started())
    assert nothing_is_left_of(student, engine, owner)


def kill_from_another_thread(student: StudentContainer) -> None:
    killing = threading.Thread(target=student.kill)
    killing.start()
    killing.join(5.0)
    assert not killing.is_alive(), "a kill blocks nobody"


def test_a_kill_during_any_call_of_its_engine_gives_one_end_and_leaves_nothing(engine: TurningEngine) -> None:
    number, was_killed = 0, True
    while was_killed:
        owner, was_killed = owner_of(), False
        student = WatchedStudent(owner, replace(REQUEST, id=number + 1))
        engine.calls.clear()

        def kill_at(name: str, number: int = number, student: WatchedStudent = student) -> None:
            nonlocal was_killed
            if len(engine.calls) == number + 1 and not was_killed:
                was_killed = True
                kill_from_another_thread(student)

        engine.before = kill_at
        student.run(engine)  # type: ignore[arg-type]
        killed_at = engine.calls[number] if was_killed else ""
        assert len(student.ends()) == 1, (killed_at, student.heard)
        if killed_at in START_UNTIL and number < len(START_UNTIL):
            assert student.ends() == ["killed"] and not student.has_started(), (killed_at, student.heard)
        assert nothing_is_left_of(student, engine, owner), killed_at
        number += 1
    assert number > len(START_UNTIL) + 2


def test_a_kill_while_its_program_runs_ends_it(engine: TurningEngine) -> None:
    owner = owner_of()
    student = WatchedStudent(owner, replace(REQUEST, command="echo ready; sleep 1000"))
    printed = threading.Event()
    student.program._send_output = lambda _: printed.set() is None
    running = threading.Thread(target=student.run, args=(engine,))
    running.start()
    assert printed.wait(10.0)
    student.kill()
    running.join(10.0)
    assert not running.is_alive()
    assert (student.ends(), student.way_names) == (["killed"], FULL_WAY)
    assert nothing_is_left_of(student, engine, owner)


def test_whoever_asks_for_the_place_of_one_that_is_killed_waits_for_it(engine: TurningEngine) -> None:
    budget = StudentBudget(LIMITS, cpu_time_s=20, memory_mib=64, most_students=1, wall_time_left_s=lambda: 20.0, wait_s=10.0)
    owner = owner_of(budget)
    first = WatchedStudent(owner, replace(REQUEST, command="sleep 1000"))
    running = threading.Thread(target=first.run, args=(engine,))
    started = threading.Event()
    first.program.on_start = started.set  # type: ignore[method-assign]
    running.start()
    assert started.wait(10.0)
    first.kill()
    assert budget.allocate(REQUEST).limits.memory_mib == 64
    running.join(10.0)
    assert first.state is ContainerState.GONE


# ---- what fails


def test_one_that_cannot_be_started_is_removed(engine: TurningEngine) -> None:
    def fails(name: str) -> None:
        if name == "start":
            raise EngineFailed("no space left on device")

    owner = owner_of()
    student = WatchedStudent(owner)
    engine.before = fails
    student.run(engine)  # type: ignore[arg-type]
    assert student.way_names == "WANTED STARTING REMOVING GONE"
    assert student.heard[-1]["text"] == "the student container could not be started: no space left on device"
    assert nothing_is_left_of(student, engine, owner)


def test_one_for_which_there_is_no_room_asks_nothing_of_its_host(engine: TurningEngine) -> None:
    owner = owner_of()
    owner.budget.allocate(REQUEST)
    student = WatchedStudent(owner)
    student.run(engine)  # type: ignore[arg-type]
    assert (student.way_names, student.ends(), engine.calls) == ("WANTED GONE", ["error"], [])


@pytest.mark.parametrize("call", ["create", "open_channel", "remove"])
def test_a_bug_in_any_step_costs_one_end_and_no_place(engine: TurningEngine, call: str) -> None:
    raised = []

    def fails(name: str) -> None:
        if name == call and not raised:
            raised.append(name)
            raise ValueError("odd")

    owner = owner_of()
    student = WatchedStudent(owner)
    engine.before = fails
    student.run(engine)  # type: ignore[arg-type]
    assert raised and student.ends() == ["success" if call == "remove" else "crash"]
    assert student.state is ContainerState.GONE
    assert nothing_is_left_of(student, engine, owner)


def test_a_container_of_that_name_that_is_not_ours_is_left_alone(engine: TurningEngine) -> None:
    other = ContainerSpec(name="g-s1", image=IMAGE, labels={}, limits=LIMITS, workspace="/task")
    engine.create(other, ImageDefaults(command=(), volumes=()))
    student = WatchedStudent(owner_of())
    student.run(engine)  # type: ignore[arg-type]
    assert student.heard[-1]["text"].endswith("a container that is not ours has the name g-s1")
    assert engine.inspect("g-s1").labels.get(MANAGER_LABEL) is None
    engine.remove("g-s1")


REPLIES = [
    ([RemovalFailed(reason="busy"), ContainerRemoved()], 2, ContainerState.GONE),
    ([RemovalFailed(reason="busy")] * 9, 3, ContainerState.REMOVING),
    ([RemovalFailed(reason="busy", only_volume_left=True)] * 9, 3, ContainerState.GONE),
    ([RemovalFailed(reason="busy", only_volume_left=True), ContainerRemoved()], 2, ContainerState.GONE),
]


@pytest.mark.parametrize(("replies", "tries", "state"), REPLIES)
def test_removal_is_tried_again_but_not_for_ever_and_its_place_is_free_then(
    engine: TurningEngine,
    monkeypatch: pytest.MonkeyPatch,
    replies: list[ContainerRemoved | RemovalFailed],
    tries: int,
    state: ContainerState,
) -> None:
    left = iter(replies)
    monkeypatch.setattr(student_container, "delete", lambda *_, **__: next(left))
    monkeypatch.setattr(student_container, "_REMOVAL_PAUSE_S", 0.0)
    owner = owner_of()
    student = WatchedStudent(owner)
    student.run(engine)  # type: ignore[arg-type]
    assert (len(replies) - len(list(left)), student.state) == (tries, state)
    engine.remove("g-s1")
    assert nothing_is_left_of(student, engine, owner)


# ---- kept, for one program after the other


def test_the_next_program_may_come_while_the_end_of_the_one_before_is_told(engine: TurningEngine) -> None:
    owner = owner_of()

    def ended(number: int) -> None:
        if number == 10:
            student.kill()
        else:
            assert student.give(student.program_for(replace(REQUEST, id=number + 1)))
            assert not student.give(student.program_for(replace(REQUEST, id=99))), "one at a time"

    student = WatchedStudent(owner, when_ended=ended)
    student.run(engine)  # type: ignore[arg-type]
    assert student.ends() == ["success"] * 10
    assert (engine.calls.count("create"), student.way_names) == (1, FULL_WAY)
    assert student.is_over and not student.give(student.program)
    assert nothing_is_left_of(student, engine, owner)


def test_each_program_has_limits_of_its_own_within_the_budget_that_is_left(engine: TurningEngine) -> None:
    budget = StudentBudget(LIMITS, cpu_time_s=2, memory_mib=64, most_students=1, wall_time_left_s=lambda: 20.0, wait_s=0.0)
    owner = owner_of(budget)
    commands = ["exit 3", "sleep 60", "true", "true"]

    def ended(number: int) -> None:
        if number == len(commands):
            student.kill()
        else:
            request = replace(REQUEST, id=number + 1, command=commands[number], wall_time_s=0.3)
            assert student.give(student.program_for(request))

    student = WatchedStudent(owner, replace(REQUEST, command=commands[0]), when_ended=ended)
    student.run(engine)  # type: ignore[arg-type]
    assert student.ends() == ["failed", "timeout", "success", "success"]
    assert [message["text"] for message in student.heard if message["type"] == "end"][1] == "wall clock limit of 0.3 s reached"
    assert nothing_is_left_of(student, engine, owner)


def test_a_program_for_which_no_time_is_left_ends_alone(engine: TurningEngine) -> None:
    left = [20.0]
    budget = StudentBudget(LIMITS, cpu_time_s=20, memory_mib=64, most_students=1, wall_time_left_s=lambda: left[0], wait_s=0.0)
    owner = owner_of(budget)

    def ended(number: int) -> None:
        left[0] = 0.0 if number == 1 else 20.0
        if number == 3:
            student.kill()
        else:
            assert student.give(student.program_for(replace(REQUEST, id=number + 1)))

    student = WatchedStudent(owner, when_ended=ended)
    student.run(engine)  # type: ignore[arg-type]
    assert student.ends() == ["success", "timeout", "success"]
    assert nothing_is_left_of(student, engine, owner)


@pytest.mark.parametrize("lost", ["removed", "cannot be cleared"])
def test_a_program_for_which_its_container_cannot_be_used_is_handed_back(
    engine: TurningEngine, fake: FakeEngineServer, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, second = owner_of(), replace(REQUEST, id=2)

    def ended(number: int) -> None:
        if lost == "removed":
            fake.faults.remove_container("g-s1")
        else:
            monkeypatch.setattr(student_container, "SHM", "/.jobmanager")  # nobody can empty it
        threading.Timer(0.3, lambda: student.give(student.program_for(second))).start()

    student = WatchedStudent(owner, when_ended=ended)
    student.run(engine)  # type: ignore[arg-type]
    if lost == "removed":
        assert student.refused is None and not student.give(student.program_for(second))
    else:
        refused = student.take_refused()
        assert refused is not None and refused.request == second
        assert refused.write_stdin(b"its input") and list(refused.input.due(1)), "it can be given to another one"
    assert student.ends() == ["success"]
    assert nothing_is_left_of(student, engine, owner)
