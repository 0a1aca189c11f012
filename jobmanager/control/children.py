"""The child processes of one manager: pool workers, waiters, tunnels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from jobmanager.control.addresses import start_addresses
from jobmanager.control.child_process import Child, Listener, stop_children
from jobmanager.control.settings import ManagerSettings
from jobmanager.control.spool_folder import SpoolFolder, remove_abandoned
from jobmanager.control.tunnels import Tunnels
from jobmanager.control.waiters import Waiters
from jobmanager.control.worker_pool import ProcessPool
from jobmanager.model.host import Address
from jobmanager.threads.log_thread import logger

_log = logger(__name__)

_MAX_IN_FLIGHT_WHILE_UNKNOWN = 4


class Children:
    """All children of a manager. Not thread-safe: the loop alone uses it."""

    def __init__(
        self, listen: Listener, settings: ManagerSettings, *, manager_id: str, cannot_start: Callable[[str, str], None]
    ) -> None:
        """``listen`` gets their reports, ``cannot_start`` a host for which no waiter can be started, and the reason."""
        self._hosts = settings.hosts
        self._cores: dict[str, int] = {}
        self.addresses: Mapping[str, Address] = {}  # by host, once started
        self.pool = ProcessPool(listen, size=settings.pool_size, max_in_flight=self._max_in_flight)
        self.tunnels = Tunnels(settings.hosts, listen)
        self._spools = SpoolFolder()
        self.waiters = Waiters(
            listen,
            settings.hosts,
            manager_id=manager_id,
            manager_name=settings.name,
            engine_timeout_s=settings.engine_timeout_s,
            host_lost_timeout_s=settings.host_lost_timeout_s,
            cannot_start=cannot_start,
        )

    def start(self) -> None:
        """Start those that are needed at once. The waiters find out whether the hosts answer."""
        self.addresses = start_addresses(self._hosts, self.tunnels)
        self.waiters.start(self.addresses, spool_folder=self._spools.path)
        self.pool.warm_up(next(iter(self.addresses.values())))
        remove_abandoned()  # meanwhile the waiters come up

    def set_cores(self, host: str, cores: int) -> None:
        """The cores of a host: they bound how many requests it has at once."""
        self._cores[host] = cores

    def due_work(self) -> Iterable[Callable[[], None]]:
        """What is to be called about once a second."""
        return (
            self.waiters.run_due,
            self.tunnels.run_due,
            self.pool.end_hung_workers,
        )

    def close(self) -> None:
        """End them all."""
        stop_children(self._all())
        self.tunnels.clean_up()
        self._spools.remove()

    def abandon(self) -> None:
        """In a forked process: let go of the pipes; the children are the parent's."""
        for child in self._all():
            child.abandon()

    def _all(self) -> list[Child]:
        return [*self.waiters.children(), *self.pool.workers(), *self.tunnels.children()]

    def _max_in_flight(self, host: str) -> int:
        """Starts and removals under way at once: past twice a host's cores they only get slower."""
        return 2 * self._cores[host] if host in self._cores else _MAX_IN_FLIGHT_WHILE_UNKNOWN
