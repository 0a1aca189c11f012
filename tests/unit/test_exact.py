"""What a caller hands over becomes values of exact built-in types or the library's own records, in every field there is.

The fields and the messages are found, not listed: one that is new fails here until it is known.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import pathlib
import types
from collections import UserDict, UserString, deque
from collections.abc import Mapping

import pytest

import jobmanager
from jobmanager import (
    TLS,
    Case,
    Checker,
    Code,
    DockerHost,
    File,
    Floats,
    Grader,
    Interactor,
    JobInput,
    JobManager,
    Limits,
    Match,
    MultipleChoice,
    Network,
    Task,
    Tokens,
    errors,
)
from jobmanager.control import child_process
from jobmanager.control.request import job_request
from jobmanager.model import _checks
from jobmanager.model._exact import exact, own
from jobmanager.model.phase import Phase, Secret
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.volume import Volume
from jobmanager.testing import FakeEngineServer


class Text(str):
    """Says something else of itself than what it holds."""

    def __str__(self):
        return "not this"

    def __format__(self, spec):
        return "nor this"


class Lang(str, enum.Enum):
    PY = "python3"


class Level(enum.IntEnum):
    TWO = 2


class Scalar:
    """As numpy's and torch's arrays of no dimensions: a number in the clothes of a collection."""

    def __init__(self, value):
        self._value = value

    def __len__(self):
        raise TypeError("len() of unsized object")

    def __iter__(self):
        raise TypeError("iteration over a 0-d array")

    def __contains__(self, item):
        return False

    def __index__(self):
        return self._value


class Whole(int):
    def __index__(self):
        raise AssertionError("the value of an int needs no asking")


class Real(float):
    def __float__(self):
        raise AssertionError("the value of a float needs no asking")


class Index:
    """As numpy's whole numbers."""

    def __init__(self, value):
        self._value = value

    def __index__(self):
        return self._value


class Single:
    """As numpy's float32."""

    def __init__(self, value):
        self._value = value

    def __float__(self):
        return self._value


class Raw(bytes):
    def __bytes__(self):
        return b"not this"


class Row(list):
    """A list of the caller's own."""


class Pair(tuple):
    """A tuple of the caller's own."""


class Table(UserDict):
    """A mapping that is no dict."""


def foreign(value):
    """The same value, made of the caller's own classes as far as they go."""
    if isinstance(value, (bool, enum.Enum, type(None), pathlib.PurePath)):
        return value
    if isinstance(value, Mapping):
        return Table({foreign(key): foreign(item) for key, item in value.items()})
    for kind, made in ((str, Text), (int, Whole), (float, Real), (bytes, Raw)):
        if isinstance(value, kind):
            return made(value)
    if isinstance(value, (list, tuple)):
        return (Row if isinstance(value, list) else Pair)(foreign(item) for item in value)
    return value


