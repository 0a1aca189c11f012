"""The deleter: makes sure that nothing is left of a container. Runs in the process pool."""

from __future__ import annotations

from jobmanager.engine.protocol import Engine, EngineError
from jobmanager.model.messages import Deleted, DeleteFailed


def delete(engine: Engine, name: str) -> Deleted | DeleteFailed:
    """Kill and remove a container with its volumes; one that does not exist is fine. Never raises EngineError."""
    try:
        engine.remove(name)
    except EngineError as error:
        return DeleteFailed(reason=str(error))
    return Deleted()
