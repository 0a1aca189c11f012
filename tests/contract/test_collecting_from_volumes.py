"""Files of the workspace and of volumes, as a container's runner gives them. The fake engine and a real one alike."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model.container import VolumeMount
from jobmanager.model.limits import Limits
from jobmanager.results.facts import Collected
from jobmanager.runner.frames import Ended, Entries, Fetch, ListFolder, Piece, Put, UpMessage
from jobmanager.watching.run_order import run_messages
from jobmanager.watching.runner_link import RunnerLink
from jobmanager.watching.spool import Spool
from tests.contract.conftest import REAL_ONLY
from tests.contract.place import PATIENCE_S, Place
from tests.support import collecting

LIMITS = Limits(memory_mib=64, workspace_mib=4)


@dataclass
class EndedRun:
    """A container whose program has ended, and whose runner is asked for files."""

    link: RunnerLink
    asked: list[ListFolder | Fetch] = field(default_factory=list)

    def collected(self, collect: tuple[str, ...] = (), tests: tuple[str, ...] = ()) -> Collected:
        return collecting.collected(_job(collect=collect, tests=tests), self._answer)

    def _answer(self, request: ListFolder | Fetch) -> Iterator[Entries | Piece]:
        self.asked.append(request)
        self.link.send(request)
        while True:
            yield from (message for message in _received(self.link) if isinstance(message, (Entries, Piece)))


@contextmanager
def ended_run(
    place: Place,
    command: str | tuple[str, ...] = ("true",),
    *,
    volumes: tuple[VolumeMount, ...] = (),
    files: Mapping[str, bytes] | None = None,
    **fields: Any,
) -> Iterator[EndedRun]:
    """A run in a container of its own. ``files``: of any place, by their whole paths."""
    container = place.started(volumes=volumes, limits=LIMITS)
    link = RunnerLink(place.engine, container, lease_s=60.0, spool=Spool(None))
    try:
        link.connect()
        given = [_put(path, content) for path, content in (files or {}).items()]
        link.send(*given, *run_messages(_job(container_id=container, command=command, **fields), made_at_s=0.0))
        while not any(isinstance(message, Ended) for message in _received(link)):
            pass
        yield EndedRun(link)
    finally:
        link.close()


def _received(link: RunnerLink) -> list[UpMessage]:
    """The next messages; the end of the connection, or none in time, is a failure."""
    until = time.monotonic() + PATIENCE_S
    while not (messages := link.receive(1.0)):
        assert messages is not None, "the runner has left"
        assert time.monotonic() < until, "the runner does not answer"
    return messages


def _job(**fields: Any) -> MonitorContainer:
    given = {"job_id": "j", "container_id": "c", "container_name": "n", "command": "true", "env": {}, "files": {}}
    return MonitorContainer(**{**given, "stdin": b"", "limits": LIMITS, "collect": (), **fields})


def _put(path: str, content: bytes) -> Put:
    return Put(path=path.encode(), mode=0o644, mtime_s=0, data=content)


def unpacked(found: Collected) -> dict[str, bytes]:
    assert found.archive is not None
    with tarfile.open(fileobj=io.BytesIO(found.archive), mode="r:gz") as packed:
        return {member.name: packed.extractfile(member).read() for member in packed}  # type: ignore[union-attr]


def test_files_of_the_workspace_and_of_volumes_come_back_together(place: Place) -> None:
    files = {"/volumes/work/sub/a.xml": b"1", "/job/b.xml": b"2", "/volumes/work/c": b"3"}
    patterns = ("*.xml", "/volumes/work/*.xml")
    with ended_run(place, volumes=(place.volume(),), files=files) as run:
        found = run.collected(collect=patterns, tests=patterns)

    assert (unpacked(found), found.error) == ({"b.xml": b"2", "volumes/work/sub/a.xml": b"1"}, "")
    assert found.test_files == unpacked(found)


def test_a_volume_that_another_container_wrote_to_can_be_read(place: Place) -> None:
    volume = place.volume()
    with (
        ended_run(place, volumes=(volume,), files={"/volumes/work/a": b"1"}),
        ended_run(place, volumes=(volume,)) as reader,
    ):
        assert reader.collected(tests=("/volumes/work/a",)).test_files == {"volumes/work/a": b"1"}


def test_a_volume_that_the_container_does_not_have_is_told(place: Place) -> None:
    with ended_run(place, files={"/job/a": b"1"}) as run:
        found = run.collected(collect=("a", "/volumes/none/*"))
    assert unpacked(found) == {"a": b"1"}
    assert found.error == "the volume none could not be read: No such file or directory"


def test_secrets_do_not_come_back(place: Place) -> None:
    with ended_run(place, files={"/job/a": b"1"}, secrets={"token": b"s3cret"}) as run:
        assert list(unpacked(run.collected(collect=("*",)))) == ["a"]


@REAL_ONLY
def test_a_huge_report_is_not_asked_for(place: Place) -> None:
    with ended_run(place, "truncate -s 1G /volumes/work/huge.xml", volumes=(place.volume(size_mib=8),)) as run:
        found = run.collected(tests=("/volumes/work/*.xml",))

    assert found.test_files == {}
    assert "'volumes/work/huge.xml' and what follows are missing" in found.error
    assert [type(request) for request in run.asked] == [ListFolder]


@REAL_ONLY
def test_links_of_a_volume_are_left_out_and_lead_nowhere(place: Place) -> None:
    commands = "ln -s /job/.jobmanager/secrets/token a.xml; ln -s /job/.jobmanager/secrets d; mkfifo f.xml; echo 1 > b.xml"
    command = f"cd /volumes/work; {commands}; ln b.xml c.xml"
    with ended_run(place, command, volumes=(place.volume(),), secrets={"token": b"s3cret"}) as run:
        found = run.collected(tests=("/volumes/work/*.xml", "/volumes/work/d/*"))

    assert found.test_files == {"volumes/work/b.xml": b"1\n", "volumes/work/c.xml": b"1\n"}
    assert found.error == "test reports: 'volumes/work/a.xml' (a symbolic link), 'volumes/work/f.xml' (no regular file)"
