"""What a waiter process cannot do costs the job that it is for, and the result says why."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobmanager import Limits, _waiter
from jobmanager._waiter import Waiter
from jobmanager.engine.labels import MANAGER_LABEL
from jobmanager.engine.protocol import EngineError
from jobmanager.engine.runner_volume import RunnerVolumes
from jobmanager.ipc.messages import HostUnreachable, KillContainer, MonitorAcknowledged, MonitorContainer, RunEnded, WaiterSettings
from jobmanager.model.host import Address
from jobmanager.results.facts import InfrastructureFailure, JobNotSent, RunFacts
from jobmanager.watching import host_monitor
from jobmanager.watching.host_monitor import HostMonitor
from jobmanager.watching.monitor import ContainerMonitor
from tests.conftest import eventually
from tests.support.run_facts import failed_here, not_sent
from tests.support.scripted_container import ScriptedContainer

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
        job_id="j", container_id="c", container_name="n", command="true", env={}, files={}, stdin=b"",
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


@pytest.mark.parametrize(("fails_at", "untouched"), [("open_channel", True), ("take", False)])
def test_a_watch_that_fails_on_our_side_says_why_and_whether_its_program_can_have_begun(
    fails_at: str, untouched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = ScriptedContainer()

    def fail(*_: object) -> None:
        if fails_at == "open_channel" or container.hellos:
            raise RuntimeError("can't start new thread")
        original(*_)

    original = getattr(container, fails_at)
    monkeypatch.setattr(container, fails_at, fail)

    facts = container.facts()

    assert (facts.ending.cause, isinstance(facts.ending, JobNotSent), facts.end) == (
        InfrastructureFailure(reason="RuntimeError: can't start new thread"), untouched, None
    )


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_kept_of_a_container_is_removed_once_its_end_is_reported(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "n").write_bytes(b"")  # by an earlier waiter
    sent: list[object] = []
    left: list[list[Path]] = []

    def run(_: ContainerMonitor) -> RunFacts:
        left.append(list(tmp_path.iterdir()))
        if fails:
            raise TypeError("odd")
        return RunFacts(ending=JobNotSent(cause=InfrastructureFailure(reason="odd")))

    monkeypatch.setattr(ContainerMonitor, "run", run)
    waiter = Waiter(replace(SETTINGS, spool_folder=str(tmp_path)), sent.append)

    waiter.handle(message(taken_over=True))

    eventually(lambda: not list(tmp_path.iterdir()), what="the spool is gone")
    assert left == [[tmp_path / "n"]]
    assert [type(told) for told in sent if isinstance(told, RunEnded)] == [RunEnded]


@pytest.mark.case(53)
def test_a_host_monitor_without_threads_or_a_connection_goes_on(no_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    monitor = HostMonitor(SETTINGS, sent.append, RunnerVolumes.of_owner({MANAGER_LABEL: "m"}))
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
