"""Files of volumes and test reports, as an engine's archive call gives them. The fake engine and a real one alike."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

from jobmanager.model.limits import Limits
from jobmanager.watching.collect import collected, read_files
from tests.contract.conftest import REAL_ONLY
from tests.contract.place import Place

LIMITS = Limits(memory_mib=64, workspace_mib=4)


def unpacked(archive: bytes | None) -> dict[str, bytes]:
    assert archive is not None
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as found:
        return {member.name: found.extractfile(member).read() for member in found}  # type: ignore[union-attr]


class Counting:
    """An engine whose archives are counted, piece by piece."""

    def __init__(self, place: Place) -> None:
        self._engine = place.engine
        self.bytes = 0

    def archive(self, container: str, path: str) -> Iterator[bytes]:
        for piece in self._engine.archive(container, path):
            self.bytes += len(piece)
            yield piece


def test_files_of_the_workspace_and_of_volumes_come_back_together(place: Place) -> None:
    volume = place.volume()
    run = place.run(
        "mkdir /volumes/work/sub; echo 1 > /volumes/work/sub/a.xml; echo 2 > b.xml; echo 3 > /volumes/work/c", volumes=(volume,)
    )
    patterns = ["*.xml", "/volumes/work/*.xml"]

    found = collected(place.engine, run.container, patterns, LIMITS)

    assert (unpacked(found.archive), found.error) == ({"b.xml": b"2\n", "volumes/work/sub/a.xml": b"1\n"}, "")
    assert read_files(place.engine, run.container, patterns, LIMITS) == (unpacked(found.archive), "")


def test_a_volume_that_the_container_only_reads_can_be_read(place: Place) -> None:
    volume = place.volume()
    place.run("echo 1 > /volumes/work/a", volumes=(volume,))
    name = place.started(volumes=(volume,))
    assert read_files(place.engine, name, ["/volumes/work/a"], LIMITS) == ({"volumes/work/a": b"1\n"}, "")


def test_a_volume_of_a_paused_container_can_be_read(place: Place) -> None:
    volume = place.volume()
    run = place.run("echo 1 > /volumes/work/a", volumes=(volume,))
    place.pause(run.container)
    assert read_files(place.engine, run.container, ["/volumes/work/*"], LIMITS)[0] == {"volumes/work/a": b"1\n"}


def test_secrets_do_not_come_back(place: Place) -> None:
    run = place.run("echo 1 > a", secrets={"token": b"s3cret"})
    found = collected(place.engine, run.container, ["*"], LIMITS)
    assert list(unpacked(found.archive)) == ["a"]


@REAL_ONLY
def test_of_a_huge_report_only_the_beginning_is_asked_for(place: Place) -> None:
    volume = place.volume(size_mib=8)
    run = place.run("truncate -s 1G /volumes/work/huge.xml", volumes=(volume,))
    engine = Counting(place)

    found, error = read_files(engine, run.container, ["/volumes/work/*.xml"], LIMITS, volume_mib=8)  # type: ignore[arg-type]

    assert found == {}
    assert "'volumes/work/huge.xml' and what follows are missing" in error
    assert engine.bytes < 2**20


@REAL_ONLY
def test_links_of_a_volume_are_left_out_and_lead_nowhere(place: Place) -> None:
    volume = place.volume()
    commands = "ln -s /job/.jobmanager/secrets/token a.xml; ln -s /job/.jobmanager/secrets d; mkfifo f.xml; echo 1 > b.xml"
    run = place.run(f"cd /volumes/work; {commands}; ln b.xml c.xml", volumes=(volume,), secrets={"token": b"s3cret"})
    patterns = ["/volumes/work/*.xml", "/volumes/work/d/*"]

    found, error = read_files(place.engine, run.container, patterns, LIMITS)

    assert found == {"volumes/work/b.xml": b"1\n", "volumes/work/c.xml": b"1\n"}
    assert "'volumes/work/a.xml' (a symbolic link)" in error and "'volumes/work/f.xml' (a fifo)" in error
