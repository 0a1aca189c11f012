"""The writer of an open standard input: in order, in its own thread, within bounds."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Callable

from jobmanager.engine.protocol import Unreachable
from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model.limits import Limits
from jobmanager.watching.stdin import StdinWriter, send_job
from tests.conftest import eventually


class Link:
    """A container that takes nothing until it is told to."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.taken: list[bytes] = []
        self.takes = threading.Event()
        self.closed = threading.Event()
        self._breaks = breaks

    def write(self, data: bytes, timeout_s: float, still_takes_input: Callable[[], bool] = lambda: True) -> None:
        while not self.takes.wait(0.01):
            if not still_takes_input():
                raise Unreachable("closed")
        if self._breaks:
            raise Unreachable("broken")
        self.taken.append(data)

    def close(self) -> None:
        self.closed.set()


def test_a_container_is_sent_its_secrets_and_what_it_is_to_wipe() -> None:
    class Fed:
        payload = b""

        def feed(self, container: str, payload: bytes, *_: object) -> None:
            self.payload = payload

    engine = Fed()
    job = MonitorContainer(
        job_id="j", container_id="c", container_name="n", token="t", command="true", env={}, files={}, stdin=b"",
        limits=Limits(), collect=(), wipe=("work/*.json",), secrets={"token": b"s3cret"},
    )  # fmt: skip

    send_job(engine, job, None, lambda: True)  # type: ignore[arg-type]

    with tarfile.open(fileobj=io.BytesIO(engine.payload.partition(b"\n")[2])) as tar:
        secret, wipe = tar.extractfile(".jobmanager/secrets/token"), tar.extractfile(".jobmanager/wipe")
        assert secret is not None and secret.read() == b"s3cret"
        assert wipe is not None and b"/volumes/work '*.json'" in wipe.read()


def test_what_is_put_before_the_program_began_is_written_then_in_order() -> None:
    counted: list[int] = []
    writer, link = StdinWriter(max_bytes=100, on_written=counted.append), Link()
    link.takes.set()
    assert writer.put(b"one") and writer.put(b"four")
    writer.open(link)
    assert link.taken == []
    writer.start()
    eventually(lambda: link.taken == [b"one", b"four"])
    writer.end()
    eventually(link.closed.is_set)
    assert counted == [3, 4]


def test_more_than_its_bound_is_not_taken() -> None:
    writer = StdinWriter(max_bytes=5)
    assert writer.put(b"12345")
    assert not writer.put(b"6")
    writer.close()
    assert writer.put(b"after the end all is lost")


def test_room_that_is_left_for_others_is_theirs() -> None:
    writer = StdinWriter(max_bytes=5)
    assert writer.put(b"12", reserve=2)
    assert not writer.put(b"34", reserve=2)
    assert writer.put(b"345")
    assert not writer.put(b"6")


def test_closing_ends_a_write_that_nobody_takes() -> None:
    broken = threading.Event()
    writer, link = StdinWriter(max_bytes=5, on_broken=broken.set), Link()
    writer.put(b"x")
    writer.open(link)
    writer.start()
    writer.close()
    assert link.closed.is_set()
    eventually(lambda: "stdin-writer" not in [thread.name for thread in threading.enumerate()])
    assert not broken.is_set()


def test_a_link_that_breaks_is_told() -> None:
    broken = threading.Event()
    writer, link = StdinWriter(max_bytes=5, on_broken=broken.set), Link(breaks=True)
    link.takes.set()
    writer.open(link)
    writer.start()
    writer.put(b"x")
    eventually(broken.is_set)


def test_a_link_that_is_opened_after_the_end_is_closed() -> None:
    writer, link = StdinWriter(max_bytes=5), Link()
    writer.close()
    writer.open(link)
    assert link.closed.is_set()
