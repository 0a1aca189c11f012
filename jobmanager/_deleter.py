"""The deleter: makes sure that nothing is left of a container. Runs in the process pool."""

from __future__ import annotations

from jobmanager.engine.labels import MANAGER_LABEL, STUDENT_LABEL
from jobmanager.engine.protocol import Engine, EngineError, NoSuchContainer, Refused
from jobmanager.ipc.messages import ContainerRemoved, RemovalFailed


def delete(engine: Engine, name: str, manager_id: str, *, is_ours: bool) -> ContainerRemoved | RemovalFailed:
    """Kill and remove a manager's container with its volumes; one that does not exist is fine. Never raises EngineError."""
    try:
        if is_ours or not _is_somebody_elses(engine, name, manager_id):
            _remove(engine, name)
    except EngineError as error:
        return RemovalFailed(reason=str(error), only_volume_left=_is_gone(engine, name))
    return ContainerRemoved()


def _remove(engine: Engine, name: str) -> None:
    try:
        engine.remove(name)
    except Refused:  # its shared folder is in use: student containers have outlived their waiter
        for student in engine.list({STUDENT_LABEL: name}):
            engine.remove(student.id)
        engine.remove(name)


def _is_gone(engine: Engine, name: str) -> bool:
    try:
        engine.inspect(name)
    except NoSuchContainer:
        return True
    except EngineError:
        pass
    return False


def _is_somebody_elses(engine: Engine, name: str, manager_id: str) -> bool:
    """Whether a stranger has taken the name: then there is none of ours, and theirs is not to be touched."""
    try:
        return engine.inspect(name).labels.get(MANAGER_LABEL) != manager_id
    except NoSuchContainer:
        return False
