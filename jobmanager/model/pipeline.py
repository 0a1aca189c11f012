"""``Pipeline``: a job of several containers, one after the other on one host, that share volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jobmanager.errors import InvalidTask
from jobmanager.model import _checks
from jobmanager.model._exact import make_exact, own
from jobmanager.model._forms import Load
from jobmanager.model._keywords import explains_keywords
from jobmanager.model.as_data import VersionedAsData, from_data
from jobmanager.model.phase import Phase, wants_inputs
from jobmanager.model.problems import Problem
from jobmanager.model.task import Task
from jobmanager.model.volume import Volume

_MAX_PHASES = 32
_MAX_VOLUMES = 32


@explains_keywords
@dataclass(frozen=True, slots=True)
class Pipeline(VersionedAsData, kind="pipeline", invalid=InvalidTask):
    """What to run in several containers: phases in their order, and the volumes that they share. Reusable and immutable.

    A job's ``JobInput`` goes to the first phase, and to those with ``inputs=True``: to each its files and standard input,
    its notes, and the answers to the problems of that phase's own task. The problems of a pipeline are those of all its
    phases. A problem that several phases have is one problem, with one answer. An answer that no phase has a problem for is
    refused. MultipleChoice and Match are answered in the caller's process whatever phase has them, once.

    Files that tasks bring, and the workspaces, are each phase's own: only volumes are shared.

    Args:
        phases: what is run, in this order. The first one has ``when="on_success"``.
        volumes: sizes of volumes by name; a name that phases use and that is not here is a ``Volume()``.
        wall_time_s: seconds from the start of the first phase to the end of the last; None: the sum of the phases' own
            wall-clock limits. Phases before an ``always`` phase cannot use the time that its own limit stands for.
        name: free text for logs and queue listings; pipelines of one name share an estimate of how long they take.

    Raises:
        InvalidTask: an argument makes no sense, or the phases do not fit together.
    """

    phases: Sequence[Phase]
    volumes: Mapping[str, Volume] | None = field(default=None, kw_only=True)
    wall_time_s: float | None = field(default=None, kw_only=True)
    name: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        make_exact(self, InvalidTask)
        freeze = object.__setattr__
        freeze(self, "phases", _phases(self.phases))
        _check_order(self.phases)
        freeze(self, "volumes", _volumes(self.phases, self.volumes))
        _check_inputs(self)
        _checks.string("name", self.name, InvalidTask)
        if self.wall_time_s is not None:
            self._check_deadline(self.wall_time_s)

    @property
    def needs_container(self) -> bool:
        """True: every phase has one."""
        return True

    @property
    def environments(self) -> frozenset[str]:
        """The environments that a host must have for it, those of graders' student containers included."""
        return frozenset().union(*(phase.task.environments for phase in self.phases))

    @property
    def networks(self) -> frozenset[str]:
        """The networks of its own that a host must have for it."""
        return frozenset().union(*(phase.task.networks for phase in self.phases))

    @property
    def memory_mib(self) -> int:
        """Memory that a host must have for it: that of the largest phase, and all volumes, full."""
        return max(phase.task.memory_mib for phase in self.phases) + sum(each.size_mib for each in (self.volumes or {}).values())

    @property
    def cpus(self) -> float:
        """Cores that the largest phase can use."""
        return max(phase.task.cpus for phase in self.phases)

    @property
    def wall_s(self) -> float:
        """The deadline in seconds, with its default."""
        if self.wall_time_s is not None:
            return self.wall_time_s
        return min(sum(phase.task.wall_s for phase in self.phases), _checks.YEAR_S)

    @property
    def title(self) -> str:
        """Its name in listings: its own, or those of its phases."""
        return self.name or ", ".join(phase.name for phase in self.phases)

    @property
    def problems(self) -> Mapping[str, Problem]:
        """The problems of all phases."""
        return {key: problem for phase in self.phases for key, problem in (phase.task.problems or {}).items()}

    @property
    def random_inputs(self) -> int:
        """How many random numbers a job's ``@random`` holds."""
        return max(phase.task.random_inputs for phase in self.phases)

    def gets_inputs(self, index: int) -> bool:
        """Whether the phase at this place gets the job's ``JobInput``."""
        return index == 0 or self.phases[index].inputs

    def always_reserve_s(self, after: int) -> float:
        """The seconds of the deadline that are kept for the ``always`` phases behind the phase at this place (-1: for all)."""
        return sum(phase.task.wall_s for phase in self.phases[after + 1 :] if phase.when == "always")

    def _check_deadline(self, wall_time_s: float) -> None:
        _checks.timeout("wall_time_s", wall_time_s, InvalidTask)
        reserve_s = self.always_reserve_s(0)
        if wall_time_s <= reserve_s:
            raise InvalidTask(
                f"wall_time_s is {wall_time_s:g}, and the phases that always run keep {reserve_s:g} s of it: nothing is left for"
                " the others; raise it, or lower the wall_time_s of those phases' limits"
            )


