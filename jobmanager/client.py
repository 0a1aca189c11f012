"""``Client``: what the ways in need of a manager, local or distributed. ``JobOptions``: what every ``new_job`` takes by keyword."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar, Union, get_type_hints, runtime_checkable

from jobmanager.errors import InvalidValue
from jobmanager.live_output.reader import LiveOutput
from jobmanager.model._keywords import BATCH, JOB, unexpected_keyword
from jobmanager.model._repr import value_repr
from jobmanager.model.job import JobInput
from jobmanager.model.listings import HostInfo, QueueInfo, RunningJob, WaitingJob
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.problems import Answer
from jobmanager.model.result import Callback, SSHCallback
from jobmanager.model.task import Task

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["BatchOptions", "Client", "JobOptions", "ManagerJobOptions", "NamedJobOptions"]

InputData = Union[JobInput, Mapping[str, Answer], None]
Debug = Union[bool, str]  # False, True, or "ssh"
_Method = TypeVar("_Method", bound=Callable[..., Any])


class BatchOptions(TypedDict, total=False):
    """What every way to submit takes by keyword, for one job or for many; ``JobManager.new_job`` says what each means."""

    priority: int
    launcher_name: str
    debug: Debug


class JobOptions(BatchOptions, total=False):
    """What every ``new_job`` takes by keyword."""

    supersede_key: str | None
    wait_s: float | None


class NamedJobOptions(JobOptions, total=False):
    """The same where the caller may choose the job's id."""

    job_id: str | None


class ManagerJobOptions(NamedJobOptions, total=False):
    """The same where a person may log in to the job's container."""

    ssh_callback: SSHCallback | None


JOB_DEFAULTS: ManagerJobOptions = {
    "priority": 0,
    "launcher_name": "Unknown",
    "debug": False,
    "ssh_callback": None,
    "job_id": None,
    "supersede_key": None,
    "wait_s": 0.0,
}


def takes_job_options(options: type) -> Callable[[_Method], _Method]:
    """Let a method's ``**options`` be the keywords of a TypedDict: in its signature, type hints and TypeErrors."""
    hints = get_type_hints(options)
    names = [name for name in JOB_DEFAULTS if name in hints]

    def decorate(method: _Method) -> _Method:
        own = inspect.signature(method)
        parameters = [parameter for parameter in own.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        places = [number for number, parameter in enumerate(parameters) if parameter.kind is parameter.KEYWORD_ONLY]
        place = min(places, default=len(parameters))
        parameters[place:place] = [_parameter(name, options) for name in names]
        known = dict.fromkeys(parameter.name for parameter in parameters[1:])
        call = BATCH if options is BatchOptions else JOB

        @wraps(method)
        def checked(*arguments: Any, **keywords: Any) -> Any:
            for name in keywords:
                if name not in known:
                    owner = type(arguments[0]) if arguments else object
                    named = f"{owner.__name__}.{method.__name__}" if hasattr(owner, method.__name__) else method.__qualname__
                    raise unexpected_keyword(f"{named}()", name, known, owner=call)
            return method(*arguments, **keywords)

        checked.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        written = {name: kind for name, kind in method.__annotations__.items() if name in {*known, "return"}}
        checked.__annotations__ = {**written, **{name: hints[name] for name in names}}
        return checked  # type: ignore[return-value]

    return decorate


def _parameter(name: str, options: type) -> inspect.Parameter:
    annotation = options.__annotations__[name].__forward_arg__
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=JOB_DEFAULTS[name], annotation=annotation  # type: ignore[literal-required]
    )


def checked_client(given: Client) -> Client:
    """What can run jobs, as far as the ways in need it; raises InvalidValue for anything else, such as a host or a class."""
    if isinstance(given, type) or not all(callable(getattr(given, name, None)) for name in ("new_job", "kill_job")):
        raise InvalidValue(f"client must be a JobManager, a RemoteClient or another Client, not {value_repr(given)}")
    return given


@runtime_checkable
class Client(Protocol):
    """What ``ClientSync``, ``ClientBuffer`` and ``ClientFuture`` work with."""

    def start(self, *, wait: bool = True) -> None:
        """Begin to take jobs. ``wait=False``: without waiting for a Docker host to answer."""

    def close(self) -> None:
        """Take no more jobs, let the accepted ones end, stop everything."""

    @takes_job_options(ManagerJobOptions)
    def new_job(
        self,
        task: Task | Pipeline,
        inputdata: InputData = None,
        callback: Callback | None = None,
        **options: Unpack[ManagerJobOptions],
    ) -> str:
        """Accept a job and return its id; the callback is called exactly once, in this process, never from in here."""
        ...

    def kill_job(self, job_id: str) -> bool:
        """Ask for a job's end; False when it has ended already or is unknown."""
        ...

    def get_job_queue_info(self, job_id: str) -> QueueInfo | None:
        """Jobs that will start before it (-1 when it has a host) and seconds, if known; None when it has ended or is unknown."""
        ...

    def get_job_queue_snapshot(self) -> tuple[list[RunningJob], list[WaitingJob]]:
        """Running and waiting jobs."""
        ...

    def queue_length(self) -> int:
        """How many jobs wait."""
        ...

    def get_available_environments(self) -> dict[str, list[str]]:
        """Names of what can be run now, by environment type."""
        ...

    def hosts(self) -> list[HostInfo]:
        """A record for each host: a Docker host, or a node of a cluster."""
        ...

    def follow(self, job_id: str, *, timeout_s: float | None = None) -> LiveOutput:
        """What a job prints, from its beginning, as it comes."""
        ...

    def stop_following(self) -> None:
        """End all readers of live output, and those that come later."""
