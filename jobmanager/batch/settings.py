"""What ``map`` was given, checked: one record."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Union

from jobmanager.batch.progress import BatchProgress
from jobmanager.client import JOB_DEFAULTS, BatchOptions, Client
from jobmanager.errors import InvalidInput, InvalidTask, InvalidValue
from jobmanager.model import _checks
from jobmanager.model.job import checked_options
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.task import Task

Key = Union[Callable[[Any], str], None]
ResultsPath = Union[str, os.PathLike[str], None]
ShowProgress = Union[bool, Callable[[BatchProgress], object]]
OnRefused = Union[Callable[[Any, InvalidInput], object], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """Settings of one batch; ``JobManager.map`` says what each means."""

    client: Client
    task: Task | Pipeline
    key: Key
    results: str | None
    ordered: bool
    at_once: int | None
    progress: ShowProgress
    on_refused: OnRefused
    options: BatchOptions

    @classmethod
    def checked(
        cls,
        client: Client,
        task: Task | Pipeline,
        *,
        key: Key,
        results: ResultsPath,
        ordered: bool,
        at_once: int | None,
        progress: ShowProgress,
        on_refused: OnRefused,
        options: BatchOptions,
    ) -> BatchSettings:
        """The settings that these arguments stand for. Raises InvalidValue where one makes no sense."""
        if not isinstance(task, (Task, Pipeline)):
            raise InvalidTask(f"task must be a Task or a Pipeline, not {task!r}")
        if key is not None:
            _checks.callback("key", key, InvalidValue, "input")
        if results is not None and not isinstance(results, (str, os.PathLike)):
            raise InvalidValue(f"results must be the path of a file, not {results!r}")
        if not isinstance(progress, bool):
            _checks.callback("progress", progress, InvalidValue, "progress")
        if on_refused is not None:
            _checks.callback("on_refused", on_refused, InvalidValue, "input", "error")
        checked_options({**JOB_DEFAULTS, **options})
        if options.get("debug") == "ssh":
            raise InvalidInput('debug="ssh" is for a single job: new_job of the manager takes it')
        return cls(
            client=client,
            task=task,
            key=key,
            results=None if results is None else os.fspath(results),
            ordered=_checks.flag("ordered", ordered),
            at_once=None if at_once is None else _checks.positive_int("at_once", at_once),
            progress=progress,
            on_refused=on_refused,
            options=options,
        )


def check_inputs(inputs: object, *kinds: type) -> None:
    """Raises InvalidInput: it cannot be iterated over, or is a single input."""
    if isinstance(inputs, (str, bytes, Mapping)) or not isinstance(inputs, (Iterable, *kinds)):
        raise InvalidInput(f"inputs must be an iterable of inputs, such as a list or a generator, not {type(inputs).__name__}")
