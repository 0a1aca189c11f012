"""What a waiter process cannot do costs the job that it is for, and the result says why."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from jobmanager import Limits, _waiter
from jobmanager._waiter import Waiter
from jobmanager.engine.protocol import EngineError
from jobmanager.ipc.messages import HostUnreachable, KillContainer, MonitorAcknowledged, MonitorContainer, RunEnded, WaiterSettings
from jobmanager.model.container import ContainerInfo, ContainerStatus
from jobmanager.model.host import Address
from jobmanager.results.facts import InfrastructureFailure, JobNotSent
from jobmanager.watching import host_monitor
from jobmanager.watching.host_monitor import HostMonitor
from jobmanager.watching.monitor import ContainerMonitor
from tests.support.run_facts import failed_here, not_sent

SETTINGS = WaiterSettings(
    address=Address(host="h", url="fake:///nowhere/engine.sock"),
    manager_id="m",
    owner="",
    monitors_host=True,
    engine_timeout_s=1,
    host_lost_timeout_s=1,
    host_check_interval_s=1,
    reconcile_interval_s=1,
)


def message(*, taken_over: bool = False) -> MonitorContainer:
    return MonitorContainer(
        job_id="j", container_id="c", container_name="n", token="t", command="true", env={}, files={}, stdin=b"",
        limits=Limits(), collect=(), taken_over=taken_over,
    )  # fmt: skip


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        yield


@pytest.mark.case(53)
@pytest.mark.parametrize("taken_over", [False, True])
def test_a_job_for_which_no_thread_can_be_had_is_untouched_unless_an_earlier_waiter_had_it(
    no_threads: None, taken_over: bool
) -> None:
    sent: list[object] = []
    waiter = Waiter(SETTINGS, sent.append)

    waiter.handle(message(taken_over=taken_over))
    waiter.handle(KillContainer(container_name="n"))

    trouble = "it cannot be monitored: RuntimeError: can't start new thread"
    facts = failed_here(trouble) if taken_over else not_sent(InfrastructureFailure(reason=trouble))
    assert sent == [RunEnded(job_id="j", container_name="n", facts=facts), MonitorAcknowledged(container_name="n")]


class Engine:
    """One that has the container, and no thread for something that is asked of it."""

    def __init__(self, *, fails_at: str) -> None:
        self._fails_at = fails_at

    def inspect(self, _: str) -> ContainerInfo:
        return ContainerInfo(id="c", name="n", status=ContainerStatus.RUNNING, started_at_s=1.0)

    def attach(self, _: str) -> Engine:
        self._may_fail("attach")
        return self

    def feed(self, *_: object) -> None:
        self._may_fail("feed")

    def close(self) -> None: ...

    def _may_fail(self, call: str) -> None:
        if call == self._fails_at:
            raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(("fails_at", "untouched"), [("attach", True), ("feed", False)])
def test_a_watch_that_fails_on_our_side_says_why_and_whether_its_program_can_have_begun(fails_at: str, untouched: bool) -> None:
    monitor = ContainerMonitor(message(), Engine(fails_at=fails_at), host_lost_timeout_s=1, send=lambda _: None)  # type: ignore[arg-type]

    facts = monitor.run()

    assert (facts.ending.cause, isinstance(facts.ending, JobNotSent), facts.end) == (
        InfrastructureFailure(reason="RuntimeError: can't start new thread"), untouched, None
    )


@pytest.mark.case(53)
def test_a_host_monitor_without_threads_or_a_connection_goes_on(no_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    monitor = HostMonitor(SETTINGS, sent.append)
    monitor._start_sweep()

    def odd(*_: object, **__: object) -> None:
        raise TypeError("odd")

    monkeypatch.setattr(host_monitor, "connect", odd)
    monitor._sweep()

    assert not monitor._check()
    assert sent == [HostUnreachable(reason="TypeError: odd")]


def test_a_reconciler_whose_engine_cannot_be_asked_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waiter, tries = Waiter(SETTINGS, lambda _: None), []

    def cannot(*_: object, **__: object) -> None:
        tries.append(len(tries))
        if len(tries) == 3:
            waiter._stopping.set()
        raise EngineError("away") if len(tries) == 1 else TypeError("odd")

    monkeypatch.setattr(_waiter, "connect", cannot)
    monkeypatch.setattr(waiter._stopping, "wait", lambda _: waiter._stopping.is_set())

    waiter._reconcile()

    assert len(tries) == 3


def test_a_stop_that_fails_on_our_side_counts_as_one_that_the_engine_did_not_take() -> None:
    monitor = ContainerMonitor(message(), Engine(fails_at=""), host_lost_timeout_s=1, send=lambda _: None)  # type: ignore[arg-type]

    monitor._guarded(monitor._pause)  # this engine has no ``pause`` at all

    assert monitor._stop_failed
