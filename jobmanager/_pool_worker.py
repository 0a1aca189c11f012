"""A pool worker: runs submitters and deleters, one at a time, and keeps a connection to each host."""

from __future__ import annotations

import logging
from multiprocessing.connection import Connection

from jobmanager._deleter import delete, delete_volumes
from jobmanager._submitter import submit
from jobmanager.engine.connect import connect, engine_class
from jobmanager.engine.protocol import Engine
from jobmanager.engine.runner_volume import RunnerVolumes
from jobmanager.ipc.messages import (
    PoolReply,
    PoolRequest,
    RemovalFailed,
    RemoveVolumes,
    Shutdown,
    StartContainer,
    StartFailed,
    VolumeRemovalFailed,
    WarmUp,
    WorkerReady,
)
from jobmanager.ipc.process import forward_logs
from jobmanager.model.host import Address

_log = logging.getLogger(__name__)


def main(connection: Connection) -> None:
    """Serve requests until ``Shutdown``."""
    forward_logs(connection.send)
    worker = PoolWorker()
    while not isinstance(request := connection.recv(), Shutdown):
        if isinstance(request, WarmUp):
            engine_class(request.address)
            connection.send(WorkerReady())
        else:
            connection.send(worker.reply(request))


class PoolWorker:
    """The work of a pool worker's process: requests of one manager."""

    def __init__(self) -> None:
        self._engines: dict[Address, Engine] = {}
        self._runners: RunnerVolumes | None = None

    def reply(self, request: PoolRequest) -> PoolReply:
        """Carry out a request. An error that nobody has foreseen is a failure of this request."""
        try:
            return self._carry_out(request)
        except Exception as error:  # noqa: BLE001 - the loop's edge: a bug here must not cost the job its result
            _log.exception("%s failed", type(request).__name__)
            self._engines.pop(request.address, None)
            reason = f"{type(error).__name__}: {error}"
            if isinstance(request, StartContainer):
                return StartFailed(reason=reason, unreachable=False)
            if isinstance(request, RemoveVolumes):
                return VolumeRemovalFailed(reason=reason)
            return RemovalFailed(reason=reason)

    def _carry_out(self, request: PoolRequest) -> PoolReply:
        address = request.address
        engine = self._engines.get(address) or connect(address, timeout_s=request.timeout_s)
        self._engines[address] = engine
        if isinstance(request, StartContainer):
            self._runners = self._runners or RunnerVolumes.of_owner(request.container.labels)
            return submit(engine, request.container, self._runners, host=address.host, may_pull=address.pull == "missing")
        if isinstance(request, RemoveVolumes):
            return delete_volumes(engine, request.names, request.manager_id)
        return delete(
            engine,
            request.name,
            request.manager_id,
            is_ours=request.is_ours,
            is_leaving=request.is_leaving,
            has_others=request.has_others,
        )
