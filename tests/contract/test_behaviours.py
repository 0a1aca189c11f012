"""What a program's end is told as, on the fake engine and on real ones alike: the fake one's steps are what busybox does."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from jobmanager.engine.connect import connect
from jobmanager.engine.labels import Owner
from jobmanager.engine.runner_volume import RunnerVolumes
from jobmanager.model.container import ContainerSpec, ImageDefaults
from jobmanager.model.host import Address
from jobmanager.runner.binaries import binary
from jobmanager.runner.frames import BringPath, Entries, Fetch, FullPlace, ListFolder, Piece, StoppedBy
from tests.conftest import BUSYBOX
from tests.contract.behaviours import BEHAVIOURS, LIMITS, Behaviour
from tests.contract.place import PATIENCE_S
from tests.support.channel_runner import ChannelRunner

GIVEN = {"given": b"what was given\n"}
RESULT_FILE = ".jobmanager/result.json"


@pytest.fixture
def runner(address: Address) -> Iterator[ChannelRunner]:
    """The runner of a container with these limits."""
    engine, name = connect(address, PATIENCE_S), f"jobmanager-test-{secrets.token_hex(6)}"
    store = RunnerVolumes(manager_id=secrets.token_hex(6), owner=Owner.this_process(), binary_for=binary)
    runner = None
    try:
        volume = store.ensure(engine, address.host)
        spec = ContainerSpec(name=name, image=BUSYBOX, labels={}, limits=LIMITS, runner=volume.sha256)
        engine.create(spec, ImageDefaults(command=(), volumes=()))
        engine.start(name)
        runner = ChannelRunner(engine, name)
        yield runner
    finally:
        if runner is not None:
            runner.close()
        engine.remove(name)
        store.release(engine, address.host)
        engine.close()


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda behaviour: behaviour.name)
def test_the_runner_says_of_a_program_what_became_of_it(runner: ChannelRunner, behaviour: Behaviour) -> None:
    runner.put(GIVEN)

    record = runner.shell(
        behaviour.command,
        stdin=behaviour.stdin,
        wall_ms=int(behaviour.wall_s * 1000),
        cpu_us=int(behaviour.cpu_s * 1e6),
        cpus_milli=1000,
        output_bytes=behaviour.output_bytes,
        drops_output=behaviour.drops,
        places=(b"/job",),
        bring=(BringPath(path=f"/job/{RESULT_FILE}".encode(), most=2**20),),
    )

    ended = record.ended
    assert (ended.how, ended.code, ended.stopped_by) == (behaviour.how, behaviour.code, behaviour.stopped_by)
    assert behaviour.stdout in (record.stdout, None)
    assert behaviour.stderr in (record.stderr, None)
    assert ended.stdout_bytes >= len(record.stdout)
    assert behaviour.counts in ((ended.stdout_bytes, ended.stderr_bytes), None)
    assert bool(ended.oom_kills) is behaviour.kills
    assert bool(ended.fork_refusals) is behaviour.refuses
    assert ended.full == ((FullPlace(path=b"/job", blocks=behaviour.fills[0], inodes=behaviour.fills[1]),) * any(behaviour.fills))
    assert not ended.left
    assert ended.stopped_by is not StoppedBy.CPU or (ended.cpu_us or 0) >= behaviour.cpu_s * 1e6
    assert ended.stopped_by is not StoppedBy.WALL or ended.wall_us >= behaviour.wall_s * 1e6
    (brought,) = record.pieces
    assert (brought.data, brought.errno) == (behaviour.leaves.get(RESULT_FILE, b""), 0 if RESULT_FILE in behaviour.leaves else 2)
    assert _left(runner, behaviour) == behaviour.leaves


def _left(runner: ChannelRunner, behaviour: Behaviour) -> dict[str, bytes]:
    """The files that the program has left, unless it has filled the workspace."""
    runner.send(ListFolder(request=1, path=b"/job"))
    paths = [entry.path.decode() for entry in runner.wait_for(Entries).entries if not entry.kind]
    if any(behaviour.fills):
        return {}
    left = {}
    for number, path in enumerate(sorted(set(paths) - set(GIVEN)), start=2):
        runner.send(Fetch(request=number, files=(BringPath(path=f"/job/{path}".encode(), most=2**20),)))
        left[path] = runner.wait_for(Piece, where=lambda piece, number=number: piece.request == number).data
    return left
