"""A registry that has refused an image is left alone for a while, however many jobs want it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobmanager import _submitter
from jobmanager.engine.connect import connect
from jobmanager.engine.labels import Owner
from jobmanager.engine.protocol import Engine
from jobmanager.engine.runner_volume import RunnerVolumes
from jobmanager.ipc.messages import ContainerStarted, StartFailed
from jobmanager.model.container import ContainerSpec
from jobmanager.model.host import Address
from jobmanager.model.limits import Limits
from jobmanager.runner.binaries import binary
from jobmanager.testing import FakeEngineServer


class Clock:
    """The submitter's."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_submitter, "time", clock)
    monkeypatch.setattr(_submitter, "_failed_pulls", {})
    return clock


@pytest.fixture
def fake() -> Iterator[FakeEngineServer]:
    with FakeEngineServer(images=[], registry=["later"]) as fake:
        yield fake


def submit(engine: Engine, name: str, image: str, *, host: str = "h") -> object:
    spec = ContainerSpec(name=name, image=image, labels={}, limits=Limits())
    runners = RunnerVolumes(manager_id="m", owner=Owner.this_process(), binary_for=binary)
    return _submitter.submit(engine, spec, runners, host=host, may_pull=True)


def pulls(fake: FakeEngineServer) -> list[str]:
    return [image for call, image in fake.history() if call == "pull"]


def test_a_refused_image_is_asked_for_again_only_after_a_while(fake: FakeEngineServer, clock: Clock) -> None:
    engine = connect(Address(host="h", url=fake.url, pull="missing"), 5.0)
    first = submit(engine, "a", "wrong")
    clock.now += 14.0
    second = submit(engine, "b", "wrong")
    assert isinstance(first, StartFailed) and isinstance(second, StartFailed) and second.image_missing
    assert second.reason == f"{first.reason} (so it was 14 s ago; it is asked for again 15 s after that)"
    assert pulls(fake) == ["wrong"]

    submit(engine, "c", "other")
    submit(engine, "d", "wrong", host="another")
    clock.now += 1.0
    submit(engine, "e", "wrong")
    assert pulls(fake) == ["wrong", "other", "wrong", "wrong"]
    engine.close()


def test_what_was_refused_and_is_there_now_is_pulled(fake: FakeEngineServer, clock: Clock) -> None:
    engine = connect(Address(host="h", url=fake.url, pull="missing"), 5.0)
    _submitter._failed_pulls["h", "later"] = _submitter._FailedPull(at=clock.now - 20.0, reason="no")
    assert isinstance(submit(engine, "a", "later"), ContainerStarted)
    assert _submitter._failed_pulls == {}
    engine.close()
