"""``map`` and ``amap``: what is taken, what is given out and in which order, and that nothing is left when one stops."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from jobmanager import BatchProgress, ClientFuture, DockerHost, JobInput, JobManager, Outcome, Task
from jobmanager.batch import progress as progress_module
from jobmanager.batch.progress import ProgressBar, progress_text
from jobmanager.errors import InvalidInput, InvalidTask, InvalidValue, NotSupported, QueueFull, WouldDeadlock
from jobmanager.model.listings import HostInfo
from jobmanager.testing import FakeEngineServer
from jobmanager.threads import deadlock_guard
from tests.conftest import eventually
from tests.unit.stub_client import StubClient

TASK = Task("busybox", command="cat")
LONG = Task("busybox", command="sleep 3000")


class Busy(StubClient):
    """Ends each job when as many were begun as ``at_once`` says: the last one first. A killed job ends as killed."""

    def __init__(self, at_once: int = 1) -> None:
        super().__init__(dies_when_killed=True)
        self.at_once = at_once
        self.open: list[str] = []
        self.most_open = 0

    def new_job(self, task, inputdata=None, callback=None, **options):
        job_id = super().new_job(task, inputdata, callback, **options)
        self.open.append(job_id)
        self.most_open = max(self.most_open, len(self.open))
        if len(self.open) >= self.at_once:
            for each in reversed(self.open):
                self.finish(each)
            self.open.clear()
        return job_id

    def kill_job(self, job_id):
        if job_id not in self.open:
            return False
        self.open.remove(job_id)
        return super().kill_job(job_id)

    @property
    def begun(self) -> list[str]:
        return [given.inputdata["n"] for given in self.jobs.values()]


def inputs(count: int | None = None) -> Iterator[dict[str, str]]:
    return ({"n": str(number)} for number in (itertools.count() if count is None else range(count)))


def numbers(pairs) -> list[int]:
    return [int(given["n"]) for given, _ in pairs]


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeEngineServer]:
    with FakeEngineServer() as server:
        yield server


@pytest.fixture
def manager(fake: FakeEngineServer) -> Iterator[JobManager]:
    with JobManager(DockerHost(fake.url)) as manager:
        yield manager


# ---- order and back-pressure


def test_pairs_come_in_the_order_of_the_inputs_whatever_ends_first():
    client = Busy(at_once=4)
    assert numbers(ClientFuture(client).map(TASK, inputs(12), at_once=4)) == list(range(12))


def test_unordered_pairs_come_in_the_order_of_their_ends():
    client = Busy(at_once=4)
    assert numbers(ClientFuture(client).map(TASK, inputs(8), at_once=4, ordered=False)) == [3, 2, 1, 0, 7, 6, 5, 4]


@pytest.mark.parametrize("ordered", [True, False])
def test_endless_inputs_are_taken_only_as_there_is_room(ordered):
    client = Busy(at_once=3)
    pairs = ClientFuture(client).map(TASK, inputs(), at_once=3, ordered=ordered)
    taken = [next(pairs) for _ in range(50)]
    pairs.close()

    assert len({given["n"] for given, _ in taken}) == 50
    assert client.most_open == 3 and len(client.jobs) <= 50 + 4 * 3


def test_nothing_is_begun_before_the_first_step_and_nothing_while_the_consumer_is_busy():
    client = Busy()
    pairs = ClientFuture(client).map(TASK, inputs(), at_once=1)
    assert client.begun == []
    next(pairs)
    begun = len(client.begun)
    assert begun <= 2
    gc.collect()
    assert len(client.begun) == begun
    pairs.close()


def test_without_a_number_twice_the_slots_of_the_hosts_that_are_up_are_under_way():
    client = Busy(at_once=6)
    up = HostInfo(name="a", url="", up=True, reason="", running=0, limit=3, environments=(), memory_mib=0, free_memory_mib=0)
    down = HostInfo(name="b", url="", up=False, reason="", running=0, limit=9, environments=(), memory_mib=0, free_memory_mib=0)
    client.hosts = lambda: [up, down]

    assert numbers(ClientFuture(client).map(TASK, inputs(12))) == list(range(12))
    assert client.most_open == 6


def test_a_full_queue_is_waited_for():
    class Full(Busy):
        refusals = 5

        def new_job(self, task, inputdata=None, callback=None, **options):
            if len(self.jobs) % 3 == 2 and self.refusals:
                self.refusals -= 1
                raise QueueFull("full")
            return super().new_job(task, inputdata, callback, **options)

    client = Full()
    assert numbers(ClientFuture(client).map(TASK, inputs(9), at_once=2)) == list(range(9))
    assert client.refusals == 0 and client.begun == [str(number) for number in range(9)]


def test_no_inputs_give_no_pairs():
    assert list(ClientFuture(Busy()).map(TASK, [])) == []


def test_the_options_reach_each_job():
    client = Busy()
    list(ClientFuture(client).map(TASK, [None, {"q": "a"}], at_once=1, priority=3, launcher_name="ann", debug=True))
    assert [(each.inputdata, each.priority, each.launcher_name, each.debug) for each in client.jobs.values()] == [
        (None, 3, "ann", True),
        ({"q": "a"}, 3, "ann", True),
    ]


# ---- stopping


def still_open(client: Busy) -> list[str]:
    return client.open


def test_a_consumer_that_raises_leaves_no_job_under_way():
    client = Busy(at_once=5)

    def consume() -> None:
        for given, _ in ClientFuture(client).map(TASK, inputs(), at_once=5):
            if given["n"] == "7":
                raise KeyError("the consumer's own")

    with pytest.raises(KeyError):
        consume()
    assert still_open(client) == [] and client.killed


def test_inputs_that_raise_end_what_was_begun_and_the_error_comes_through():
    client = Busy(at_once=9)

    def failing() -> Iterator[dict[str, str]]:
        yield from inputs(4)
        raise KeyError("the inputs' own")

    with pytest.raises(KeyError, match="the inputs' own"):
        list(ClientFuture(client).map(TASK, failing(), at_once=9))
    assert len(client.killed) == 4 and still_open(client) == []


def test_an_input_that_is_refused_ends_what_was_begun_and_the_error_comes_through(manager: JobManager):
    with pytest.raises(InvalidInput, match="inputdata must be"):
        list(manager.map(LONG, [None, 5], at_once=2))
    assert manager.get_job_queue_snapshot() == ([], [])


def test_closing_kills_what_runs_and_what_waits_and_returns_when_it_has_ended(manager: JobManager):
    pairs = manager.map(LONG, itertools.repeat(None), at_once=20)
    stepping = threading.Thread(target=lambda: next(pairs, None))
    stepping.start()
    running = eventually(lambda: len(manager.get_job_queue_snapshot()[1]) > 3 and manager.get_job_queue_snapshot()[0])
    manager.kill_job(running[0].job_id)  # the oldest: so the step ends
    stepping.join(60)
    assert sum(map(len, manager.get_job_queue_snapshot())) > 3

    pairs.close()

    assert manager.get_job_queue_snapshot() == ([], [])
    eventually(lambda: not any(host.running for host in manager.hosts()))


def test_an_iterator_that_nobody_steps_or_closes_is_no_trouble():
    pairs = ClientFuture(Busy()).map(TASK, inputs())
    del pairs
    gc.collect()


def test_in_a_forked_child_the_parents_batch_is_left_alone():
    client = Busy(at_once=9)
    pairs = ClientFuture(client).map(TASK, itertools.chain(inputs(1), waits_for(client)), at_once=9)
    given, _ = next(pairs)
    assert given == {"n": "0"}
    child = os.fork()
    if child == 0:
        pairs.close()
        os._exit(len(client.killed))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    pairs.close()


def waits_for(client: Busy) -> Iterator[dict[str, str]]:
    """One more input, before which the first job ends."""
    client.finish(client.open.pop(0))
    yield {"n": "1"}
    yield {"n": "2"}


def test_inside_a_callback_it_is_refused():
    answers: list[object] = []

    def step() -> None:
        deadlock_guard.mark_callback_thread()
        try:
            next(ClientFuture(Busy()).map(TASK, inputs()))
        except WouldDeadlock as error:
            answers.append(error)

    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
    assert len(answers) == 1


# ---- the results file


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_result_is_in_the_file_before_its_pair_is_given_out(tmp_path: Path):
    path = tmp_path / "run.jsonl"
    for count, (_, result) in enumerate(ClientFuture(Busy()).map(TASK, inputs(5), results=path, at_once=1), start=1):
        stored = [line["result"]["job_id"] for line in lines(path)[1:]]
        assert result.job_id in stored and len(stored) >= count


@pytest.mark.parametrize("ordered", [True, False])
def test_started_again_it_goes_on_where_it_stopped_and_runs_nothing_twice(tmp_path: Path, fake, manager, ordered):
    path, task = tmp_path / "run.jsonl", Task("busybox", command="cat", name=f"again {ordered}")
    given = [JobInput(stdin=f"{ordered} {number}") for number in range(12)]

    def ids(pairs) -> list[tuple[bytes, str]]:
        return [(result.stdout, result.job_id) for _, result in pairs]

    before = sum(fake.runs().values())
    first = ids(itertools.islice(manager.map(task, given, results=path, ordered=ordered, at_once=3), 5))
    gc.collect()
    finished = {(line["key"], line["result"]["job_id"]) for line in lines(path)[1:]}
    assert len(finished) >= 5
    again = ids(manager.map(task, given, results=path, ordered=ordered, at_once=3))
    third = ids(manager.map(task, given, results=path, ordered=ordered, at_once=3))

    assert set(first) <= set(again) and sorted(again) == sorted(third)
    assert sorted(output for output, _ in again) == sorted(each.stdin for each in given)
    assert {job_id for _, job_id in finished} <= {job_id for _, job_id in again}
    killed = sum(fake.runs().values()) - before - 12
    assert 0 <= killed <= 3  # those that were killed on the way have begun, and have no result in the file


def test_inputs_that_are_equal_are_all_run_and_found_again(tmp_path: Path):
    path, client = tmp_path / "run.jsonl", Busy()
    same = [{"n": "1"}] * 3
    first = [result.job_id for _, result in ClientFuture(client).map(TASK, same, results=path, at_once=1)]
    again = [result.job_id for _, result in ClientFuture(client).map(TASK, [*same, {"n": "1"}], results=path, at_once=1)]

    assert len(set(first)) == 3 and again[:3] == first and len(client.jobs) == 4
    assert [line["repeat"] for line in lines(path)[1:]] == [1, 2, 3, 4]


def test_a_key_of_the_callers_names_an_input(tmp_path: Path):
    path = tmp_path / "run.jsonl"
    list(ClientFuture(Busy()).map(TASK, inputs(2), results=path, key=lambda given: f"number {given['n']}"))
    assert sorted(line["key"] for line in lines(path)[1:]) == ["number 0", "number 1"]

    with pytest.raises(InvalidValue, match="key must return a text that is not empty, not 5"):
        list(ClientFuture(Busy()).map(TASK, inputs(2), results=path, key=lambda _: 5))


def test_a_result_under_a_key_is_never_taken_for_another_input(tmp_path: Path):
    path, by_name = tmp_path / "run.jsonl", {"key": lambda given: "sample 1"}
    list(ClientFuture(Busy()).map(TASK, [{"n": "1"}], results=path, **by_name))
    list(ClientFuture(Busy()).map(TASK, [{"n": "1"}], results=path, **by_name))
    with pytest.raises(InvalidValue, match="the key 'sample 1' is of another input than the one that has this key now"):
        list(ClientFuture(Busy()).map(TASK, [{"n": "2"}], results=path, **by_name))


class Refuses(Busy):
    """It takes odd numbers only."""

    def new_job(self, task, inputdata=None, callback=None, **options):
        if not isinstance(inputdata, dict) or int(inputdata["n"]) % 2 == 0:
            raise InvalidInput("too large")
        return super().new_job(task, inputdata, callback, **options)


def test_an_input_that_is_refused_is_named(tmp_path: Path):
    with pytest.raises(InvalidInput, match=r"^input number 2: too large$"):
        list(ClientFuture(Refuses()).map(TASK, [{"n": "1"}, {"n": "2"}]))
    named = {"results": tmp_path / "run.jsonl", "key": lambda given: f"sample {given['n']}"}
    with pytest.raises(InvalidInput, match=r"^input number 2 \('sample 2'\): too large$"):
        list(ClientFuture(Refuses()).map(TASK, [{"n": "1"}, {"n": "2"}], **named))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("stored", [True, False])
def test_inputs_that_are_refused_are_passed_over_where_a_function_takes_them(tmp_path: Path, ordered: bool, stored: bool):
    refused, counts = [], []
    pairs = ClientFuture(Refuses()).map(
        TASK,
        [{"n": "1"}, {"n": "2"}, 5, {"n": "3"}, {"n": "2"}],
        ordered=ordered,
        results=tmp_path / "run.jsonl" if stored else None,
        on_refused=lambda given, error: refused.append((given, str(error))),
        progress=lambda progress: counts.append((progress.done, progress.refused)),
    )
    assert numbers(pairs) == [1, 3]
    assert [given for given, _ in refused] == [{"n": "2"}, 5, {"n": "2"}]
    assert [text.partition(":")[0] for _, text in refused] == ["input number 2", "input number 3", "input number 5"]
    assert counts[-1] == (2, 3)


def test_what_a_manager_refuses_is_passed_over_and_the_rest_is_run(manager: JobManager):
    refused: list[object] = []
    given = [JobInput(stdin="a"), 5, {"no": "problem"}, JobInput(stdin="b")]
    pairs = list(manager.map(TASK, given, on_refused=lambda each, error: refused.append(each)))
    assert [result.stdout for _, result in pairs] == [b"a", b"b"]
    assert refused == [5, {"no": "problem"}]


def test_with_amap_the_function_that_takes_them_is_called_in_the_event_loop():
    async def main() -> list[object]:
        loop, seen = asyncio.get_running_loop(), []
        given = [{"n": "2"}, {"n": "1"}]
        pairs = ClientFuture(Refuses()).amap(TASK, given, on_refused=lambda *_: seen.append(asyncio.get_running_loop() is loop))
        assert [each async for each, _ in pairs] == [{"n": "1"}]
        return seen

    assert asyncio.run(main()) == [True]


def test_an_error_of_the_function_that_takes_refused_inputs_ends_the_batch():
    def refuse(given, error):
        raise KeyError("the function's own")

    client = Refuses()
    with pytest.raises(KeyError, match="the function's own"):
        list(ClientFuture(client).map(TASK, [{"n": "2"}], on_refused=refuse))


def test_jobs_that_were_killed_as_it_stopped_are_not_results(tmp_path: Path):
    path, client = tmp_path / "run.jsonl", Busy(at_once=4)
    pairs = ClientFuture(client).map(TASK, inputs(6), results=path, at_once=4)
    next(pairs)
    eventually(lambda: len(lines(path)) == 5)
    list(itertools.islice(pairs, 2))
    assert client.open
    pairs.close()

    assert len(lines(path)) == 5 and client.killed
    assert numbers(ClientFuture(Busy()).map(TASK, inputs(6), results=path, at_once=4)) == list(range(6))


def test_jobs_that_were_killed_by_others_are_results(tmp_path: Path):
    path = tmp_path / "run.jsonl"
    client = StubClient()
    pairs = ClientFuture(client).map(TASK, inputs(1), results=path)
    ender = threading.Thread(target=lambda: client.accepted.wait() and client.finish(next(iter(client.jobs)), Outcome.KILLED))
    ender.start()
    assert [result.outcome for _, result in pairs] == [Outcome.KILLED]
    ender.join()
    assert [line["result"]["outcome"] for line in lines(path)[1:]] == ["killed"]


def test_a_disk_that_is_full_comes_through_and_the_file_stays_whole(tmp_path: Path, monkeypatch):
    path = tmp_path / "run.jsonl"
    list(ClientFuture(Busy()).map(TASK, inputs(2), results=path))
    before, real = path.read_bytes(), os.pwrite

    def full(file: int, data: bytes, offset: int) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return real(file, data[:-10], offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        list(ClientFuture(Busy()).map(TASK, inputs(4), results=path))
    monkeypatch.undo()

    assert path.read_bytes() == before
    assert numbers(ClientFuture(Busy()).map(TASK, inputs(4), results=path)) == [0, 1, 2, 3]


# ---- asyncio


async def async_inputs(count: int | None = None):
    for given in inputs(count):
        await asyncio.sleep(0)
        yield given


def test_amap_gives_the_same_pairs_from_plain_and_from_asynchronous_inputs():
    async def main(given) -> list[int]:
        return [int(each["n"]) async for each, _ in ClientFuture(Busy(at_once=2)).amap(TASK, given, at_once=2)]

    assert asyncio.run(main(inputs(8))) == asyncio.run(main(async_inputs(8))) == list(range(8))


def test_amap_gives_out_a_result_while_the_next_input_lets_wait():
    async def main() -> str:
        asked = asyncio.Event()

        async def slow():
            yield {"n": "first"}
            await asked.wait()
            yield {"n": "second"}

        async with aclosing(ClientFuture(Busy()).amap(TASK, slow())) as pairs:
            given, _ = await anext(pairs)
            asked.set()
            await anext(pairs)
            return given["n"]

    assert asyncio.run(asyncio.wait_for(main(), 60)) == "first"


def test_cancelling_the_task_that_iterates_leaves_nothing(manager: JobManager, tmp_path: Path):
    async def consume() -> None:
        async for _ in manager.amap(LONG, itertools.repeat(None), at_once=6, results=tmp_path / "run.jsonl"):
            pytest.fail("they never end")

    async def main() -> None:
        task = asyncio.create_task(consume())
        while sum(map(len, manager.get_job_queue_snapshot())) < 6 and not task.done():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert manager.get_job_queue_snapshot() == ([], [])
    assert len(lines(tmp_path / "run.jsonl")) == 1


def test_asynchronous_inputs_that_raise_end_what_was_begun():
    client = Busy(at_once=9)

    async def failing():
        yield {"n": "0"}
        raise KeyError("the inputs' own")

    async def main() -> None:
        async for _ in ClientFuture(client).amap(TASK, failing(), at_once=9):
            pytest.fail("it never ends")

    with pytest.raises(KeyError, match="the inputs' own"):
        asyncio.run(main())
    assert still_open(client) == [] and len(client.killed) == 1


# ---- progress


def test_a_function_is_told_how_far_it_is(tmp_path: Path):
    seen: list[BatchProgress] = []
    path = tmp_path / "run.jsonl"
    list(ClientFuture(Busy()).map(TASK, inputs(2), results=path))
    list(ClientFuture(Busy()).map(TASK, list(inputs(5)), results=path, progress=seen.append, at_once=1))

    assert all(one.done <= other.done for one, other in itertools.pairwise(seen))
    last = seen[-1]
    assert (last.done, last.stored, last.running, last.total, last.outcomes) == (5, 2, 0, 5, {"success": 3})


def test_the_text_says_done_outcomes_speed_and_the_time_left():
    outcomes = {"failed": 10, "success": 30}
    some = BatchProgress(done=60, stored=20, running=4, total=100, refused=0, outcomes=outcomes, elapsed_s=20.0)
    assert progress_text(some) == "60/100 (30 success, 10 failed, 20 stored), 2/s, 0:20 left"
    unknown = BatchProgress(done=0, stored=0, running=4, total=None, refused=0, outcomes={}, elapsed_s=0.0)
    assert progress_text(unknown) == "0 (none yet), 0/s"
    long = BatchProgress(done=1, stored=0, running=4, total=5000, refused=2, outcomes={"timeout": 1}, elapsed_s=1.0)
    assert progress_text(long).endswith("(1 timeout, 2 refused), 1/s, 1:23:17 left")


def test_the_bar_ends_with_all_that_was_done(capsys):
    task = Task("x", command="cat", name="[/b] of [red]")
    list(ClientFuture(Busy()).map(task, list(inputs(3)), progress=True))
    shown = capsys.readouterr().err
    assert "3/3 (3 success)" in shown and "[/b] of [red]" in shown


def test_what_is_printed_beside_a_bar_goes_where_it_did():
    """As in ``script.py > out.txt``: rich would print it on the bar's terminal."""
    with_bar = """if True:
        from jobmanager.batch.progress import BatchProgress, ProgressBar
        bar = ProgressBar("t")
        bar(BatchProgress(done=1, stored=0, running=0, total=1, refused=0, outcomes={"success": 1}, elapsed_s=1.0))
        print("mine")
        bar.close()
    """
    screen, terminal = pty.openpty()
    try:
        ended = subprocess.run([sys.executable, "-c", with_bar], stdout=subprocess.PIPE, stderr=terminal, timeout=60, check=True)
        shown = os.read(screen, 100_000)
    finally:
        os.close(screen)
        os.close(terminal)
    assert ended.stdout == b"mine\n"
    assert b"1/1 (1 success)" in shown


