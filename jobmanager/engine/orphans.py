"""Sweeping: what dead managers left on a host, and its removal. What belongs to one that may be alive is never touched."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from jobmanager.engine.docker.config import VOLUME_LABEL
from jobmanager.engine.labels import JOB_LABEL, MANAGER_LABEL, STUDENT_LABEL, why_abandoned
from jobmanager.engine.protocol import BeingRemoved, Engine, EngineFailed, Refused
from jobmanager.model.container import ContainerState, VolumeState

_ANY_MANAGER = {MANAGER_LABEL: None}


class Kind(str, Enum):
    """What a manager makes on a host."""

    CONTAINER = "container"
    VOLUME = "volume"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A container, with its volume, or a volume whose container is gone, of some manager."""

    kind: Kind
    id: str  # by which the engine finds it
    name: str
    manager_id: str
    job_id: str
    why: str  # its manager is taken for dead; empty when it may be alive
    age_s: float  # by the engine's own clock; 0 where it does not tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Everything that managers have on a host."""

    leftovers: tuple[Leftover, ...]  # of dead ones
    others: tuple[Leftover, ...]  # of those that may be alive


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What became of one leftover."""

    leftover: Leftover
    trouble: str = ""  # why it is still there; empty when it is gone


def survey(engine: Engine, retired: Collection[str] = ()) -> Survey:
    """What managers have on this host, and which of them are dead. ``retired``: known to have closed."""
    now_s = engine.info().now_s
    volumes = engine.volumes(_ANY_MANAGER)  # before the containers: a new container's volume is then never taken for lone
    containers = engine.list(_ANY_MANAGER)
    names = {container.name for container in containers}
    lone = [volume for volume in volumes if volume.labels.get(VOLUME_LABEL) not in names]
    found = [
        *(_leftover(Kind.CONTAINER, container, now_s, retired) for container in sorted(containers, key=_is_no_student)),
        *(_leftover(Kind.VOLUME, volume, now_s, retired) for volume in lone),
    ]
    return Survey(
        leftovers=tuple(each for each in found if each.why),
        others=tuple(each for each in found if not each.why),
    )


def remove_leftovers(engine: Engine, leftovers: Iterable[Leftover]) -> Iterator[Removal]:
    """Remove one after the other. One that cannot be removed does not keep the others; an engine that is away does."""
    for leftover in leftovers:
        try:
            if leftover.kind is Kind.CONTAINER:
                engine.remove(leftover.id)
            else:
                engine.remove_volume(leftover.id)
        except BeingRemoved:  # another manager sweeps it as well
            yield Removal(leftover=leftover)
        except (EngineFailed, Refused) as error:
            yield Removal(leftover=leftover, trouble=str(error))
        else:
            yield Removal(leftover=leftover)


def _is_no_student(container: ContainerState) -> bool:
    """Student containers go first: a volume of their grading container is theirs too."""
    return STUDENT_LABEL not in container.labels


def _leftover(kind: Kind, found: ContainerState | VolumeState, now_s: float, retired: Collection[str]) -> Leftover:
    return Leftover(
        kind=kind,
        id=found.id if isinstance(found, ContainerState) else found.name,
        name=found.name,
        manager_id=found.labels.get(MANAGER_LABEL, ""),
        job_id=found.labels.get(JOB_LABEL, ""),
        why=why_abandoned(found.labels, found.created_at_s, now_s, retired),
        age_s=round(max(0.0, now_s - found.created_at_s), 1) if found.created_at_s > 0 else 0.0,
    )
