"""A keyword that a class does not know: the error says what was meant, and signatures and hints are unharmed."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
import typing
from typing import Any

import pytest

from jobmanager import (
    TLS,
    Case,
    Checker,
    ClientFuture,
    ClientSync,
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
    Phase,
    Pipeline,
    Task,
)
from jobmanager.client import JOB_DEFAULTS
from jobmanager.model import _keywords
from jobmanager.remote import RemoteClient

NEAR_MISSES = [
    (Task, "image", "it is the first argument, environment: Task('python3', ...)"),
    (Task, "cmd", "it is called command"),
    (Task, "comand", "did you mean command?"),
    (Task, "timeout", "it belongs elsewhere: Task(..., limits=Limits(wall_time_s=...))"),
    (Task, "memory_mib", "it belongs elsewhere: Task(..., limits=Limits(memory_mib=...))"),
    (Task, "mem_limit", "it belongs elsewhere: Task(..., limits=Limits(memory_mib=...))"),
    (Task, "stdin", "it belongs elsewhere: JobInput(stdin=...)"),
    (Task, "expected", "it belongs elsewhere: Case(expected=...)"),
    (Task, "priority", "it belongs elsewhere: new_job(task, priority=...) of a JobManager or RemoteClient"),
    (Task, "student_memory_mib", "it belongs elsewhere: Task(..., grader=Grader(student_memory_mib=...))"),
    (Limits, "time", "it is called wall_time_s or cpu_time_s"),
    (Limits, "timeout", "it is called wall_time_s"),
    (Task, "time_limit", "it belongs elsewhere: Task(..., limits=Limits(wall_time_s=...)), or cpu_time_s"),
    (Task, "url", "it belongs elsewhere: DockerHost('unix:///var/run/docker.sock')"),
    (Case, "time", "it is called wall_time_s or cpu_time_s"),
    (Limits, "memory", "it is called memory_mib"),
    (Limits, "Memory_MiB", "did you mean memory_mib?"),
    (Limits, "network", "it belongs elsewhere: Task(..., network=...)"),
    (JobInput, "input", "it is called stdin"),
    (JobInput, "command", "it belongs elsewhere: Task(..., command=...)"),
    (JobManager, "workers", "it belongs elsewhere: DockerHost(url, max_concurrent_jobs=...)"),
    (JobManager, "pull", "it belongs elsewhere: DockerHost(url, pull=...)"),
    (JobManager, "host", "did you mean hosts?"),
    (JobManager, "base_url", "it is the first argument, hosts: JobManager('unix:///var/run/docker.sock')"),
    (DockerHost, "workers", "it is called max_concurrent_jobs"),
    (DockerHost, "base_url", "it is the first argument, url: DockerHost('unix:///var/run/docker.sock')"),
    (Case, "output", "it is called expected"),
    (Case, "memory_mib", "it belongs elsewhere: Task(..., limits=Limits(memory_mib=...))"),
    (Phase, "volumes", "it is called writes"),
    (Pipeline, "retries", "it belongs elsewhere: Task(..., retries=...)"),
    (Code, "nonsense", "it takes filename, "),
    (TLS, "ca", "it takes ca_cert, client_cert, client_key, verify"),
    (Grader, "command", "it is called run"),
    (MultipleChoice, "choises", "did you mean choices?"),
    (MultipleChoice, "answer", "it is called correct"),
    (Match, "expected", "it is called answer"),
    (Code, "file", "it is called filename"),
    (File, "max_size", "it is called max_bytes"),
    (Floats, "tolerance", "it is called absolute or relative"),
    (Checker, "command", "it belongs elsewhere: Task(..., command=...)"),
    (Interactor, "stdin", "it belongs elsewhere: JobInput(stdin=...)"),
    (RemoteClient, "name_space", "did you mean namespace?"),
]

OF_CALLS = {
    _keywords.JOB: (*JOB_DEFAULTS, "inputdata", "callback"),
    _keywords.BATCH: tuple(inspect.signature(JobManager.map).parameters)[1:],
    _keywords.TESTS: tuple(inspect.signature(Grader.pytest).parameters),
    _keywords.START: ("wait",),
    _keywords.CLOSE: ("drain_timeout_s", "kill"),
    _keywords.FOLLOW: ("job_id", "timeout_s"),
}


OF_ALL = {**_keywords._names, **OF_CALLS}
OF_WHOM = "of a JobManager or RemoteClient"


@pytest.mark.parametrize(
    ("cls", "name", "says"), NEAR_MISSES, ids=lambda value: value if isinstance(value, str) else value.__name__
)
def test_an_unknown_keyword_says_what_was_meant(cls: Any, name: str, says: str) -> None:
    with pytest.raises(TypeError) as raised:
        cls(**{name: 1})
    assert str(raised.value).startswith(f"{cls.__name__}() got an unexpected keyword argument {name!r}: {says}")


@pytest.mark.parametrize(
    ("call", "name", "says"),
    [
        (JobManager.new_job, "timeout", "it belongs elsewhere: Task(..., limits=Limits(wall_time_s=...))"),
        (JobManager.new_job, "user", "it is called launcher_name"),
        (JobManager.submit, "callback", f"it belongs elsewhere: new_job(task, callback=...) {OF_WHOM}"),
        (JobManager.submit, "image", "it belongs elsewhere: Task(..., environment=...)"),
        (JobManager.map, "workers", "it is called at_once"),
        (JobManager.amap, "path", "it is called results"),
        (RemoteClient.map, "user", "it is called launcher_name"),
        (ClientFuture.map, "timeout", "it belongs elsewhere: Task(..., limits=Limits(wall_time_s=...))"),
        (ClientFuture.map, "wait_s", "it is not needed: a batch waits for room in the queue by itself"),
        (JobManager.start, "block", "it is called wait"),
        (JobManager.start, "timeout", "it takes wait"),
        (RemoteClient.follow, "id", "it is called job_id"),
        (Grader.pytest.__func__, "time", "it is called wall_time_s or cpu_time_s"),  # type: ignore[attr-defined]
        (JobManager.close, "timeout", "it is called drain_timeout_s"),
        (RemoteClient.close, "force", "it is called kill"),
        (RemoteClient.follow, "timeout", "it is called timeout_s"),
        (JobManager.follow, "stream", "it takes job_id, timeout_s"),
        (ClientSync.new_job, "job_id", f"it belongs elsewhere: new_job(task, job_id=...) {OF_WHOM}"),
        (ClientSync.new_job, "timeout", "did you mean timeout_s?"),
        (ClientFuture.new_job, "stdin", "it belongs elsewhere: JobInput(stdin=...)"),
        (RemoteClient.new_job, "prio", "it is called priority"),
        (Grader.pytest.__func__, "timeout", "it is called wall_time_s"),  # type: ignore[attr-defined]
        (Grader.unittest.__func__, "filename", "it is called submission"),  # type: ignore[attr-defined]
        (Grader.pytest.__func__, "most_students", "it belongs elsewhere: Task(..., grader=Grader(most_students=...))"),  # type: ignore[attr-defined]
    ],
)
def test_so_does_one_of_a_call_that_takes_a_job(call: Any, name: str, says: str) -> None:
    with pytest.raises(TypeError) as raised:
        call(None, **{name: 1})
    assert str(raised.value).endswith(f"got an unexpected keyword argument {name!r}: {says}")


@pytest.mark.parametrize("owner", sorted({*_keywords._names, *_keywords._MEANT}))
def test_each_word_that_is_known_anywhere_is_answered_everywhere(owner: str) -> None:
    known = OF_CALLS.get(owner, _keywords._names.get(owner, ()))
    words = {word for each in [*_keywords._MEANT.values(), *_keywords._names.values()] for word in each}
    for word in words - set(known):
        start, _, says = str(_keywords.unexpected_keyword("it", word, known, owner=owner)).partition(f"argument {word!r}: ")
        assert start and says
        assert {*re.findall(r"\b(\w+)=\.\.\.", says)} <= {name for names in OF_ALL.values() for name in names}


def test_every_name_that_a_hint_gives_is_there() -> None:
    known = OF_ALL
    assert set(_keywords._names[_keywords.JOB]) == set(known[_keywords.JOB])
    assert {
        (owner, name)
        for owner, words in _keywords._MEANT.items()
        for names in words.values()
        for name in names.split(_keywords._OR)
        if name not in known[owner]
    } == set()
    assert {(owner, word) for owner, words in _keywords._MEANT.items() for word in words if word in known[owner]} == set()
    assert _keywords._GIVEN.keys() <= known.keys()


def test_signatures_hints_copies_and_pickles_are_as_without_it() -> None:
    task = Task("x", command="a", limits=Limits(memory_mib=64))
    assert list(inspect.signature(Task).parameters)[:3] == ["environment", "command", "grader"]
    assert inspect.signature(Task).parameters["limits"].kind is inspect.Parameter.KEYWORD_ONLY
    assert typing.get_type_hints(Limits.__init__)["memory_mib"] is int
    assert pickle.loads(pickle.dumps(task)) == task == copy.deepcopy(task)
    assert dataclasses.replace(task, name="n").name == "n"
    with pytest.raises(TypeError, match="did you mean limits"):
        dataclasses.replace(task, limit=1)


@pytest.mark.parametrize(
    ("cls", "given", "takes", "named"),
    [
        (Task, ("a", "b", "c"), "environment", "command"),
        (Case, ("1", "2"), "stdin", "name"),
        (Limits, (5,), "no argument", "cpu_time_s"),
    ],
)
def test_an_argument_too_many_without_a_name_says_how_it_is_given(cls: Any, given: Any, takes: str, named: str) -> None:
    with pytest.raises(TypeError) as raised:
        cls(*given)
    says = f"takes {takes} without a name, and {len(given)} were given so: name the others, as in {named}=..."
    assert str(raised.value) == f"{cls.__name__}() {says}"


def test_a_missing_argument_is_told_in_pythons_words() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'environment'"):
        Task()  # type: ignore[call-arg]


def test_a_users_subclass_may_have_arguments_of_its_own() -> None:
    @dataclasses.dataclass(frozen=True)
    class Mine(Task):
        course: str = ""

    assert Mine("x", course="c").course == "c"
