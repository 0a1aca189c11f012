"""A host's engine without a manager, over SSH as well."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager

from jobmanager.control.addresses import start_addresses
from jobmanager.control.child_process import ChildExited, MessageReceived, SendFailed, stop_children
from jobmanager.control.tunnels import Tunnels
from jobmanager.engine.connect import connect
from jobmanager.engine.protocol import Engine, EngineError, Unreachable
from jobmanager.errors import EngineUnavailable
from jobmanager.ipc.messages import TunnelBroken, TunnelOpen
from jobmanager.model.host import DockerHost

_TUNNEL_S = 15.0


@contextmanager
def open_engine(host: DockerHost, *, timeout_s: float) -> Iterator[Engine]:
    """An engine that has answered. Every call on it ends within ``timeout_s`` seconds.

    Raises:
        EngineUnavailable: it does not answer, at the beginning or at any call in the block.
    """
    inbox: queue.SimpleQueue[MessageReceived | ChildExited | SendFailed] = queue.SimpleQueue()
    tunnels = Tunnels([host], inbox.put)
    try:
        address = start_addresses([host], tunnels)[host.name]
        if tunnels.children():
            _wait_until_open(inbox)
        engine = connect(address, timeout_s=timeout_s)
        try:
            engine.info()
            yield engine
        finally:
            engine.close()
    except EngineError as error:
        raise EngineUnavailable(f"{host.name}: {error}") from error
    finally:
        stop_children(tunnels.children())
        tunnels.clean_up()


def _wait_until_open(inbox: queue.SimpleQueue[MessageReceived | ChildExited | SendFailed]) -> None:
    until = time.monotonic() + _TUNNEL_S
    while (left_s := until - time.monotonic()) > 0:
        try:
            received = inbox.get(timeout=left_s)
        except queue.Empty:
            break
        message = received.message if isinstance(received, MessageReceived) else TunnelBroken(reason="its process has died")
        if isinstance(message, TunnelOpen):
            return
        if isinstance(message, TunnelBroken):
            raise Unreachable(f"the ssh tunnel ended: {message.reason}")
    raise Unreachable(f"the ssh tunnel was not open within {_TUNNEL_S:g} s")
