"""What hooks are told when the ledger's commands are carried out."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import Mock

from jobmanager import HookManager, Phase, Pipeline, Task
from jobmanager.control.dispatch import Dispatch
from jobmanager.control.secret_store import SecretStore
from jobmanager.events import Event
from tests.unit.ledger_driver import Driver

TASK = Task("python3", command="x")


def told_when_a_waiter_is_missing(what: Task | Pipeline) -> list[str]:
    """A job is given to its waiter, of which there is none at first: what is told meanwhile, and what when there is one."""
    hooks, told = HookManager(), list[Event]()
    hooks.add(Event, told.append)
    children = Mock()
    children.waiters.monitor.side_effect = [False, True]
    settings = SimpleNamespace(engine_timeout_s=1.0, host_lost_timeout_s=30.0, hosts=[], secrets=SecretStore({}), name="")
    driver = Driver({"a": 1})
    dispatch = Dispatch(
        driver.ledger,
        Mock(),
        hooks,
        children,
        live_outputs=Mock(),
        timers=Mock(),
        environments=Mock(),
        settings=settings,  # type: ignore[arg-type]
        manager_id="m",
    )
    driver.accept("j", what)  # type: ignore[arg-type]
    container = driver.run("j")
    dispatch.carry_out(driver.watches()[-1])
    driver.ledger.waiter_died([container])  # it is looked for again
    dispatch.carry_out(driver.watches()[-1])
    hooks.drain(20)
    assert children.waiters.monitor.call_count == 2
    return [type(event).__name__ for event in told]


def test_a_start_is_told_once_although_the_host_has_no_waiter_at_first() -> None:
    assert told_when_a_waiter_is_missing(TASK) == ["JobStarted"]


def test_so_is_that_of_a_phase() -> None:
    assert told_when_a_waiter_is_missing(Pipeline([Phase("build", TASK)])) == ["JobStarted", "PhaseStarted"]
