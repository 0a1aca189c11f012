"""The fake engine always, and each real one that JOBMANAGER_TEST_HOSTS names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import docker
import pytest

from jobmanager.engine.connect import connect
from jobmanager.model.host import Address
from jobmanager.testing import FakeEngineServer
from jobmanager.testing.fake_engine_server import Faults
from tests.conftest import BUSYBOX as IMAGE
from tests.conftest import eventually, named_engines
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
    stranger = FakeStranger(fake_server.faults) if address.host == "fake" else DockerStranger(address.url)
    place = Place(connect(address, PATIENCE_S), address, stranger)
    yield place
    place.close()


class FakeStranger:
    """``Stranger`` of the fake engine."""

    def __init__(self, faults: Faults) -> None:
        self.remove = faults.remove_container
        self.pause = faults.pause_container
        self.unpause = faults.unpause_container


class DockerStranger:
    """``Stranger`` with a client of its own."""

    def __init__(self, url: str) -> None:
        self._url = url

    def remove(self, container: str) -> None:
        with self._client() as client:
            client.remove_container(container, force=True, v=False)

    def pause(self, container: str) -> None:
        """runc gives up freezing a container whose processes hardly get to run, as on a busy machine."""

        def is_frozen() -> bool:
            with self._client() as client, suppress(docker.errors.APIError):
                client.pause(container)
                return True
            return False

        eventually(is_frozen, what="it is paused")

    def unpause(self, container: str) -> None:
        with self._client() as client:
            client.unpause(container)

    @contextmanager
    def _client(self) -> Iterator[docker.APIClient]:
        client = docker.APIClient(base_url=self._url, version="1.41", timeout=20)
        try:
            yield client
        finally:
            client.close()