def test_without_rich_a_bar_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rich.progress", None)
    with pytest.raises(NotSupported, match="the extra `cli`"):
        next(ClientFuture(Busy()).map(TASK, inputs(1), progress=True))
    assert progress_module.ProgressBar is ProgressBar


# ---- nonsense


@pytest.mark.parametrize(
    ("task", "given", "options", "error", "message"),
    [
        ("ls", [], {}, InvalidTask, "task must be a Task or a Pipeline"),
        (TASK, {"q": "a"}, {}, InvalidInput, "inputs must be an iterable of inputs, such as a list or a generator, not dict"),
        (TASK, "ab", {}, InvalidInput, "inputs must be an iterable"),
        (TASK, 5, {}, InvalidInput, "inputs must be an iterable"),
        (TASK, [], {"at_once": 0}, InvalidValue, "at_once must be a whole number above zero"),
        (TASK, [], {"ordered": "yes"}, InvalidValue, "ordered must be True or False"),
        (TASK, [], {"key": "id"}, InvalidValue, "key must be callable"),
        (TASK, [], {"progress": 3}, InvalidValue, "progress must be callable"),
        (TASK, [], {"priority": "high", "on_refused": print}, InvalidInput, "^priority must be a whole number"),
        (TASK, [], {"launcher_name": 5}, InvalidInput, "launcher_name must be a string"),
        (TASK, [], {"debug": "yes"}, InvalidInput, "debug must be"),
        (TASK, [], {"on_refused": []}, InvalidValue, "on_refused must be callable"),
        (TASK, [], {"on_refused": lambda given: None}, InvalidValue, "on_refused"),
        (TASK, [], {"results": 3}, InvalidValue, "results must be the path of a file"),
        (TASK, [], {"debug": "ssh"}, InvalidInput, 'debug="ssh" is for a single job'),
    ],
)
def test_nonsense_is_refused_at_the_call(task, given, options, error, message):
    for ways in (ClientFuture(Busy()).map, ClientFuture(Busy()).amap, JobManager("unix:///nowhere").map):
        with pytest.raises(error, match=message):
            ways(task, given, **options)
