"""The simulated world of ``dev.queue_simulation``, with a driver of its ledger."""

from __future__ import annotations

from dev.queue_simulation import FOR_EVER_S, MEMORY_MIB, QueueSimulation
from jobmanager.model.container import Image
from tests.unit.ledger_driver import Driver


class Simulation(QueueSimulation):
    """A simulation whose ``driver`` tests may use, too."""

    def __init__(self, hosts: dict[str, int], *images: Image, queue_timeout_s: float = FOR_EVER_S) -> None:
        self.driver = Driver(hosts, max_waiting_jobs=10**6, queue_timeout_s=queue_timeout_s)
        super().__init__(self.driver.ledger, self.driver.clock)
        for name in hosts:
            self.driver.answers(name, *images, memory_mib=MEMORY_MIB)
