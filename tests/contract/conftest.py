"""The fake engine always, and each real one that JOBMANAGER_TEST_HOSTS names."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import docker
import pytest

from jobmanager.engine.connect import connect
from jobmanager.model.host import Address
from jobmanager.testing import FakeEngineServer
from tests.conftest import BUSYBOX as IMAGE
from tests.conftest import named_engines
from tests.contract.behaviours import PROGRAMS
from tests.contract.place import PATIENCE_S, Place

_REAL = [pytest.param(number, marks=pytest.mark.engine, id=f"real{number}") for number in range(max(1, len(named_engines())))]


REAL_ONLY = pytest.mark.parametrize("address", _REAL, indirect=True)  # what the fake engine does not have


@pytest.fixture(scope="session", autouse=True)  # before any test counts descriptors and children
def fake_server() -> Iterator[FakeEngineServer]:
    with FakeEngineServer(images={IMAGE: {"made.for": "tests"}}, programs=PROGRAMS) as server:
        yield server


@pytest.fixture(params=["fake", *_REAL])
def address(request: pytest.FixtureRequest) -> Address:
    if request.param == "fake":
        server: FakeEngineServer = request.getfixturevalue("fake_server")
        return Address(host="fake", url=server.url)
    urls: list[str] = request.getfixturevalue("engine_urls")  # skips, or fails, where there is none
    return Address(host="real", url=urls[request.param])


@pytest.fixture
def place(address: Address, fake_server: FakeEngineServer) -> Iterator[Place]:
    remove_alone = fake_server.faults.remove_container if address.host == "fake" else partial(_remove_alone, address.url)
    place = Place(connect(address, PATIENCE_S), address, remove_alone)
    yield place
    place.close()


def _remove_alone(url: str, container: str) -> None:
    client = docker.APIClient(base_url=url, version="1.41", timeout=20)
    try:
        client.remove_container(container, force=True, v=False)
    finally:
        client.close()
