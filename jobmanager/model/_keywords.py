"""What is said of a keyword that a class or a call does not know: its name here, or where what was meant is given.

One table for all: the words that newcomers bring from Docker's SDK and from other judges. A name with a typing error is found
by its letters, and one that belongs to another class by that class's own fields.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import wraps
from typing import Any, TypeVar, cast

_C = TypeVar("_C", bound=type)
_F = TypeVar("_F", bound=Callable[..., Any])
_CUTOFF = 0.75  # of difflib: a letter or two
JOB = "new_job"  # the calls that take a job
BATCH = "map"  # those that take many
TESTS = "Grader.pytest"  # those that make a grader of tests
START, CLOSE, FOLLOW = "start", "close", "follow"
_TAKE_NO_JOB = (START, CLOSE, FOLLOW)

_WALL, _CPU, _MEMORY, _SLOTS = "wall_time_s", "cpu_time_s", "memory_mib", "max_concurrent_jobs"
_OR = " or "  # between two names: the word says not which
_OF_A_JOB = {
    **dict.fromkeys(("user", "launcher", "owner"), "launcher_name"),
    **dict.fromkeys(("id", "task_id"), "job_id"),
    **dict.fromkeys(("on_done", "on_result", "on_end"), "callback"),
    **dict.fromkeys(("input_data", "input", "inputs"), "inputdata"),
    "prio": "priority",
}
_MEANT: Mapping[str, Mapping[str, str]] = {  # by class or call, then by word: the name that it has there, or two names
    "Task": {
        **dict.fromkeys(("image", "docker_image", "container", "env_name", "language"), "environment"),
        **dict.fromkeys(("cmd", "args", "entrypoint", "run", "script", "program"), "command"),
        **dict.fromkeys(("environ", "envs", "env_vars", "variables"), "env"),
        **dict.fromkeys(("mounts", "binds", "volume", "volumes", "code", "source"), "files"),
        **dict.fromkeys(("folder", "path", "dir"), "directory"),
        **dict.fromkeys(("network_mode", "networks", "internet"), "network"),
        **dict.fromkeys(("retry", "max_retries", "attempts"), "retries"),
        **dict.fromkeys(("outputs", "artifacts", "output_files"), "collect"),
        **dict.fromkeys(("tests", "test_cases"), "cases"),
        "title": "name",
    },
    "Limits": {
        **dict.fromkeys(("time", "time_s", "time_limit", "max_time"), _WALL + _OR + _CPU),
        **dict.fromkeys(("timeout", "timeout_s", "hard_time", "wall", "wall_time", "clock"), _WALL),
        **dict.fromkeys(("cpu", "cpu_time", "cpu_limit", "cpu_seconds"), _CPU),
        **dict.fromkeys(("memory", "mem", "mem_limit", "memory_limit", "memory_mb", "ram", "max_memory"), _MEMORY),
        **dict.fromkeys(("pids", "pids_limit", "nproc", "max_processes", "threads"), "processes"),
        **dict.fromkeys(("output", "max_output", "output_limit", "output_kb"), "output_kib"),
        **dict.fromkeys(("disk", "workspace", "disk_mb", "storage"), "workspace_mib"),
        **dict.fromkeys(("nofile", "files_open"), "open_files"),
        **dict.fromkeys(("cores", "cpu_count", "nano_cpus"), "cpus"),
    },
    TESTS: {
        **dict.fromkeys(("timeout", "timeout_s", "wall", "wall_time"), _WALL),
        **dict.fromkeys(("time", "time_s", "time_limit", "max_time"), _WALL + _OR + _CPU),
        **dict.fromkeys(("cpu", "cpu_time", "cpu_limit"), _CPU),
        **dict.fromkeys(("memory", "mem_limit", "memory_mib", "memory_limit"), "student_memory_mib"),
        **dict.fromkeys(("file", "filename", "solution", "module", "student"), "submission"),
        **dict.fromkeys(("test", "test_files", "pattern", "files"), "tests"),
    },
    "JobInput": {**dict.fromkeys(("input", "inputs", "data"), "stdin"), **dict.fromkeys(("answer", "submission"), "answers")},
    "DockerHost": {
        **dict.fromkeys(("workers", "max_workers", "concurrency", "slots", "max_jobs", "parallel", "jobs"), _SLOTS),
        **dict.fromkeys(("base_url", "host", "docker_host", "socket"), "url"),
        **dict.fromkeys(("certs", "cert_path", "tls_config"), "tls"),
    },
    "JobManager": {
        **dict.fromkeys(("docker_hosts", "engines", "urls", "base_url", "url", "docker_host", "socket"), "hosts"),
        **dict.fromkeys(("images", "aliases"), "environments"),
        **dict.fromkeys(("hooks", "on_event"), "hook_manager"),
        **dict.fromkeys(("max_queue", "queue_size", "max_queue_size"), "max_waiting_jobs"),
        **dict.fromkeys(("callback_workers", "callbacks"), "callback_threads"),
    },
    "Case": {
        **dict.fromkeys(("output", "answer", "expected_output"), "expected"),
        **dict.fromkeys(("timeout", "timeout_s", "wall", "wall_time"), _WALL),
        **dict.fromkeys(("time", "time_s", "time_limit", "max_time"), _WALL + _OR + _CPU),
        **dict.fromkeys(("cpu", "cpu_time", "cpu_limit", "cpu_seconds"), _CPU),
        "input": "stdin",
    },
    "Phase": dict.fromkeys(("volume", "volumes"), "writes"),
    "Grader": dict.fromkeys(("command", "cmd", "script", "program", "entrypoint", "run_cmd"), "run"),
    "MultipleChoice": {
        **dict.fromkeys(("answer", "answers", "right", "solution", "valid"), "correct"),
        "options": "choices",
    },
    "Match": dict.fromkeys(("expected", "correct", "solution", "right", "text"), "answer"),
    "Code": dict.fromkeys(("file", "path"), "filename"),
    "File": {
        **dict.fromkeys(("file", "path"), "filename"),
        **dict.fromkeys(("allowed_exts", "exts", "endings"), "extensions"),
        **dict.fromkeys(("max_size", "size"), "max_bytes"),
    },
    "Floats": {
        **dict.fromkeys(("tolerance", "tol", "precision"), f"absolute{_OR}relative"),
        **dict.fromkeys(("atol", "abs_tol", "eps", "epsilon"), "absolute"),
        **dict.fromkeys(("rtol", "rel_tol"), "relative"),
    },
    JOB: _OF_A_JOB,
    BATCH: {
        **{word: name for word, name in _OF_A_JOB.items() if name in ("launcher_name", "priority")},
        **dict.fromkeys(("workers", "max_workers", "concurrency", "parallel", "jobs", "n_jobs", "max_concurrent_jobs"), "at_once"),
        **dict.fromkeys(("path", "file", "output", "checkpoint", "log"), "results"),
        **dict.fromkeys(("tqdm", "verbose", "bar"), "progress"),
        **dict.fromkeys(("on_error", "errors", "return_exceptions"), "on_refused"),
        **dict.fromkeys(("input", "inputdata", "input_data", "iterable"), "inputs"),
    },
    START: dict.fromkeys(("block", "blocking"), "wait"),
    CLOSE: {
        **dict.fromkeys(("timeout", "timeout_s", "wait_s", "grace_s"), "drain_timeout_s"),
        **dict.fromkeys(("force", "now", "cancel"), "kill"),
    },
    FOLLOW: {**dict.fromkeys(("timeout", "wait_s"), "timeout_s"), **dict.fromkeys(("id", "task_id", "job"), "job_id")},
}
_GIVEN = {  # how what belongs to another class is given
    "Task": "Task(..., {}=...)",
    "Limits": "Task(..., limits=Limits({}=...))",
    "JobInput": "JobInput({}=...)",
    "DockerHost": "DockerHost(url, {}=...)",
    "JobManager": "JobManager({}=...)",
    "Case": "Case({}=...)",
    "Phase": "Phase(name, task, {}=...)",
    "Grader": "Task(..., grader=Grader({}=...))",
    JOB: "new_job(task, {}=...) of a JobManager or RemoteClient",
}
_FIRST = {
    ("Task", "environment"): "Task('python3', ...)",
    ("DockerHost", "url"): "DockerHost('unix:///var/run/docker.sock')",
    ("JobManager", "hosts"): "JobManager('unix:///var/run/docker.sock')",
}
_NEEDLESS = {(BATCH, "wait_s"): "a batch waits for room in the queue by itself"}
_names: dict[str, tuple[str, ...]] = {  # of each class that explains its keywords, and of the calls that take a job: its own names
    JOB: ("inputdata", "callback", "priority", "launcher_name", "debug", "ssh_callback", "job_id", "supersede_key", "wait_s")
}


def explains_keywords(cls: _C) -> _C:
    """Class decorator: an unknown keyword is a TypeError that says what was meant. Signature and hints stay as they are."""
    made = cls.__init__  # type: ignore[misc]  # of this class itself, which a subclass of a user's own replaces or calls
    _names[cls.__name__] = tuple(inspect.signature(made).parameters)[1:]
    cls.__init__ = _explained(made, f"{cls.__name__}()", cls.__name__)  # type: ignore[misc]
    return cls


def call_explains_keywords(owner: str) -> Callable[[_F], _F]:
    """The same for a method (below its ``@classmethod``, if it is one); ``owner`` is the call in the table of words."""

    def decorate(method: _F) -> _F:
        return _explained(method, f"{method.__qualname__}()", owner)

    return decorate


def _explained(function: _F, what: str, owner: str) -> _F:
    parameters = list(inspect.signature(function).parameters.values())[1:]  # without self or cls
    known = [each.name for each in parameters]
    by_place = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    by_name = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]

    @wraps(function)
    def explained(own: object, /, *arguments: Any, **keywords: Any) -> Any:
        if by_name and len(arguments) > len(by_place):
            takes = f"takes {', '.join(by_place)} without a name" if by_place else "takes no argument without a name"
            raise TypeError(f"{what} {takes}, and {len(arguments)} were given so: name the others, as in {by_name[0]}=...")
        for name in keywords:
            if name not in known:
                raise unexpected_keyword(what, name, known, owner=owner)
        return function(own, *arguments, **keywords)

    return cast(_F, explained)


def unexpected_keyword(what: str, name: str, known: Collection[str], *, owner: str = JOB) -> TypeError:
    """The error for a keyword that is not known; ``owner`` is the class or the call whose words are looked up first."""
    hint = next(_hints(owner, name, known), f"it takes {', '.join(known)}")
    return TypeError(f"{what} got an unexpected keyword argument {name!r}: {hint}")


def _hints(owner: str, name: str, known: Collection[str]) -> Iterator[str]:
    word = name.lower()
    meant = _MEANT.get(owner, {}).get(word)
    if meant is not None and set(meant.split(_OR)) <= set(known):
        first = _FIRST.get((owner, meant))
        yield f"it is called {meant}" if first is None else f"it is the first argument, {meant}: {first}"
    if (owner, word) in _NEEDLESS:
        yield f"it is not needed: {_NEEDLESS[owner, word]}"
    elsewhere = [] if owner in _TAKE_NO_JOB else list(_GIVEN)
    for other in elsewhere:
        if word in _names.get(other, ()) and word not in known:
            yield from _given(other, word)
    for near in difflib.get_close_matches(word, known, n=1, cutoff=_CUTOFF):
        yield f"did you mean {near}?"
    for other in elsewhere:
        if other != owner and word in _MEANT.get(other, {}):
            yield from _given(other, _MEANT[other][word])


def _given(other: str, meant: str) -> Iterator[str]:
    """How an argument of another class is given; nothing where its place says it, as that of a phase's task."""
    first, *more = meant.split(_OR)
    template = _GIVEN[other]
    if re.search(rf"\b{first}[,)]", template):
        template = _FIRST.get((other, first), "")
    if template:
        yield f"it belongs elsewhere: {template.format(first)}" + "".join(f", or {each}" for each in more)
