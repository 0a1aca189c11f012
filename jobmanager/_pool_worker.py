"""A pool worker: runs submitters and deleters, one at a time, and keeps a connection to each host."""

from __future__ import annotations

import logging
from multiprocessing.connection import Connection

from jobmanager._deleter import delete, delete_volumes
from jobmanager._submitter import submit
from jobmanager.engine.connect import connect
from jobmanager.engine.protocol import Engine
from jobmanager.ipc.messages import (
    PoolReply,
    PoolRequest,
    RemovalFailed,
    RemoveVolumes,
    Shutdown,
    StartContainer,
    StartFailed,
    VolumeRemovalFailed,
)
from jobmanager.ipc.process import forward_logs
from jobmanager.model.host import Address

_log = logging.getLogger(__name__)


def main(connection: Connection) -> None:
    """Serve requests until ``Shutdown``."""
    forward_logs(connection.send)
    engines: dict[Address, Engine] = {}
    while not isinstance(request := connection.recv(), Shutdown):
        connection.send(_reply(request, engines))


def _reply(request: PoolRequest, engines: dict[Address, Engine]) -> PoolReply:
    try:
        engine = engines.get(request.address) or connect(request.address, timeout_s=request.timeout_s)
        engines[request.address] = engine
        if isinstance(request, StartContainer):
            return submit(engine, request.container, may_pull=request.address.pull == "missing")
        if isinstance(request, RemoveVolumes):
            return delete_volumes(engine, request.names, request.manager_id)
        return delete(engine, request.name, request.manager_id, is_ours=request.is_ours)
    except Exception as error:  # noqa: BLE001 - the loop's edge: a bug here must not cost the job its result
        _log.exception("%s failed", type(request).__name__)
        engines.pop(request.address, None)
        reason = f"{type(error).__name__}: {error}"
        if isinstance(request, StartContainer):
            return StartFailed(reason=reason, unreachable=False)
        if isinstance(request, RemoveVolumes):
            return VolumeRemovalFailed(reason=reason)
        return RemovalFailed(reason=reason)
