"""The host monitor: checks whether a Docker host is up and which images it has, and sweeps leftovers of dead managers."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import psutil

from jobmanager.engine.connect import connect
from jobmanager.engine.leftovers import Removal, remove_leftovers, survey, survey_runners
from jobmanager.engine.protocol import Engine, EngineError, ImageMissing, Unreachable
from jobmanager.engine.runner_volume import RunnerVolumes
from jobmanager.ipc.messages import HostReachable, HostUnreachable, WaiterSettings
from jobmanager.model.container import EngineInfo
from jobmanager.model.host import Address

_log = logging.getLogger(__name__)

_RETRY_INTERVALS_S = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0)
_CHECK_TIMEOUT_S = 5.0
_SWEEP_TIMEOUT_S = 30.0
_SWEEP_INTERVAL_S = 60.0  # a manager may die while others live, or while one of its containers is being created


class HostMonitor:
    """Checks one host again and again, in a thread of its own, and reports after each check."""

    def __init__(self, settings: WaiterSettings, send: Callable[[Any], object], runners: RunnerVolumes) -> None:
        self._settings = settings
        self._runners = runners
        self._send = send
        self._wake = threading.Event()
        self._next_sweep = 0.0
        self._sweeping = threading.Lock()  # one sweep at a time
        self._closed_managers: frozenset[str] = frozenset()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="host-monitor", daemon=True).start()

    def check_now(self) -> None:
        """Check now, before the interval is over."""
        self._wake.set()

    def managers_closed(self, manager_ids: frozenset[str]) -> None:
        """Managers of the caller's process have closed: sweep what they left as soon as the host answers."""
        self._closed_managers = manager_ids
        self._next_sweep = 0.0
        self._wake.set()

    def _run(self) -> None:
        failures = 0
        while True:
            self._wake.clear()
            failures = 0 if self._check() else failures + 1
            if not failures and time.monotonic() >= self._next_sweep and not self._sweeping.locked():
                self._start_sweep()
            self._wake.wait(self._interval_s(failures))

    def _interval_s(self, failures: int) -> float:
        if not failures:
            return self._settings.host_check_interval_s
        return _RETRY_INTERVALS_S[min(failures, len(_RETRY_INTERVALS_S)) - 1]

    def _start_sweep(self) -> None:
        self._next_sweep = time.monotonic() + _SWEEP_INTERVAL_S
        try:
            threading.Thread(target=self._sweep, name="sweep", daemon=True).start()
        except RuntimeError as error:  # no more threads
            _log.warning("host %s is not swept now: %s", self._settings.address.host, error)

    def _check(self) -> bool:
        engine: Engine | None = None
        try:
            engine = connect(self._settings.address, timeout_s=min(_CHECK_TIMEOUT_S, self._settings.engine_timeout_s))
            info = _with_available_memory(engine.info(), self._settings.address)
            self._bring_the_runner(engine)
            self._send(HostReachable(info=info, images=tuple(engine.images()), networks=_networks(engine, info)))
            return True
        except EngineError as error:
            self._send(HostUnreachable(reason=str(error)))
            return False
        except Exception as error:  # noqa: BLE001 - the loop's edge: an odd answer must not end the checks
            _log.exception("checking host %s failed", self._settings.address.host)
            self._send(HostUnreachable(reason=f"{type(error).__name__}: {error}"))
            return False
        finally:
            if engine is not None:
                engine.close()

    def _bring_the_runner(self, engine: Engine) -> None:
        """Once, before the host has its first job. A host without any image can have no job either."""
        with suppress(ImageMissing):
            self._runners.ensure(engine, self._settings.address.host)

    def _sweep(self) -> None:
        try:
            self._sweep_with(connect(self._settings.address, timeout_s=_SWEEP_TIMEOUT_S))
        except Exception:  # noqa: BLE001 - the thread's edge: an odd answer costs this sweep
            _log.exception("sweeping host %s failed", self._settings.address.host)

    def _sweep_with(self, engine: Engine) -> None:
        try:
            with self._sweeping:
                for removal in remove_leftovers(engine, survey(engine, self._closed_managers).leftovers):
                    self._log_removal(removal)
                runners = survey_runners(engine, self._closed_managers).leftovers
                for removal in remove_leftovers(engine, [each for each in runners if each.manager_id]):  # volumes stay for the next
                    self._log_removal(removal, if_it_stays=logging.INFO)  # one that has just closed lets go of it itself
        except EngineError as error:
            _log.warning("host %s: sweeping stopped: %s", self._settings.address.host, error)
            self._next_sweep = 0.0  # again after the next check that finds the host up
        finally:
            engine.close()

    def _log_removal(self, removal: Removal, *, if_it_stays: int = logging.WARNING) -> None:
        leftover, host = removal.leftover, self._settings.address.host
        what = f"{leftover.kind} {leftover.name} (manager {leftover.manager_id}: {leftover.why})"
        if removal.error:
            _log.log(if_it_stays, "host %s: leftover %s cannot be removed: %s", host, what, removal.error)
        else:
            _log.info("host %s: removed leftover %s", host, what)


def _networks(engine: Engine, info: EngineInfo) -> frozenset[str] | None:
    """The host's networks; None where it need not list them all: in a swarm, or behind a proxy that refuses the call."""
    if info.in_swarm:
        return None
    try:
        return engine.networks()
    except Unreachable:
        raise
    except EngineError as error:
        _log.debug("networks are not listed: %s", error)
        return None


def _with_available_memory(info: EngineInfo, address: Address) -> EngineInfo:
    """Engines do not report free memory. The kernel does, for an engine on this machine.

    A unix socket does not prove that: it may lead into a virtual machine, as Docker Desktop's does.
    """
    memory = psutil.virtual_memory()
    here = (memory.total // 2**20, os.uname().release)
    if urlsplit(address.url).scheme != "unix" or address.tunnelled or (info.memory_mib, info.kernel) != here:
        return info
    return replace(info, available_memory_mib=memory.available // 2**20)
