"""Records as plain data: what was written is read back equal; hostile data gives a record or a clear error, and nothing else."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobmanager import (
    BatchComparison,
    BatchProgress,
    CallbackInfo,
    Case,
    CaseResult,
    Checker,
    Code,
    ComparedResult,
    Evidence,
    Exact,
    File,
    Floats,
    Grader,
    HostInfo,
    Interactor,
    JobInput,
    JobResult,
    Limits,
    Lines,
    Match,
    MultipleChoice,
    Network,
    Outcome,
    Output,
    Phase,
    PhaseResult,
    Pipeline,
    ProblemResult,
    QueueInfo,
    RunningJob,
    RunResult,
    Secret,
    Step,
    Task,
    Tokens,
    Volume,
    WaitingJob,
)  # fmt: skip
from jobmanager.control.request import job_request
from jobmanager.errors import InvalidInput, InvalidTask, InvalidValue
from jobmanager.model._forms import ContentReference, form_of
from jobmanager.model.as_data import AsData, from_data, to_data
from jobmanager.model.checks import CallersFunction
from jobmanager.model.pipeline import task_or_pipeline

LIMITS = Limits(
    cpu_time_s=1.5, wall_time_s=20, memory_mib=300, processes=7, open_files=99, workspace_mib=8,
    output_kib=5, archive_mib=3, cpus=0.5, on_output_limit="truncate",
)  # fmt: skip
GRADER = Grader(
    ["python3", "g.py"], student_cpu_time_s=2.5, student_memory_mib=64, student_network="class", student_environments=["c", "b"],
    most_students=3, merge_local=False,
)  # fmt: skip
CHOICE = MultipleChoice(
    ["1", 2], {1: "one", "2": "two"}, "yes", "no", feedback={2: "really?"}, multiple=False,
)  # fmt: skip
MATCH = Match("é", True, "yes", "no")
CODE = Code("src/a.py", single_line=True, optional=True)
FILE = File("b.zip", extensions=[".ZIP"], max_bytes=10, optional=True)
PROBLEMS: dict[str, Any] = {"choice": CHOICE, "match": MATCH, "code": CODE, "file": FILE}
FLOATS = Floats(absolute=0.5, relative=0.001)
CASE = Case(
    b"1\0", name="small", args=["-v"], files={"a": b"\xff"}, cpu_time_s=1.5, wall_time_s=2, output_kib=3, expected=b"2",
    check=FLOATS, points=2.5,
)  # fmt: skip
TASK = Task(
    "python3", command=["python3", "main.py"], files={"main.py": "print(1)", "bin/data": bytes(range(256))}, executables=["b", "a"],
    problems=PROBLEMS, limits=LIMITS, network=Network.LOOPBACK, env={"A": "é", "B": ""}, retries=2,
    random_inputs=3, name="a task", user="1000:1000", devices=["/dev/kvm"], privileged=True, build=["make"],
    build_limits=replace(LIMITS, cpu_time_s=9), cases=[CASE, Case()], stop_at_first_failure=True,
)  # fmt: skip
GRADED = Task("python3", grader=GRADER, problems=PROBLEMS)
SECRET = Secret("token", variable="TOKEN")
FIRST = Phase("first", Task("a", command="true", collect=["/volumes/out/*"]), writes=["work", "out"])
COLLECTING = replace(
    TASK, cases=(), build=None, build_limits=None, stop_at_first_failure=False, collect=["*.txt"], files={"main.py": "print(1)"}
)
PHASE = Phase(
    "second", COLLECTING, reads=["work"], writes=["out"], wipe=["out/*.json"], inputs=True, secrets=["plain", SECRET],
    when="always", allow_failure=True, blame="course", tests=["/volumes/out/*.xml"],
)  # fmt: skip
PIPELINE = Pipeline([FIRST, PHASE], volumes={"out": Volume(5)}, wall_time_s=500.5, name="a pipeline")
INPUT = JobInput(
    {"choice": ["1", 2], "code": "x = 'é'", "file": {"filename": "my.zip", "value": b"\0\xff"}, "raw": b"\1", "@state": "",
     "@random": [0.5, 0.25], "@note": {"bytes": {"object": [True, None, b"x"]}}},
    files={"a": b"1"}, executables=["a"], stdin=b"\0in",
)  # fmt: skip
EVIDENCE = Evidence(kind="exit_code", value=3, source="end mark")
TESTS = {"adds": {"name": "adds", "passed": False, "points": 1.5, "expected": None, "deep": [[1], {"a": []}]}}
RUN = RunResult(
    outcome=Outcome.TIMEOUT, text="late", limit="cpu", exit_code=3, signal="SIGXCPU", stdout=b"\0out", stderr=b"err",
    stdout_bytes=9, stderr_bytes=3, output_cut=True, cpu_time_s=1.25, wall_time_s=2.0, peak_memory_mib=3.5, evidence=(EVIDENCE,),
)  # fmt: skip
CHECKER = Checker(Task("c", command="true", build="make"))
INTERACTOR = Interactor(Task("c", command="true", build="make"))
CASE_RESULT = CaseResult(name="a", outcome=Outcome.FAILED, text="why", correct=False, points=0.5, run=RUN)
PHASE_RESULT = PhaseResult(
    name="first", outcome=Outcome.FAILED, text="why", run=RUN, tests=TESTS, timings={"run": 0.5}, build=RUN, cases=(CASE_RESULT,),
)  # fmt: skip
RESULT = JobResult(
    job_id="one", outcome=Outcome.FAILED, text="no", grade=12.5, problems={"choice": ProblemResult(Outcome.SUCCESS, "yes")},
    tests=TESTS, custom={"big": 10**299, "text": "é\0"}, archive=b"\x1f\x8b", state="s", stdout=b"\xff", stderr=b"e",
    stdout_bytes=5, stderr_bytes=1, output_cut=True, exit_code=1, limit="shm", signal="SIGKILL",
    killed_by="kernel", evidence=(EVIDENCE,), host="h", timings={"run": 1.5},
    cpu_time_s=0.5, wall_time_s=1.5, peak_memory_mib=7.25, steps=(Step(name="queued", at_s=0.0),), phases=(PHASE_RESULT,),
    build=RUN, cases=(CASE_RESULT,), to_submitter=("test 1: passed",),
)  # fmt: skip
HOST = HostInfo(
    name="h", url="unix:///x", up=False, reason="down", running=1, limit=2, environments=("a",), older_versions=("b",),
    memory_mib=3, free_memory_mib=4,
)  # fmt: skip
COMPARED = ComparedResult(
    key="a", repeat=2, difference="verdict", old=Outcome.SUCCESS, new=Outcome.FAILED, old_grade=100.0, new_grade=0.5
)
RECORDS: list[AsData] = [
    LIMITS, GRADER, CHOICE, MATCH, CODE, FILE, TASK, SECRET, PHASE, PIPELINE, INPUT, EVIDENCE, RUN, PHASE_RESULT, RESULT, HOST,
    CASE, CHECKER, INTERACTOR, CallersFunction(), Exact(), Lines(), Tokens(), FLOATS, CASE_RESULT,
    Volume(5), Step(name="queued", at_s=1.5), ProblemResult(Outcome.CRASH, "x"), QueueInfo(3, 2.5), CallbackInfo(4, 2, 9),
    Output(stderr=True, data=b"\0", missed_bytes=3, starts_again=True, phase="build", case=CASE_RESULT, to_submitter="x"),
    RunningJob("a", True, "info", "me", 1.5, 30.0, "h"), WaitingJob("a", True, "info", "me", 30.0),
    COMPARED, BatchComparison(changes=(COMPARED,), unchanged=3),
    BatchProgress(done=5, stored=1, running=2, total=None, refused=1, outcomes={"success": 4}, elapsed_s=2.5),
]  # fmt: skip
MORE = [
    GRADED, Task("a"), Task("a", command="sleep 1", network="class"), Phase("a", Task("a")), Pipeline([Phase("a", Task("a"))]),
    JobInput(), JobInput({"a": 1, "b": [0.5], "c": True}), JobResult(job_id="", outcome=Outcome.CRASH), QueueInfo(-1, None),
    MultipleChoice("a"), MultipleChoice(3, [3, "4"]), MultipleChoice({"b", "a"}, ("a", "b")), Grader("sh run"), File(), Code(),
    PhaseResult(name="a", outcome=None), Evidence(kind="k", value="text", source="s"), Evidence(kind="k", value=0.5, source="s"),
]  # fmt: skip
NAMES = [type(record).__name__ for record in RECORDS]


def through_data(record: Any) -> Any:
    return type(record).from_dict(json.loads(json.dumps(record.to_dict(), allow_nan=False)))


# ---- what was written is read back equal


@pytest.mark.parametrize("record", [*RECORDS, *MORE], ids=lambda record: type(record).__name__)
def test_what_was_written_is_read_back_equal(record: Any) -> None:
    assert through_data(record) == record
    assert type(record).from_json(record.to_json()) == record
    assert type(record).from_json(record.to_json().encode()) == record
    assert type(through_data(record)) is type(record)


def own_classes(cls: type[AsData] = AsData) -> Iterator[type]:
    for each in cls.__subclasses__():
        if getattr(sys.modules[each.__module__], each.__name__, None) is each and each.__module__.startswith("jobmanager."):
            yield each  # slots=True leaves another class behind, which is none of ours
        yield from own_classes(each)


def test_every_record_that_can_be_written_is_among_the_examples() -> None:
    assert sorted(NAMES) == sorted({each.__name__ for each in own_classes()} - {"VersionedAsData"})


@pytest.mark.parametrize("record", RECORDS, ids=NAMES)
def test_the_examples_have_no_field_with_its_default_and_every_field_is_written(record: Any) -> None:
    """A new field fails here until the example has it, and then in the test above unless it is written and read."""
    if hasattr(record, "_fields"):
        assert record.to_dict().keys() == set(record._fields)
        return
    own = set()
    for field in dataclasses.fields(record):
        if field.metadata.get("form", ...) is None:
            continue
        own.add(field.name)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if (type(record), field.name) not in ((Task, "grader"), (Task, "collect")):  # a task with cases has neither
            assert getattr(record, field.name) != default, field.name
    assert own <= record.to_dict().keys()
    assert record.to_dict().keys() - own <= {"schema", "kind"}


def test_the_data_is_what_json_has_and_names_no_class() -> None:
    def check(value: object) -> None:
        assert type(value) in (str, int, float, bool, type(None), list, dict)
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(item)

    for record in [*RECORDS, *MORE]:
        check(record.to_dict())
    text = "".join(record.to_json() for record in RECORDS)
    assert not any(f'"{name}"' in text for name in NAMES)


def test_the_form_is_the_documented_one() -> None:
    data = JobInput({"a": b"x", "b": {"n": 1}}, files={"f": "hi"}, stdin="in").to_dict()

    assert data == {
        "schema": 3,
        "kind": "input",
        "answers": {"a": {"bytes": "eA=="}, "b": {"object": {"n": 1}}},
        "files": {"f": "aGk="},
        "executables": [],
        "stdin": "aW4=",
    }
    assert Pipeline([Phase("a", Task("x"))]).to_dict()["kind"] == "pipeline"
    assert [problem["kind"] for problem in TASK.to_dict()["problems"].values()] == ["multiple_choice", "match", "code", "file"]  # type: ignore[attr-defined]
    assert ProblemResult(Outcome.FAILED, "no").to_dict() == {"outcome": "failed", "text": "no"}


def test_a_task_that_was_read_makes_the_same_request(tmp_path: Path) -> None:
    (tmp_path / "tool").write_bytes(b"no mark of its own")
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "data").write_bytes(b"\0")
    task = Task("a", command=["./tool"], directory=tmp_path, problems={"p": Code("p.py")}, random_inputs=2)
    inputs = JobInput({"p": "x", "@random": [0.5, 0.25]}, files={"tool2": tmp_path / "tool"})
    sent = [record.to_json() for record in (task, inputs)]
    for path in tmp_path.iterdir():
        path.unlink()

    read_task, read_inputs = Task.from_json(sent[0]), JobInput.from_json(sent[1])
    requests = [job_request(*pair, None, {"job_id": "1"}, ssh_timeout_s=1) for pair in ((task, inputs), (read_task, read_inputs))]

    assert (read_task, read_inputs) == (task, inputs)
    assert requests[0] == requests[1]
    assert requests[1].runs[0].executables == {"tool", "tool2"}


@pytest.mark.parametrize("given", [("b", "a"), ["b", "a"], {"b", "a"}, frozenset({"a", "b"})])
def test_answers_of_several_values_are_a_list_from_the_start(given: Any) -> None:
    inputs = JobInput({"c": given})

    assert inputs.answers == {"c": ["a", "b"] if isinstance(given, (set, frozenset)) else ["b", "a"]}
    assert through_data(inputs) == inputs


def test_a_subclass_of_a_task_is_written_as_the_task() -> None:
    class Mine(Task):
        pass

    assert Task.from_dict(Mine("a", name="x").to_dict()) == Task("a", name="x")


def random_task(chance: random.Random) -> Task:
    def some(*values: Any) -> Any:
        return chance.choice(values)

    names = chance.sample(["a", "b.py", "d/e", "f g", "é", "x/y/z.bin"], chance.randrange(6))
    problems: dict[str, Any] = {
        "m": Match(some("x", " é\n", ""), chance.random() < 0.5, failure_text=some("", "no")),
        "c": MultipleChoice(some("a", 1, ["a", "b"], {1, "b"}), some(None, ["a", 1, "b"], {"a": "", 1: "x", "b": "é"})),
        "p": Code(some("p.py", "q/r.py"), single_line=chance.random() < 0.5),
        "f": File("up", extensions=some((), [".a"]), max_bytes=some(None, 5)),
    }
    return Task(
        some("python3", "registry:5000/a/b@sha256:" + "0" * 64),
        command=some(None, "echo 'é'", ["a", "", "b c"]),
        files={name: chance.randbytes(chance.randrange(300)) for name in names},
        executables=chance.sample([*names, "other"], chance.randrange(len(names) + 1)),
        problems={key: problems[key] for key in chance.sample(sorted(problems), chance.randrange(5))},
        limits=Limits(cpu_time_s=some(1, 0.1, 30.0), wall_time_s=some(None, 5, 7.5), memory_mib=chance.randrange(100, 10**6)),
        network=some(*Network, "own-network") if chance.random() < 0.5 else Network.OFF,
        env=some(None, {}, {"A": "x=y", "_B": "\n"}),
        collect=some((), ["*"], ["out", "a/b*"]),
        retries=chance.randrange(5),
        name=some("", "é", "x" * 500),
        user=some(None, "0", "root:1"),
    )


@pytest.mark.parametrize("seed", range(100))
def test_random_tasks_and_pipelines_are_read_back_equal(seed: int) -> None:
    chance = random.Random(seed)
    tasks = [random_task(chance) for _ in range(5)]
    runnable = [task for task in tasks if task.needs_container and not task.problems]
    pipelines = [Pipeline([Phase(f"p{i}", task, writes=[f"v{i}"]) for i, task in enumerate(runnable)])] if runnable else []

    for record in (*tasks, *pipelines):
        assert through_data(record) == record
        assert task_or_pipeline(record.to_dict()) == record


# ---- contents that are kept elsewhere


class Blobs:
    """Contents by their digest; small ones stay where they are."""

    def __init__(self, at_least: int = 0) -> None:
        self.kept: dict[str, bytes] = {}
        self._at_least = at_least

    def store(self, content: bytes) -> ContentReference | None:
        if len(content) < self._at_least:
            return None
        digest = hashlib.sha256(content).hexdigest()
        self.kept[digest] = content
        return ContentReference(sha256=digest, size=len(content))

    def load(self, reference: ContentReference) -> bytes:
        return self.kept[reference.sha256]


@pytest.mark.parametrize("record", [TASK, GRADED, PIPELINE, INPUT, RESULT], ids=lambda record: type(record).__name__)
@pytest.mark.parametrize("at_least", [0, 100])
def test_contents_can_be_kept_elsewhere(record: Any, at_least: int) -> None:
    blobs = Blobs(at_least)

    data = to_data(record, store=blobs.store)

    assert from_data(type(record), json.loads(json.dumps(data)), load=blobs.load) == record
    if isinstance(record, (Task, Pipeline)):
        assert task_or_pipeline(data, load=blobs.load) == record


def test_every_content_of_a_record_goes_through_the_hook() -> None:
    blobs = Blobs()
    for record in (TASK, INPUT, RESULT):
        to_data(record, store=blobs.store)

    contents = [*TASK.files.values(), b"1", b"\0in", b"\0\xff", b"\1", b"x"]  # type: ignore[union-attr]
    contents += [b"\x1f\x8b", b"\xff", b"e", b"\0out", b"err", b"1\0", b"2", b""]
    assert set(blobs.kept.values()) == set(contents)


def test_other_contents_than_those_that_were_kept_are_refused() -> None:
    blobs = Blobs()
    data = to_data(Task("a", files={"f": b"good"}), store=blobs.store)

    for swapped in (b"evil", b"good and more", b""):
        with pytest.raises(InvalidTask, match=r"^files\['f'\]: stands for other contents"):
            from_data(Task, data, load=lambda _, swapped=swapped: swapped)  # type: ignore[misc]
    with pytest.raises(InvalidTask, match=r"^files\['f'\]: stands for contents that are not here"):
        Task.from_dict(data)


# ---- what cannot be written


class Special(Match):
    """A problem that judges in its own way."""

    def is_right(self, answer: Any) -> bool:
        return True


ANYTHING: list[Any] = [print, object(), float("nan"), {1: "a"}, 10**400, "1"]
FUNCTION, OBJECT, NAN, NUMBERED, HUGE, TEXT = ANYTHING
CRASH = JobResult(job_id="", outcome=Outcome.CRASH)
ANOTHER_KIND = r"must be .*\"match\".*, not a value of the class Special"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Task("a", problems={"q": MultipleChoice("a", {"a": FUNCTION})}),
            r"problems\['q'\].choices\['a'\]: must be .*text.*, not a function",
        ),
        (lambda: Task("a", problems={"q": Special("x")}), rf"problems\['q'\]: {ANOTHER_KIND}"),
        (
            lambda: Pipeline([Phase("p", Task("a", command="x", problems={"q": Special("x")}))]),
            rf"phases\[0\].task.problems\['q'\]: {ANOTHER_KIND}",
        ),
        (lambda: JobInput({"@x": FUNCTION}), r"answers\['@x'\]: must be text, .* not a function"),
        (lambda: JobInput({"@x": [1, OBJECT]}), r"answers\['@x'\]\[1\]: must be .*, not a value of the class object"),
        (lambda: JobInput({"@x": NAN}), r"answers\['@x'\]: must be .*finite.*, not nan"),
        (lambda: JobInput({"@x": NUMBERED}), r"answers\['@x'\]: must have text for keys, not 1"),
        (lambda: dataclasses.replace(CRASH, custom={"x": [b"1"]}), r"custom\['x'\]\[0\]: must be .*, not bytes"),
        (lambda: dataclasses.replace(CRASH, exit_code=TEXT), "exit_code: must be a whole number or null, not '1'"),
        (lambda: dataclasses.replace(CRASH, exit_code=HUGE), "exit_code: must be .*, not a number of 1329 bits"),
    ],
)
def test_what_cannot_be_written_is_refused_by_the_name_of_its_field(make: Callable[[], AsData], message: str) -> None:
    record = make()
    error = InvalidTask if isinstance(record, (Task, Pipeline)) else InvalidInput if isinstance(record, JobInput) else InvalidValue

    with pytest.raises(error, match=f"^{message}: it cannot be written as data$"):
        record.to_dict()


@pytest.mark.parametrize(("cls", "field"), [(JobInput, "answers"), (JobResult, "custom"), (PhaseResult, "tests")])
def test_values_that_nest_without_end_are_neither_written_nor_read(cls: type[AsData], field: str) -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    least = next(each for each in MORE if type(each) is cls)

    with pytest.raises(InvalidValue, match="nested too deep"):
        dataclasses.replace(least, **{field: {"@x": deep}}).to_dict()  # type: ignore[type-var]
    with pytest.raises(InvalidValue, match="nested too deep"):
        cls.from_dict({**least.to_dict(), field: {"@x": deep}})


def test_a_type_without_a_form_is_refused_where_a_field_has_it() -> None:
    with pytest.raises(TypeError, match="no form"):
        form_of(set[int])


# ---- hostile data


HOSTILE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**64, 10**290, 10**400, -(10**5000), 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "1", "\0", "\ud800", "../x", "/etc/passwd", "-", "off", "host", "success", "task", "aGk=", "aGk", "====", "é"),
    *([], [[]], [None], ["x", "x"], [1, "1"], ["../x"], [{}], ["x"] * 200),
    *({}, {"": ""}, {"x": "x"}, {"../x": "aGk="}, {"x": None}, {"x": {"y": "z"}}, {"name": "x"}, {1: 2}),
    *({"kind": "task"}, {"kind": "match"}, {"kind": ["match"]}, {"kind": "code", "filename": "/etc/passwd"}),
    *({"sha256": "0" * 64, "size": 1}, {"sha256": "../../etc/passwd", "size": 1}, {"sha256": "0" * 64, "size": True}),
    *({"bytes": 1}, {"object": 1}, {"bytes": "aGk=", "object": {}}),
    *(b"bytes", (1, 2), object(), print, Path("/etc/passwd")),
]


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(data, (dict, list)):
        for key in data if isinstance(data, dict) else range(len(data)):
            yield from places(data[key], (*path, key))


def changed(data: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """The data after ``change`` of the value at the end of the path. What is off the path is no copy."""
    whole = holder = copy.copy(data)
    for part in path[:-1]:
        holder[part] = copy.copy(holder[part])
        holder = holder[part]
    change(holder, path[-1])
    return whole


def _replaced(value: Any, holder: Any, key: Any) -> None:
    holder[key] = value


def _removed(holder: Any, key: Any) -> None:
    del holder[key]


def _multiplied(holder: Any, key: Any) -> None:
    if isinstance(holder, list):
        holder.extend([holder[key]] * 100)
    else:
        holder["__class__"] = holder[key]


def mutations(record: Any) -> Iterator[Any]:
    data = record.to_dict()
    yield from HOSTILE
    for path in places(data):
        if not path:
            continue
        for value in HOSTILE:
            yield changed(data, path, functools.partial(_replaced, value))
        yield changed(data, path, _removed)
        yield changed(data, path, _multiplied)


@pytest.mark.parametrize("record", [*RECORDS, GRADED], ids=[*NAMES, "graded"])
def test_hostile_data_gives_a_record_or_a_clear_error_and_nothing_else(record: Any) -> None:
    cls, taken = type(record), 0
    refused: list[str] = []
    for data in mutations(record):
        try:
            made = cls.from_dict(data)
        except InvalidValue as error:
            refused.append(str(error))
            continue
        taken += 1
        assert type(made) is cls
        assert cls.from_dict(made.to_dict()) == made
    assert len(refused) > 100 and (taken > 0 or not dataclasses.fields(record))
    assert all(0 < len(message) < 20_000 for message in refused)


@pytest.mark.parametrize(
    ("cls", "change", "message"),
    [
        (Task, {"limits": {"memory_mib": "512"}}, "limits.memory_mib: must be a whole number, not '512'"),
        (Task, {"limits": {"memory_mib": 1}}, "limits.memory_mib: must be at least 16, not 1"),
        (Task, {"limits": {"cpu_time_s": float("inf")}}, "limits.cpu_time_s: must be a finite number, not inf"),
        (Task, {"directory": "/etc"}, "directory: there is no such field; there are environment, "),
        (Task, {"files": {"x": {"path": "/etc/passwd"}}}, r"files\['x'\]: must be base64 text, or .*, not an object"),
        (Task, {"files": {"../x": ""}}, "task: file name '../x': must be relative to the workspace"),
        (Task, {"retries": True}, "retries: must be a whole number, not True"),
        (Task, {"privileged": 1}, "privileged: must be true or false, not 1"),
        (Task, {"network": "host"}, "network: 'host' is not for jobs"),
        (Task, {"kind": "pipeline"}, 'kind: must be "task", not \'pipeline\''),
        (Task, {"problems": {"q": {"kind": "poll"}}}, r"problems\['q'\]: must be .*, not an object with the kind 'poll'"),
        (Task, {"schema": True}, "schema: must be a whole number from 1 on, not True"),
        (JobInput, {"stdin": "!"}, "stdin: must be base64 text"),
        (JobResult, {"outcome": "great"}, 'outcome: must be "success", .* or "error", not \'great\''),
        (JobResult, {"killed_by": "me"}, 'killed_by: must be "jobmanager", .* or "outsider" or null, not \'me\''),
        (JobResult, {"evidence": [{"kind": "k", "value": None, "source": ""}]}, r"evidence\[0\].value: must be text, .* or "),
        (Pipeline, {"phases": []}, "pipeline: a pipeline needs at least one phase"),
    ],
)
def test_an_error_names_the_field_and_what_is_allowed(cls: Any, change: dict[str, Any], message: str) -> None:
    whole = {Task: Task("a"), JobInput: JobInput(), JobResult: RESULT, Pipeline: PIPELINE}[cls].to_dict()

    with pytest.raises(InvalidValue, match=f"^{message}"):
        cls.from_dict({**whole, **change})


def test_the_path_of_a_field_goes_through_phases() -> None:
    data: Any = PIPELINE.to_dict()
    data["phases"][1]["task"]["limits"]["memory_mib"] = 1.5

    with pytest.raises(InvalidTask, match=r"^phases\[1\].task.limits.memory_mib: must be a whole number, not 1.5$"):
        Pipeline.from_dict(data)


@pytest.mark.parametrize("record", [TASK, PIPELINE, INPUT, RESULT], ids=lambda record: type(record).__name__)
def test_data_of_a_newer_version_is_refused_and_data_without_a_version_too(record: Any) -> None:
    data = record.to_dict()
    assert next(iter(data)) == "schema"

    with pytest.raises(InvalidValue, match=r"^schema: made by a newer version of jobmanager .*: upgrade this one$"):
        type(record).from_dict({**data, "schema": 4, "a new field": 1})
    with pytest.raises(InvalidValue, match=r"made by a newer version .*a number of 16610 bits"):
        type(record).from_dict({**data, "schema": 10**5000})
    with pytest.raises(InvalidValue, match=r"^schema: is missing$"):
        type(record).from_dict({key: value for key, value in data.items() if key != "schema"})


def test_a_result_of_the_form_before_is_read_and_does_not_say_who_killed_its_program() -> None:
    data: Any = dataclasses.replace(RESULT, limit=None, signal=None, killed_by=None).to_dict()
    older = {name: value for name, value in data.items() if name not in ("limit", "signal", "killed_by")}

    assert JobResult.from_dict({**older, "schema": 1}).to_dict() == data


def test_limits_that_were_written_before_stop_a_program_for_its_output() -> None:
    data = Task("a", limits=LIMITS).to_dict()
    del data["limits"]["on_output_limit"]  # type: ignore[attr-defined]

    assert Task.from_dict(data).limits == replace(LIMITS, on_output_limit="stop")


def test_fields_that_are_missing_have_their_defaults() -> None:
    assert Task.from_dict({"schema": 1, "kind": "task", "environment": "a"}) == Task("a")
    with pytest.raises(InvalidTask, match=r"^environment: is missing$"):
        Task.from_dict({"schema": 1, "kind": "task"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "input: must be an object"),
        ('{"schema":1,"schema":1}', "names a field twice"),
        ('{"schema":1,"kind":"input","answers":{"@a":NaN}}', "NaN is no JSON"),
        ('{"schema":1,"kind":"input","answers":{"@a":-Infinity}}', "-Infinity is no JSON"),
        ('{"schema":1,"kind":"input","answers":{"@a":1e999}}', r"answers\['@a'\]: must be"),
        ('{"schema":' + "1" * 5000 + "}", "a number of 5000 digits"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        (b"\xff{}", "not UTF-8"),
        (b"\x80\x04K\x01.", "not UTF-8"),
        (None, "must be text or bytes"),
        (5, "must be text or bytes"),
        ("x" * 101, "longer than 100 bytes"),
    ],
)
def test_json_with_tricks_is_refused(text: Any, message: str) -> None:
    at_most = {"max_bytes": 100} if str(text).startswith("xx") else {}

    with pytest.raises(InvalidInput, match=message):
        JobInput.from_json(text, **at_most)


@pytest.mark.parametrize("record", [TASK, PIPELINE, INPUT, RESULT], ids=lambda record: type(record).__name__)
def test_json_with_errors_at_random_places_gives_a_record_or_a_clear_error(record: Any) -> None:
    chance, text, refused = random.Random(12), record.to_json(), 0
    for _ in range(1000):
        start, length = chance.randrange(len(text)), chance.choice([0, 1, 1, 5, 50])
        broken = text[:start] + chance.choice(["", '"', "}", "]", "-", "9" * 50, text[:start][-30:], "\\"]) + text[start + length :]
        try:
            made = type(record).from_json(broken)
        except InvalidValue:
            refused += 1
        else:
            assert type(record).from_json(made.to_json()) == made
    assert refused > 500


def test_either_a_task_or_a_pipeline_is_read_and_nothing_else() -> None:
    assert task_or_pipeline(PIPELINE.to_dict()) == PIPELINE
    strange: list[Any] = [None, [], {}, RESULT.to_dict(), {"schema": 1, "kind": ["pipeline"]}, {"schema": 1, "kind": "input"}]
    for data in strange:
        with pytest.raises(InvalidTask):
            task_or_pipeline(data)
