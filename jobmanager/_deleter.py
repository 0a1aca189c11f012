"""The deleter: removes a container and its volumes, and the volumes that a job's containers shared.

Runs in the process pool; in the waiter for what is started beside a job.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from jobmanager.engine.labels import MANAGER_LABEL, STUDENT_LABEL
from jobmanager.engine.protocol import Engine, EngineError, EngineFailed, NoSuchContainer, Refused
from jobmanager.ipc.messages import ContainerRemoved, RemovalFailed, VolumeRemovalFailed, VolumesRemoved

_LEAVE_S = 2.0  # for a runner that was told to end; some hundredths of a second are usual


def delete(
    engine: Engine, name: str, manager_id: str, *, is_ours: bool, is_leaving: bool = False, has_others: bool = False
) -> ContainerRemoved | RemovalFailed:
    """Kill and remove a manager's container with its volumes; one that does not exist is fine. Never raises EngineError.

    One that is leaving is waited for: to kill it costs an engine more, and Docker 20.10 may list a container for ever that ends
    while it is removed. ``has_others``: what its waiter has started beside it is removed, too, where it is still there.
    """
    try:
        if is_ours or not _belongs_to_another(engine, name, manager_id):
            if is_leaving:
                _wait_until_it_has_left(engine, name)
            _remove(engine, name)
            if has_others:
                delete_students(engine, name)
    except EngineError as error:
        return RemovalFailed(reason=str(error), only_volume_left=_is_removed(engine, name))
    return ContainerRemoved()


def delete_volumes(engine: Engine, names: Iterable[str], manager_id: str) -> VolumesRemoved | VolumeRemovalFailed:
    """Remove a manager's volumes by name. One that does not exist is fine; one that is not this manager's is left alone.

    One that cannot be removed does not stop the others. Never raises EngineError.
    """
    reasons = []
    try:
        ours = {volume.name for volume in engine.volumes({MANAGER_LABEL: manager_id})}
        for name in sorted(ours.intersection(names)):
            try:
                engine.remove_volume(name)
            except (Refused, EngineFailed) as error:
                reasons.append(str(error))
    except EngineError as error:
        reasons.append(str(error))
    return VolumeRemovalFailed(reason="; ".join(reasons)) if reasons else VolumesRemoved()


def delete_students(engine: Engine, name: str) -> None:
    """Remove the containers that were started beside this one and outlived it, or their waiter; raises EngineError."""
    for student in engine.list({STUDENT_LABEL: name}):
        engine.remove(student.id)


def _wait_until_it_has_left(engine: Engine, name: str) -> None:
    with suppress(EngineError):  # it is gone, or killed after all
        engine.wait_until_ended(name, _LEAVE_S)


def _remove(engine: Engine, name: str) -> None:
    try:
        engine.remove(name)
    except Refused:  # its shared folder is in use by student containers that outlived their waiter
        delete_students(engine, name)
        engine.remove(name)


def _is_removed(engine: Engine, name: str) -> bool:
    try:
        engine.inspect(name)
    except NoSuchContainer:
        return True
    except EngineError:
        pass
    return False


def _belongs_to_another(engine: Engine, name: str, manager_id: str) -> bool:
    """Whether the container of this name is not this manager's: then ours does not exist, and theirs must not be touched."""
    try:
        return engine.inspect(name).labels.get(MANAGER_LABEL) != manager_id
    except NoSuchContainer:
        return False
