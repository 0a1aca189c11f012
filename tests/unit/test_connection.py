"""A connection to a runner on an engine that answers one kind of call and not another."""

from __future__ import annotations

import threading
from typing import cast

from jobmanager.engine.protocol import Engine
from jobmanager.watching.connection import RunnerConnection
from jobmanager.watching.inspector import ContainerInspector
from jobmanager.watching.runner_link import RunnerLink
from jobmanager.watching.spool import Spool
from tests.support.scripted_container import ScriptedContainer, job


class CountedEvent(threading.Event):
    """Waits for no time."""

    waits = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        return self.is_set()


def test_an_engine_that_shows_the_container_and_opens_no_channel_is_not_asked_without_a_pause() -> None:
    container, give_up = ScriptedContainer(), CountedEvent()
    engine = cast(Engine, container)
    link = RunnerLink(engine, "c", lease_s=20.0, spool=Spool(None), clock=container.clock)
    inspector = ContainerInspector(job(), engine, host_lost_timeout_s=60.0, give_up=give_up, clock=container.clock)
    connection = RunnerConnection(job(), engine, link, inspector, number=1, is_first=False, give_up=give_up, clock=container.clock)
    connection.connect()
    container.now += 3600.0

    container.refuses = True
    before = give_up.waits
    for _ in range(10):
        connection.connect()
    assert give_up.waits >= before + 9