def not_exact(value, where="it"):
    """Where something is of another type than Python's own or the library's."""
    kind = type(value)
    if kind in (str, int, float, bool, bytes, type(None)):
        return []
    if kind in (list, tuple, set, frozenset):
        return [found for number, item in enumerate(value) for found in not_exact(item, f"{where}[{number}]")]
    if kind in (dict, types.MappingProxyType):
        within = [(f"a key of {where}", key) for key in value] + [(f"{where}[{key!r}]", item) for key, item in value.items()]
        return [found for name, item in within for found in not_exact(item, name)]
    if kind.__module__ == "pathlib":  # what ``directory`` was read from
        return []
    if kind.__module__.startswith("jobmanager."):
        if isinstance(value, enum.Enum):
            return []
        within = [(f"{where}.{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value)]
        return [found for name, item in within for found in not_exact(item, name)]
    return [f"{where} is a {kind.__qualname__}"]


FILE = pathlib.Path(__file__)
LIMITS = {"cpu_time_s": 5, "wall_time_s": 7.5, "memory_mib": 64, "processes": 32, "open_files": 64, "workspace_mib": 8,
          "output_kib": 64, "archive_mib": 1, "cpus": 0.5, "on_output_limit": "truncate"}  # fmt: skip
GRADER = {"run": ["sh", "grade"], "student_cpu_time_s": 1.5, "student_memory_mib": 16, "student_network": "mine",
          "student_environments": ["busybox"], "most_students": 2, "merge_local": True}  # fmt: skip
SAMPLES = {
    Limits: [LIMITS],
    Grader: [GRADER, {**GRADER, "run": "grade", "student_network": Network.OFF}],
    TLS: [{"ca_cert": str(FILE), "client_cert": str(FILE), "client_key": FILE, "verify": True}],
    DockerHost: [
        {"url": "tcp://h:2376", "name": "n", "max_concurrent_jobs": 2, "tls": TLS(), "waiters": 1, "pull": "missing",
         "ssh_config": None, "address": "h"},
        {"url": "ssh://h", "name": "", "max_concurrent_jobs": None, "tls": None, "waiters": 1, "pull": "never",
         "ssh_config": str(FILE), "address": None},
    ],
    MultipleChoice: [
        {"correct": ["1", 2], "choices": {"1": "one", 2: "two"}, "success_text": "s", "failure_text": "f",
         "feedback": {"1": "one", 2: "two"}, "multiple": True},
        {"correct": "1", "choices": ["1", 2], "success_text": "s", "failure_text": "f", "feedback": None, "multiple": False},
    ],
    Match: [{"answer": "a", "ignore_case": True, "success_text": "s", "failure_text": "f"}],
    Code: [{"filename": "a.py", "single_line": True, "optional": True}],
    File: [{"filename": "a", "extensions": [".py"], "max_bytes": 10, "optional": True}],
    JobInput: [
        {"answers": {"a": "text", "b": b"bytes", "c": 3, "d": [1, "2", 2.5], "e": {"filename": "f", "value": b"v"},
                     "@note": {"deep": [{"er": ("x", None, True)}]}},
         "files": {"f": "text", "g": b"bytes"}, "executables": ["f"], "stdin": "in"},
        {"answers": None, "files": None, "executables": (), "stdin": b"in"},
    ],
    Task: [
        {"environment": "python3", "command": ["echo", "x"], "grader": None, "files": {"f": "text", "g": b"bytes"},
         "directory": str(FILE.parent / "no such folder"), "executables": ["f"],
         "problems": {"c": Code("c.py"), "m": Match("a")}, "limits": Limits(),
         "network": "mine", "env": {"A": "b"}, "collect": ["*.txt"], "retries": 1, "random_inputs": 2, "name": "n",
         "user": None, "devices": (), "privileged": False, "build": None, "build_limits": None, "cases": (),
         "stop_at_first_failure": False},
        {"environment": "python3", "command": "echo x", "grader": None, "files": None, "directory": None, "executables": (),
         "problems": None,
         "limits": Limits(), "network": "off", "env": None, "collect": (), "retries": 0, "random_inputs": 0, "name": "",
         "user": "1000:staff", "devices": ["/dev/kvm"], "privileged": False, "build": ["make", "all"],
         "build_limits": Limits(cpu_time_s=3), "cases": [Case("1", name="a"), Case(b"2")], "stop_at_first_failure": True},
    ],
    Case: [
        {"stdin": "1", "name": "n", "args": ["-v", "x"], "files": {"f": "text", "g": b"bytes"}, "cpu_time_s": 1.5, "wall_time_s": 3,
         "output_kib": 5, "expected": "2", "check": Floats(absolute=0.5), "points": 2},
        {"stdin": FILE, "name": "", "args": (), "files": None, "cpu_time_s": None, "wall_time_s": None, "output_kib": None,
         "expected": FILE, "check": Tokens(), "points": 0.5},
    ],
    Checker: [{"task": Task("gcc", command="./check", build="make")}],
    Interactor: [{"task": Task("gcc", command="./talk", build="make")}],
    Floats: [{"absolute": 0.5, "relative": 1}],
    Volume: [{"size_mib": 32}],
    Secret: [{"name": "token", "variable": "TOKEN"}, {"name": "token", "variable": None}],
    Phase: [
        {"name": "build", "task": Task("gcc", command="make"), "reads": ["source"], "writes": ["work"], "wipe": ["work/*"],
         "inputs": True, "secrets": ["token", Secret("key")], "when": "always", "allow_failure": True, "blame": "course",
         "tests": ["/volumes/work/*.xml", "report.xml"]},
    ],
    Pipeline: [
        {"phases": [Phase("build", Task("gcc", command="make"), writes=["work"])], "volumes": {"work": Volume(1)},
         "wall_time_s": 20.5, "name": "n"},
        {"phases": (Phase("build", Task("gcc", command="make"), writes=["work"]),), "volumes": None, "wall_time_s": None,
         "name": ""},
    ],
}  # fmt: skip
CASES = [(cls, fields) for cls, several in SAMPLES.items() for fields in several]


def test_every_public_record_that_a_caller_makes_is_tried_with_all_its_fields():
    made_by_callers = {
        cls
        for name, cls in vars(jobmanager).items()
        if inspect.isclass(cls) and dataclasses.is_dataclass(cls) and "__post_init__" in vars(cls)
    }

    assert made_by_callers == SAMPLES.keys()
    for cls, fields in CASES:
        assert fields.keys() == {field.name for field in dataclasses.fields(cls)}, cls


@pytest.mark.parametrize(("cls", "fields"), CASES)
def test_a_record_holds_exact_values_only_and_is_the_one_that_plain_values_make(cls, fields, tmp_path):
    if fields.get("directory"):
        (tmp_path / "h").write_text("in the folder")
        fields = {**fields, "directory": str(tmp_path)}

    made = cls(**{name: foreign(value) for name, value in fields.items()})

    assert not_exact(made) == []
    assert made == cls(**fields)


def test_a_value_of_each_kind_is_what_it_stands_for():
    pairs = [
        (Text("a"), "a"), (Lang.PY, "python3"), (Level.TWO, 2), (Whole(3), 3), (Index(4), 4), (Real(1.5), 1.5), (Single(2.5), 2.5),
        (Raw(b"a"), b"a"), (bytearray(b"b"), b"b"), (memoryview(b"c"), b"c"), (Row([Text("a")]), ["a"]),
        (Pair((Lang.PY,)), ("python3",)), (deque([Whole(1)]), (1,)), ({Text("a")}, {"a"}), ({Lang.PY: 1}.keys(), ("python3",)),
        (Table({Lang.PY: Level.TWO}), {"python3": 2}),
        (UserString("ab"), "ab"), (Scalar(5), 5), (types.MappingProxyType({"a": Real(1)}), {"a": 1.0}),
        (True, True), (None, None), (Network.OFF, Network.OFF),
    ]  # fmt: skip
    for given, expected in pairs:
        made = exact(given)
        assert made == expected and not_exact(made) == [], given


def test_what_is_no_value_stays_for_the_checks_to_refuse():
    for odd in (object(), print, 1j, Text, iter([1])):
        assert exact(odd) is odd
    with pytest.raises(errors.InvalidValue, match="must be a number above zero"):
        _checks.positive("x", 1j)
    for flag in (1, Whole(1), Text("True")):
        with pytest.raises(errors.InvalidValue, match="must be True or False"):
            _checks.flag("x", flag)


def test_numbers_that_are_none_of_pythons_are_taken_as_theirs():
    limits = Limits(memory_mib=Index(128), cpu_time_s=Single(2.5), wall_time_s=Level.TWO, cpus=Index(1))

    assert (limits.memory_mib, limits.cpu_time_s, limits.wall_time_s, limits.cpus) == (128, 2.5, 2, 1)
    with pytest.raises(errors.InvalidValue, match=r"must be a whole number above zero, not 1\.5"):
        Limits(memory_mib=Single(1.5))
    with pytest.raises(errors.InvalidValue, match="must be a whole number above zero, not True"):
        Limits(memory_mib=True)


def test_an_answer_that_nests_too_deeply_is_refused_at_the_call():
    endless = {}
    endless["again"] = endless

    with pytest.raises(errors.InvalidInput, match="answers nests too deeply"):
        JobInput({"@note": endless})


def test_a_record_of_the_callers_own_class_becomes_the_librarys():
    class Mine(Limits):
        __slots__ = ()

    class MyGrader(Grader):
        __slots__ = ()

    task = Task("x", command="true", limits=Mine(memory_mib=32))
    assert type(task.limits) is Limits and task.limits == Limits(memory_mib=32)
    assert type(Task("x", grader=MyGrader("true")).grader) is Grader
    assert own(Limits, "no limits") == "no limits"


def test_what_a_job_is_asked_for_with_is_exact_too():
    task = Task("x", command="true")
    options = {"priority": Index(3), "launcher_name": Text("ann"), "job_id": Text("mine"), "supersede_key": Text("key")}
    request = job_request(task, Table({}), None, options, ssh_timeout_s=1.0)

    assert (request.priority, request.launcher_name, request.job_id, request.supersede_key) == (3, "ann", "mine", "key")
    assert not_exact(request) == []
    odd = {"priority": Whole(-1), "launcher_name": Lang.PY}
    assert job_request(task, None, None, odd, ssh_timeout_s=1.0).launcher_name == "python3"


class Poison(str):
    """No other process knows it, and it cannot be written down."""

    def __reduce_ex__(self, protocol):
        raise AssertionError("it was to be sent")


def test_all_that_is_sent_to_children_is_exact_whatever_the_caller_gave(monkeypatch):
    sent, written = [], child_process.pickled
    monkeypatch.setattr(child_process, "pickled", lambda message: sent.append(message) or written(message))
    programs = {"python3": "cat c.py"}
    with FakeEngineServer(images=[Poison("python3:1")], programs=programs) as server:
        host = DockerHost(Poison(server.url), name=Poison("h"), max_concurrent_jobs=Index(2), waiters=Level.TWO)
        options = {"environments": Table({Lang.PY: Poison("python3:1")}), "pool_size": Index(2), "engine_timeout_s": Single(10.0)}
        with JobManager([host], **options) as manager:
            task = Task(
                Lang.PY,
                command=Row([Lang.PY, Poison("c.py")]),
                files=Table({Poison("f"): Raw(b"x")}),
                executables=Row([Poison("f")]),
                env=Table({Poison("A"): Poison("b")}),
                problems={Poison("c"): Code(Poison("c.py"))},
                limits=Limits(memory_mib=Index(64), cpu_time_s=Single(5.0)),
                collect=[Poison("*.txt")],
                network=Poison("off"),
                name=Poison("n"),
            )
            answers = Table({Poison("c"): Poison("print")})
            job = manager.submit(task, answers, job_id=Poison("mine"), launcher_name=Poison("ann"), priority=Whole(1))
            result = job.result(60)
            grading = Task(Lang.PY, grader=Grader(Poison("true"), student_memory_mib=Index(32)), files={"run": ""})
            manager.submit(grading, launcher_name=Lang.PY).result(60)
            assert not manager.kill_job(Poison("mine"))

    assert (result.outcome, result.stdout, result.job_id) == ("success", b"print", "mine")
    names = {type(message).__name__ for message in sent}
    assert names >= {"WaiterSettings", "StartContainer", "MonitorContainer", "RemoveContainer"}
    assert [found for message in sent for found in not_exact(message, type(message).__name__)] == []
