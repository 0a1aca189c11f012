"""``Engine.open_channel``: a container's input and output on one connection. On the fake engine and real ones, of all kinds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from jobmanager.engine.protocol import Channel, EngineError, NoSuchContainer, Refused
from jobmanager.runner.frames import Started, Status
from tests.conftest import eventually
from tests.contract.behaviours import FLOOD, FLOODED, SPINS
from tests.contract.place import PATIENCE_S, Place
from tests.support.channel_runner import ChannelRunner

_MEGABYTES = 4 * 2**20


@pytest.fixture
def runner(place: Place) -> Iterator[ChannelRunner]:
    """The runner of a container that runs."""
    runner = ChannelRunner(place.engine, place.started())
    yield runner
    runner.close()


def until_the_end(channel: Channel) -> bytes:
    """What comes before the channel's end."""
    found, until = b"", time.monotonic() + PATIENCE_S
    while (content := channel.read(1.0)) is not None:
        found += content
        assert time.monotonic() < until, f"there is no end after {len(found)} bytes"
    return found


def test_a_channel_is_silent_until_somebody_speaks_to_the_runner(place: Place) -> None:
    channel = place.opened(place.started())
    assert channel.read(0.05) == b""
    assert channel.unsent == 0


def test_megabytes_go_both_ways_at_once(runner: ChannelRunner) -> None:
    run = runner.start(("sh", "-c", FLOOD))
    runner.wait_for(Started)
    runner.feed(bytes(_MEGABYTES))

    record = runner.finish(run)
    runner.flush()
    runner.resume()

    assert record.stdout == FLOODED
    assert runner.wait_for(Status).skipped >= _MEGABYTES  # all of it has arrived, and was no frame


def test_what_a_container_does_not_read_waits_and_never_blocks(place: Place, runner: ChannelRunner) -> None:
    runner.wait_for(Status)
    place.stranger.pause(runner.container)

    runner.feed(bytes(_MEGABYTES))
    with pytest.raises(TimeoutError):
        runner.wait_for(Status, 0.2)

    place.stranger.unpause(runner.container)
    runner.resume()
    assert runner.wait_for(Status).skipped >= _MEGABYTES


def test_what_nobody_reads_stays_in_the_container(runner: ChannelRunner) -> None:
    runner.wait_for(Status)
    runner.acknowledging = False
    run = runner.start(("sh", "-c", FLOOD))
    runner.wait_for(Started)

    runner.detach()
    runner.acknowledging = True
    runner.resume(0)

    assert runner.finish(run).stdout == FLOODED


def test_a_status_says_what_cpu_time_a_run_has_taken_so_far(runner: ChannelRunner) -> None:
    assert runner.wait_for(Status).cpu_us is None
    runner.start(("sh", "-c", SPINS))
    runner.wait_for(Started)

    def cpu_us() -> int:
        runner.resume()
        return runner.wait_for(Status).cpu_us or 0

    eventually(lambda: cpu_us() > 50_000, what="it has computed for a while")


@pytest.mark.parametrize("before", [True, False])
def test_a_wait_is_ended_from_another_thread(place: Place, before: bool) -> None:
    channel = place.opened(place.started())
    if before:
        channel.wake()
    found: list[bytes | None] = []
    reader = threading.Thread(target=lambda: found.append(channel.read(100 * PATIENCE_S)))
    reader.start()
    if not before:
        channel.wake()
    reader.join(PATIENCE_S)
    assert found == [b""]
    assert channel.read(0) == b""  # it is not ended for ever


def test_waking_often_never_blocks(place: Place) -> None:
    channel = place.opened(place.started())
    for _ in range(100_000):
        channel.wake()
    assert channel.read(100 * PATIENCE_S) == b""


def test_a_channel_is_closed_in_the_middle_and_the_container_runs_on(place: Place, runner: ChannelRunner) -> None:
    run = runner.start(("sh", "-c", FLOOD))
    runner.wait_for(Started)
    channel = place.opened(runner.container)
    channel.write(bytes(_MEGABYTES))

    channel.close()
    channel.close()
    channel.wake()

    assert channel.read(PATIENCE_S) is None
    assert runner.finish(run).stdout == FLOODED


def test_a_killed_containers_channel_ends(place: Place) -> None:
    name = place.started()
    channel = place.opened(name)
    place.engine.kill(name)
    assert until_the_end(channel) == b""
    assert channel.read(0) is None


def test_a_removed_containers_channel_ends(place: Place) -> None:
    name = place.started()
    channel = place.opened(name)
    place.engine.remove(name)
    assert until_the_end(channel) == b""


def test_a_container_that_is_paused_is_silent_and_goes_on_afterwards(place: Place, runner: ChannelRunner) -> None:
    run = runner.start(("sleep", "1000"))
    runner.wait_for(Started)
    place.stranger.pause(runner.container)
    runner.resume()
    with pytest.raises(TimeoutError):
        runner.wait_for(Status, 0.2)

    place.stranger.unpause(runner.container)

    assert runner.wait_for(Status).run == run


def test_a_paused_container_cannot_be_talked_to(place: Place) -> None:
    name = place.started()
    place.stranger.pause(name)
    with pytest.raises(Refused, match="paused"):
        place.engine.open_channel(name)


def test_a_container_that_does_not_run_says_nothing(place: Place) -> None:
    """An engine refuses it, or nothing ever comes: the container's state tells more."""
    for name in (place.ended(), place.create()):
        with suppress(EngineError):
            assert not place.opened(name).read(0.2)


def test_a_container_that_is_not_there_has_no_channel(place: Place) -> None:
    with pytest.raises(NoSuchContainer):
        place.engine.open_channel("jobmanager-test-no-such-container")


def test_two_channels_of_a_container_are_both_given_what_comes(place: Place, runner: ChannelRunner) -> None:
    runner.wait_for(Status)
    second = place.opened(runner.container)
    runner.resume()
    runner.wait_for(Status)
    assert second.read(PATIENCE_S)
