"""Many jobs, many readers, waiters that are killed again and again: what readers were given is what results hold."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator

import pytest

from jobmanager import DockerHost, JobManager, JobResult, LiveOutput, Output, Phase, Pipeline, Task
from jobmanager.errors import UnknownJob
from jobmanager.model.result import Callback
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.support.daemons import PrivateDaemon
from tests.support.faults import processes

pytestmark = pytest.mark.case(5)

_JOBS = 60
_READERS = 4  # for each job
_PROGRAM = """\
for n in 0 1 2 3 4 5 6 7 8 9; do
  echo $1 out $n; echo $1 err $n >&2
  head -c $2 /dev/zero | tr '\\0' x; echo
  [ $n = $3 ] && sleep 1
done; printf 'the end of %s' $1
"""


@pytest.fixture
def engine(private_engine: PrivateDaemon) -> Iterator[str]:
    yield private_engine.url
    eventually(lambda: not our_containers(private_engine.url), what="containers are gone")
    eventually(lambda: not our_volumes(private_engine.url), what="volumes are gone")


class Reader(threading.Thread):
    """Follows one job from some moment on, at its own pace, perhaps not to its end."""

    def __init__(self, manager: JobManager, job_id: str, seed: str) -> None:
        super().__init__(daemon=True)
        self._chance = random.Random(seed)
        self._manager = manager
        self.job_id = job_id
        self.seen: list[Output] = []
        self.came_too_late = self.left_early = False

    def run(self) -> None:
        time.sleep(self._chance.choice([0, 0, 0.5, 1.5]))  # the reader's pace, not the test's
        leaves_after = self._chance.choice([None, None, None, 3])
        try:
            with self._manager.follow(self.job_id, timeout_s=100) as live:
                self.left_early = not self._read(live, leaves_after)
        except UnknownJob:
            self.came_too_late = True

    def _read(self, live: LiveOutput, leaves_after: int | None) -> bool:
        for output in live:
            self.seen.append(output)
            if len(self.seen) == leaves_after:
                return False
            time.sleep(self._chance.choice([0, 0, 0, 0.01, 0.1]))
        return True

    def streams(self) -> list[tuple[str, bytes, bytes]]:
        """Both streams of each phase, in the order in which they came; of a task those of a phase without a name."""
        begin = max((at + 1 for at, output in enumerate(self.seen) if output.starts_again), default=0)
        assert not any(output.missed_bytes for output in self.seen)
        found = []
        for phase, its_own in itertools.groupby(self.seen[begin:], lambda output: output.phase):
            outputs = list(its_own)
            found.append((phase, *(b"".join(o.data for o in outputs if o.stderr is stderr) for stderr in (False, True))))
        return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_readers_are_given_is_what_results_hold_whoever_dies(engine: str, seed: int) -> None:
    chance = random.Random(seed)
    results: dict[str, JobResult] = {}
    readers: list[Reader] = []
    with JobManager(DockerHost(engine, max_concurrent_jobs=8, waiters=2)) as manager:
        for number in range(_JOBS):
            words = (f"job{number}", str(chance.choice([1, 100, 5000])), str(chance.randint(0, 12)))
            task = Task(BUSYBOX, command=["sh", "-c", _PROGRAM, "sh", *words])
            what = Pipeline([Phase(name, task) for name in ("one", "two", "three")]) if number % 3 == 0 else task
            job_id = manager.new_job(what, callback=_keeper(results))
            readers += [Reader(manager, job_id, f"{seed} {number} {reader}") for reader in range(_READERS)]
            for reader in readers[-_READERS:]:
                reader.start()
        while len(results) < _JOBS:
            before = len(results)
            chance.choice(processes("_waiter")).kill()
            eventually(lambda before=before: len(results) >= min(_JOBS, before + 8), within_s=100)
        for reader in readers:
            reader.join(100)

    assert not any(reader.is_alive() for reader in readers)
    for reader in readers:
        result = results[reader.job_id]
        assert result.stdout.endswith(b"the end of " + result.stdout.split()[0]), result
        if not (reader.left_early or reader.came_too_late):
            assert reader.streams() == _printed(result)
    assert sum(len(reader.seen) > 0 for reader in readers) > _JOBS


def _printed(result: JobResult) -> list[tuple[str, bytes, bytes]]:
    if not result.phases:
        return [("", result.stdout, result.stderr)]
    return [(phase.name, phase.run.stdout, phase.run.stderr) for phase in result.phases if phase.run is not None]


def _keeper(results: dict[str, JobResult]) -> Callback:
    return lambda result: results.update({result.job_id: result})
