"""What a test gives the fake engine is refused at the call where it makes no sense: nothing of it reaches the engine's process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobmanager.errors import InvalidValue
from jobmanager.testing import FakeEngineServer, Faults

BAD_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"images": "python3"}, "images must be a list of texts, not 'python3'"),
    ({"images": 3}, "images must be a list of texts, not 3"),
    ({"images": [3]}, "a text in images must be a string"),
    ({"images": [""]}, "a text in images is empty"),
    ({"images": {"a": 3}}, "the labels of 'a' must map names to texts, not 3"),
    ({"images": {"a": {"b": 3}}}, "the labels of 'a': b must be a string, not 3"),
    ({"images": {3: {}}}, "a reference in images must be a string"),
    ({"registry": "python3"}, "registry must be a list of texts, not 'python3'"),
    ({"networks": "course"}, "networks must be a list of texts, not 'course'"),
    ({"programs": {"x": 3}}, "program 'x': its steps must be a sequence of steps, not 3"),
    ({"programs": {"x": [3]}}, "program 'x': 3 is no step"),
    ({"programs": [1]}, "programs must be a mapping from names to texts or steps"),
    ({"programs": 0}, "programs must be a mapping from names to texts or steps"),
    ({"cores": 0}, "cores must be a whole number above zero"),
    ({"cores": 1.5}, "cores must be a whole number above zero"),
    ({"memory_mib": "4096"}, "memory_mib must be a whole number above zero"),
    ({"architecture": None}, "architecture must be a string"),
]

BAD_FAULTS: list[tuple[Callable[[Faults], object], str]] = [
    (lambda faults: faults.refuse("start", "no", times=-1), "times must be a whole number above zero, not -1"),
    (lambda faults: faults.refuse("start", 3), "message must be a string, not 3"),  # type: ignore[arg-type]
    (lambda faults: faults.refuse(3, "no"), "no call of an engine has the name 3"),  # type: ignore[arg-type]
    (lambda faults: faults.drop_replies("start", times=0), "times must be a whole number above zero, not 0"),
    (lambda faults: faults.delay_replies(-1), "seconds must be a number from 0 on, not -1"),
    (lambda faults: faults.delay_replies(float("nan")), "seconds must be a number from 0 on"),
    (lambda faults: faults.stop(keep_running="no"), "keep_running must be True or False"),  # type: ignore[arg-type]
    (lambda faults: faults.fill_disk("yes"), "full must be True or False"),  # type: ignore[arg-type]
    (lambda faults: faults.leave_memory(-1), "available_mib must be a whole number from 0"),
    (lambda faults: faults.leave_memory("all"), "available_mib must be a whole number from 0"),  # type: ignore[arg-type]
    (lambda faults: faults.kill_container(""), "name is empty"),
    (lambda faults: faults.remove_container(3), "name must be a string"),  # type: ignore[arg-type]
    (lambda faults: faults.pause_container(None), "name must be a string"),  # type: ignore[arg-type]
    (lambda faults: faults.unpause_container([]), "name must be a string"),  # type: ignore[arg-type]
]

BAD_CALLS: list[tuple[Callable[[FakeEngineServer], object], str]] = [
    (lambda fake: fake.add_image(3), "reference must be a string"),  # type: ignore[arg-type]
    (lambda fake: fake.add_image("a", labels="b"), "labels must map names to texts, not 'b'"),  # type: ignore[arg-type]
    (lambda fake: fake.add_image("a", command="sh"), "command must be a list of texts, not 'sh'"),
    (lambda fake: fake.remove_image(""), "reference is empty"),
    (lambda fake: fake.times_started(3), "container must be a string"),  # type: ignore[arg-type]
]


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeEngineServer]:
    with FakeEngineServer() as engine:
        yield engine


@pytest.mark.parametrize(("settings", "says"), BAD_SETTINGS, ids=lambda value: str(value)[:40])
def test_a_setting_that_makes_no_sense_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidValue) as raised:
        FakeEngineServer(**settings)
    assert str(raised.value).startswith(says)


@pytest.mark.parametrize(("fault", "says"), BAD_FAULTS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_fault_that_makes_no_sense_is_refused(fake: FakeEngineServer, fault: Callable[[Faults], object], says: str) -> None:
    with pytest.raises(InvalidValue) as raised:
        fault(fake.faults)
    assert str(raised.value).startswith(says)
    assert fake.containers() == []  # it lives


@pytest.mark.parametrize(("call", "says"), BAD_CALLS, ids=lambda value: value if isinstance(value, str) else "")
def test_another_call_that_makes_no_sense_is_refused(
    fake: FakeEngineServer, call: Callable[[FakeEngineServer], object], says: str
) -> None:
    with pytest.raises(InvalidValue) as raised:
        call(fake)
    assert str(raised.value).startswith(says)


def test_what_makes_sense_is_taken(fake: FakeEngineServer) -> None:
    with FakeEngineServer(images=(name for name in ("a", "b:1")), registry={"c": {}}, networks={"n"}, programs=None, cores=1):
        fake.faults.delay_replies(0)
        fake.faults.leave_memory(0)
        fake.faults.leave_memory(None)
        fake.faults.refuse("pull", "")
        fake.add_image("d", {"x": ""}, command=())
        fake.remove_image("d")