def task_or_pipeline(data: object, *, load: Load | None = None) -> Task | Pipeline:
    """Whichever of the two ``to_data`` has written. Raises InvalidTask, as ``from_dict``."""
    is_pipeline = isinstance(data, dict) and data.get("kind") == "pipeline"
    return from_data(Pipeline, data, load=load) if is_pipeline else from_data(Task, data, load=load)


def _phases(given: Sequence[Phase]) -> tuple[Phase, ...]:
    several = _checks.several("phases", given, "Phases", InvalidTask, at_most=_MAX_PHASES)
    if not several:
        raise InvalidTask("a pipeline needs at least one phase")
    for each in several:
        if not isinstance(each, Phase):
            raise InvalidTask(f"phases must be Phases, not {each!r}")
    phases = tuple(own(Phase, each) for each in several if isinstance(each, Phase))
    _checks.no_duplicates("phases", [phase.name for phase in phases], InvalidTask)
    return phases


def _check_order(phases: Sequence[Phase]) -> None:
    """The first phase runs in any case, and what a phase reads was written by one before it."""
    first = phases[0]
    if first.when != "on_success":
        raise InvalidTask(f"phase {first.name!r} is the first, and no phase before it can fail: leave out when={first.when!r}")
    written: set[str] = set()
    for phase in phases:
        for volume in phase.reads:
            if volume not in written:
                raise InvalidTask(
                    f"phase {phase.name!r} reads the volume {volume!r}, which no phase before it writes: name it in the writes of"
                    " one that runs earlier"
                )
        written.update(phase.writes)


def _volumes(phases: Sequence[Phase], given: Mapping[str, Volume] | None) -> dict[str, Volume]:
    """All volumes that are used, in the order of their first use."""
    declared = {} if given is None else given
    if not isinstance(declared, Mapping):
        raise InvalidTask(f"volumes must map names to Volumes, not {type(given).__name__}")
    used = dict.fromkeys(name for phase in phases for name in phase.volumes)
    for name, volume in declared.items():
        _checks.short_name("a volume's name", name, InvalidTask)
        if not isinstance(volume, Volume):
            raise InvalidTask(f"volume {name!r} must be a Volume, not {volume!r}")
        if name not in used:
            raise InvalidTask(f"volume {name!r} is used by no phase: name it in a phase's reads or writes, or leave it out")
    if len(used) > _MAX_VOLUMES:
        raise InvalidTask(f"a pipeline has at most {_MAX_VOLUMES} volumes, not {len(used)}")
    return {name: own(Volume, declared.get(name, Volume())) for name in used}


def _check_inputs(pipeline: Pipeline) -> None:
    """A phase that needs the job's input gets it, and one id stands for one problem."""
    problems: dict[str, Problem] = {}
    random_inputs = set()
    for index, phase in enumerate(pipeline.phases):
        if (reason := wants_inputs(phase.task)) and not pipeline.gets_inputs(index):
            raise InvalidTask(f"phase {phase.name!r} gets no input, and {reason}: give it inputs=True")
        for key, problem in (phase.task.problems or {}).items():
            if problems.setdefault(key, problem) != problem:
                raise InvalidTask(f"phase {phase.name!r}: problem {key!r} is another one in a phase before: give it another id")
        random_inputs.add(phase.task.random_inputs)
    if len(random_inputs - {0}) > 1:
        raise InvalidTask(f"the phases want {sorted(random_inputs - {0})} random_inputs, and a job has one list: give all the same")
