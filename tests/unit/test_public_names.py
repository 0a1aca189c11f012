"""The public surface: what ``__all__`` says is what can be imported, and the errors are one tree, drawn at its top."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re

import pytest

import jobmanager
from jobmanager import errors

SECTION_4 = [
    "JobManager",
    "ClientSync",
    "ClientBuffer",
    "ClientFuture",
    "DockerHost",
    "Task",
    "Pipeline",
    "Phase",
    "Volume",
    "Secret",
    "JobInput",
    "Limits",
    "Network",
    "MultipleChoice",
    "Match",
    "Code",
    "File",
    "JobResult",
    "Outcome",
    "HookManager",
    "Client",
    "unpacked",
]
INNER_PACKAGES = [
    "command_line", "control", "engine", "grading", "ipc",
    "model", "results", "runner", "scheduling", "ssh", "task_folder", "threads", "watching",
]
FRONT_MODULES = [
    *("batch", "buffer", "cli", "client", "doctor", "errors", "events"),
    *("future", "hooks", "live_output", "manager", "remote", "sync", "testing"),
]


def test_all_is_what_can_be_imported_without_an_underscore():
    submodules = {module.name for module in pkgutil.iter_modules(jobmanager.__path__)}
    there = {name for name in vars(jobmanager) if not name.startswith("_")}

    assert set(jobmanager.__all__) - {"__version__"} == there - (submodules - {"errors", "events"})
    for name in jobmanager.__all__:
        assert hasattr(jobmanager, name)
    assert len(set(jobmanager.__all__)) == len(jobmanager.__all__)


def test_every_fixed_name_is_there():
    assert set(SECTION_4) <= set(jobmanager.__all__)


def test_each_module_in_front_says_what_is_public_and_has_it():
    modules = {module.name for module in pkgutil.iter_modules(jobmanager.__path__)}
    assert {name for name in modules if not name.startswith("_")} == {*FRONT_MODULES, *INNER_PACKAGES}

    for name in FRONT_MODULES:
        module = importlib.import_module(f"jobmanager.{name}")
        own = {key for key, value in vars(module).items()
               if not key.startswith("_") and getattr(value, "__module__", None) == module.__name__}  # fmt: skip
        public = {key for key in own if inspect.isclass(vars(module)[key])}
        assert public <= set(module.__all__) <= set(vars(module)), name


def test_every_public_class_and_method_says_what_it_is_for():
    for name in jobmanager.__all__:
        value = getattr(jobmanager, name)
        if inspect.isclass(value) and value.__module__.startswith("jobmanager"):
            assert value.__doc__, name
            for key, method in vars(value).items():
                if inspect.isfunction(method) and not key.startswith("_"):
                    assert method.__doc__, f"{name}.{key}"


def test_the_version_is_one():
    assert re.fullmatch(r"\d+\.\d+.*", jobmanager.__version__)


def _error_classes():
    return [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, BaseException)]


def test_all_errors_have_one_root_and_are_public():
    classes = _error_classes()

    assert set(errors.__all__) == {cls.__name__ for cls in classes}
    for cls in classes:
        assert issubclass(cls, errors.JobManagerError), cls
        assert cls.__doc__, cls


def test_the_drawing_at_the_top_is_the_tree():
    drawn = {}  # name: its parent's name
    path = []
    for line in errors.__doc__.splitlines():
        found = re.match(r"([ │├└─]*)([A-Z]\w+)(?: \(also an? (\w+)\))?", line.removeprefix("    "))
        if found and found[2] in errors.__all__:
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            drawn[found[2]] = (path[depth - 1] if depth else None, found[3])

    assert set(drawn) == set(errors.__all__)
    for name, (parent, other) in drawn.items():
        bases = [base.__name__ for base in getattr(errors, name).__bases__]
        assert bases == [parent or "Exception", *([other] if other else [])], name


@pytest.mark.parametrize(
    ("ours", "builtin"),
    [
        (errors.InvalidTask, ValueError),
        (errors.UnknownJob, LookupError),
        (errors.JobTimeout, TimeoutError),
        (errors.NotSupported, NotImplementedError),
    ],
)
def test_an_error_that_python_has_a_word_for_can_be_caught_by_it(ours, builtin):
    with pytest.raises(builtin):
        raise ours("x")


def test_importing_the_library_imports_neither_docker_nor_the_fake_engine():
    import subprocess
    import sys

    code = "import sys, jobmanager; print([n for n in ('docker', 'requests', 'jobmanager.testing') if n in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert said.stdout.strip() == "[]"
