"""Sweeping: finds and removes what dead managers left on a host. What belongs to a manager that may be alive is not touched."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeVar

from jobmanager.engine.docker.container_config import VOLUME_LABEL
from jobmanager.engine.labels import JOB_LABEL, MANAGER_LABEL, MANAGER_NAME_LABEL, STUDENT_LABEL, abandonment_reason
from jobmanager.engine.protocol import BeingRemoved, Engine, EngineFailed, Refused
from jobmanager.model.container import ContainerInfo, VolumeInfo
from jobmanager.runner.place import RUNNER_LABEL, USER_LABEL

CARRIER_LEASE_S = 60
_ANY_MANAGER = {MANAGER_LABEL: None}
_ANY_RUNNER = {RUNNER_LABEL: None}

Found = TypeVar("Found", ContainerInfo, VolumeInfo)


class LeftoverKind(str, Enum):
    """What a manager creates on a host."""

    CONTAINER = "container"
    VOLUME = "volume"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A container with its volume, a volume whose container is gone, or one that several containers of a job have."""

    kind: LeftoverKind
    id: str  # by which the engine finds it, for a volume its name
    name: str
    manager_id: str
    job_id: str
    why: str  # its manager counts as dead; empty when it may be alive
    age_s: float  # by the engine's own clock; 0 where the engine does not give it
    manager_name: str = ""  # ``JobManager(name=...)``; empty when it has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Everything that managers have on a host."""

    leftovers: tuple[Leftover, ...]  # of dead managers
    others: tuple[Leftover, ...]  # of managers that may be alive


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """The result of removing one leftover."""

    leftover: Leftover
    error: str = ""  # why it is still there; empty when it is gone


def survey(engine: Engine, closed_managers: Collection[str] = ()) -> Survey:
    """What managers have on this host, and which of them are dead. ``closed_managers`` are known to have closed."""
    now_s = engine.info().now_s
    volumes = engine.volumes(_ANY_MANAGER)  # first, so that a new container's volume is never taken for one without a container
    containers = engine.list(_ANY_MANAGER)
    names = {container.name for container in containers}
    lone = [volume for volume in volumes if volume.labels.get(VOLUME_LABEL) not in names]
    containers.sort(key=_is_no_student)
    found = [_leftover(LeftoverKind.CONTAINER, container, now_s, closed_managers) for container in containers]
    alive = {(each.manager_id, each.job_id) for each in found if not each.why}
    for volume in lone:  # after the containers that have them; the lease in its labels is that of its job's first container
        leftover = _leftover(LeftoverKind.VOLUME, volume, now_s, closed_managers)
        found.append(replace(leftover, why="") if (leftover.manager_id, leftover.job_id) in alive else leftover)
    return _divided(found)


def survey_runners(engine: Engine, closed_managers: Collection[str] = ()) -> Survey:
    """What brings the runner to this host: carriers, claims and, where no living manager has a claim, volumes.

    Managers do not sweep such a volume, as the next one can use it. Containers of ``survey`` are to be removed before.
    """
    now_s = engine.info().now_s
    volumes = engine.volumes(_ANY_RUNNER)
    carriers = [_carrier(each, now_s) for each in engine.list(_ANY_RUNNER)]
    claims = [
        _leftover(LeftoverKind.VOLUME, _with_manager(each), now_s, closed_managers) for each in volumes if USER_LABEL in each.labels
    ]
    alive = {claim.name for claim in claims if not claim.why}
    claimed = {each.labels[RUNNER_LABEL] for each in volumes if each.name in alive}
    unclaimed = [
        replace(_leftover(LeftoverKind.VOLUME, each, now_s, closed_managers), why="no manager that may be alive uses it")
        for each in volumes
        if USER_LABEL not in each.labels and each.labels[RUNNER_LABEL] not in claimed
    ]
    found = [*carriers, *claims, *unclaimed]
    return _divided(found)


def carrier_end(carrier: ContainerInfo, now_s: float) -> str:
    """Why a carrier is abandoned; empty when it may be in use. It is so only for some calls, however long its owner lives."""
    if carrier.created_at_s > 0 and now_s - carrier.created_at_s > CARRIER_LEASE_S:
        return f"its lease of {CARRIER_LEASE_S} s is over"
    return abandonment_reason(carrier.labels, carrier.created_at_s, now_s)


def remove_leftovers(engine: Engine, leftovers: Iterable[Leftover]) -> Iterator[Removal]:
    """Remove one after the other. An error with one does not stop the others; an unreachable engine raises."""
    for leftover in leftovers:
        try:
            if leftover.kind is LeftoverKind.CONTAINER:
                engine.remove(leftover.id)
            else:
                engine.remove_volume(leftover.id)
        except BeingRemoved:  # another manager removes it
            yield Removal(leftover=leftover)
        except (EngineFailed, Refused) as error:
            yield Removal(leftover=leftover, error=str(error))
        else:
            yield Removal(leftover=leftover)


def _divided(found: Sequence[Leftover]) -> Survey:
    return Survey(leftovers=tuple(each for each in found if each.why), others=tuple(each for each in found if not each.why))


def _is_no_student(container: ContainerInfo) -> bool:
    """Sort key: student containers go first, as they use a volume of their grading container."""
    return STUDENT_LABEL not in container.labels


def _carrier(found: ContainerInfo, now_s: float) -> Leftover:
    return replace(_leftover(LeftoverKind.CONTAINER, _with_manager(found), now_s, ()), why=carrier_end(found, now_s))


def _with_manager(found: Found) -> Found:
    """With the label of a manager's things, which these do not have: a manager counts and removes what has it, job by job."""
    return replace(found, labels={**found.labels, MANAGER_LABEL: found.labels.get(USER_LABEL, "")})


def _leftover(kind: LeftoverKind, found: ContainerInfo | VolumeInfo, now_s: float, closed_managers: Collection[str]) -> Leftover:
    return Leftover(
        kind=kind,
        id=found.id if isinstance(found, ContainerInfo) else found.name,
        name=found.name,
        manager_id=found.labels.get(MANAGER_LABEL, ""),
        manager_name=found.labels.get(MANAGER_NAME_LABEL, ""),
        job_id=found.labels.get(JOB_LABEL, ""),
        why=abandonment_reason(found.labels, found.created_at_s, now_s, closed_managers),
        age_s=round(max(0.0, now_s - found.created_at_s), 1) if found.created_at_s > 0 else 0.0,
    )
