"""The ways to a result over both clients: what holds for ``JobManager`` holds for ``RemoteClient``, with real workers behind it."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil
import pytest

from jobmanager import (
    Case,
    Checker,
    Client,
    ClientBuffer,
    ClientFuture,
    ClientSync,
    DockerHost,
    HookManager,
    Interactor,
    JobFuture,
    JobInput,
    JobManager,
    JobResult,
    Match,
    Outcome,
    Output,
    Phase,
    Pipeline,
    Task,
    errors,
    events,
)
from jobmanager.testing import FakeEngineServer
from tests.conftest import eventually, open_files, our_threads
from tests.support.cluster import Cluster
from tests.support.redis_server import RedisServer

PATIENCE_S = 30.0
HELLO = Task("busybox", command="echo hello")
SLEEPER = Task("busybox", command="sleep 300")


@pytest.fixture(scope="module")
def cluster_of_all() -> Iterator[Cluster]:
    """Two nodes of four slots, for all tests here."""
    with RedisServer() as redis, Cluster(redis, 2) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def nothing_left_behind(cluster_of_all: Cluster) -> Iterator[None]:
    """As for all tests, but for children of the cluster's workers: it proves at its own end that none is left."""
    children_before, files_before = own_children(), open_files()
    yield
    eventually(lambda: not our_threads(), what=f"the library's threads are gone: {our_threads()}")
    eventually(lambda: own_children() <= children_before, what="children are gone")
    eventually(lambda: open_files() <= files_before, what=f"descriptors are closed: {open_files()} now, {files_before} before")


def own_children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


@pytest.fixture(params=["in this process", "over a cluster"])
def start_client(request: pytest.FixtureRequest) -> Iterator[Callable[..., JobManager]]:
    """Starts a client of either kind, on fake engines with eight slots in all. Their interface is the same."""
    with ExitStack() as stack:
        if request.param == "over a cluster":
            make: Callable[..., JobManager] = partial(request.getfixturevalue("cluster_of_all").client, start=False)
        else:
            engine = stack.enter_context(FakeEngineServer(images=["busybox"]))
            make = partial(JobManager, DockerHost(engine.url, max_concurrent_jobs=8))

        def start(**options: object) -> JobManager:
            client = make(**options)
            stack.callback(client.close, kill=True)
            client.start()
            return client

        yield start


@pytest.fixture
def client(start_client: Callable[..., JobManager]) -> JobManager:
    return start_client()


def test_it_is_a_client(client: JobManager) -> None:
    assert isinstance(client, Client)


def test_waiting_for_a_result(client: JobManager) -> None:
    result = ClientSync(client).new_job(Task("busybox", command="cat"), JobInput(stdin=b"\xff\0"), timeout_s=PATIENCE_S)

    assert (result.outcome, result.stdout, result.exit_code, result.grade) == (Outcome.SUCCESS, b"\xff\0", 0, 100.0)
    assert result.evidence and result.timings and result.host


def test_a_caller_that_waits_no_longer_kills_the_job(client: JobManager) -> None:
    with pytest.raises(errors.JobTimeout, match=r"did not end within 0\.5 s and was killed"):
        ClientSync(client).new_job(SLEEPER, timeout_s=0.5)

    eventually(lambda: client.get_job_queue_snapshot() == ([], []), what="it is gone from the queue")


def test_polling(client: JobManager) -> None:
    buffer = ClientBuffer(client)
    job_id = buffer.new_job(HELLO, launcher_name="ann", priority=3)
    eventually(lambda: buffer.is_done(job_id))

    assert buffer.get_result(job_id).stdout == b"hello\n"
    with pytest.raises(errors.UnknownJob):
        buffer.is_done(job_id)


def test_futures(client: JobManager) -> None:
    futures = [ClientFuture(client).new_job(Task("busybox", command=f"echo {number}")) for number in range(30)]

    assert [future.result(PATIENCE_S).stdout for future in futures] == [f"{number}\n".encode() for number in range(30)]


def test_cancelling_a_future_kills_its_job(client: JobManager) -> None:
    future = client.submit(SLEEPER)
    assert future.cancel()

    eventually(lambda: client.get_job_queue_info(future.job_id) is None)


def test_awaiting_and_cancelling_in_asyncio(client: JobManager) -> None:
    async def both() -> tuple[list[bytes], str]:
        results = await asyncio.gather(*(client.submit(HELLO) for _ in range(5)))
        sleeper = client.submit(SLEEPER)
        waiting = asyncio.ensure_future(asyncio.wrap_future(sleeper))
        await asyncio.sleep(0.3)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return [result.stdout for result in results], sleeper.job_id

    printed, sleeper = asyncio.run(both())

    assert printed == [b"hello\n"] * 5
    eventually(lambda: client.get_job_queue_info(sleeper) is None)


def test_problems_with_and_without_a_container(client: JobManager) -> None:
    problems = {"m": Match("yes")}
    answered = ClientSync(client).new_job(Task("busybox", problems=problems), {"m": "no"}, timeout_s=PATIENCE_S)
    merged = ClientSync(client).new_job(Task("busybox", command="true", problems=problems), {"m": "no"}, timeout_s=PATIENCE_S)

    assert (answered.outcome, answered.host) == (Outcome.FAILED, None)
    assert (merged.outcome, merged.exit_code, merged.problems["m"].outcome) == (Outcome.FAILED, 0, Outcome.FAILED)


def test_a_pipeline(client: JobManager) -> None:
    task = Pipeline(
        [
            Phase("build", Task("busybox", command="echo built"), inputs=True),
            Phase("test", Task("busybox", command="exit 3")),
            Phase("never", Task("busybox", command="true")),
        ]
    )
    result = ClientSync(client).new_job(task, timeout_s=PATIENCE_S)

    assert (result.outcome, result.exit_code) == (Outcome.FAILED, 3)
    assert [(phase.name, phase.outcome) for phase in result.phases] == [
        ("build", Outcome.SUCCESS),
        ("test", Outcome.FAILED),
        ("never", None),
    ]
    assert result.phases[0].run is not None and result.phases[0].run.stdout == b"built\n"


def test_what_is_large_comes_whole(client: JobManager) -> None:
    content = secrets.token_bytes(300_000)
    result = ClientSync(client).new_job(
        Task("busybox", command="cat big own", collect=["big"], files={"big": content}),
        JobInput(files={"own": content[::-1]}),
        timeout_s=PATIENCE_S,
    )

    assert result.stdout == content + content[::-1]
    assert result.archive is not None and len(result.archive) > 250_000


def test_output_is_read_as_it_comes(client: JobManager) -> None:
    future = client.submit(Task("busybox", command="echo one; sleep 2; echo two"))
    with client.follow(future.job_id, timeout_s=PATIENCE_S) as reader:
        assert next(reader) == Output(stderr=False, data=b"one\n")
        assert not future.done()
        assert b"".join(output.data for output in reader) == b"two\n"


def test_the_output_of_a_pipeline_names_its_phases(client: JobManager) -> None:
    phases = [Phase(name, Task("busybox", command=f"echo {name}")) for name in ("build", "test")]
    future = client.submit(Pipeline(phases))
    read = [(output.phase, output.data) for output in client.follow(future.job_id, timeout_s=PATIENCE_S)]

    assert read == [("build", b"build\n"), ("test", b"test\n")]


def test_hooks_are_told_in_order(start_client: Callable[..., JobManager]) -> None:
    hooks, told = HookManager(), list[events.Event]()
    hooks.add(events.Event, told.append)
    client = start_client(hook_manager=hooks)
    job_id = client.submit(Pipeline([Phase("build", Task("busybox", command="true"))])).job_id
    eventually(lambda: any(isinstance(event, events.JobEnded) for event in told))

    kinds = [type(event).__name__ for event in told if getattr(event, "job_id", None) == job_id]
    assert [kind for kind in kinds if kind != "JobDeleted"] == [
        *("JobQueued", "JobPlaced", "JobStarted", "PhaseStarted", "PhaseEnded", "JobEnded")
    ]


CASES = Task(
    "busybox",
    build="echo built",
    command="cat",
    cases=[
        Case("1\n", expected="1"),
        Case("2\n", expected="3", points=2),
        Case("3\n", name="by a function", check=lambda case, output: output == b"3\n"),
        Case("4\n", name="by another", check=lambda case, output: output == b"3\n"),
    ],
)


def test_cases_have_their_results_and_functions_of_the_caller_check_in_its_process(client: JobManager) -> None:
    result = client.submit(CASES).result(PATIENCE_S)

    assert result.build is not None and result.build.stdout == b"built\n"
    assert [(case.name, case.outcome, case.correct, case.points) for case in result.cases] == [
        ("1", Outcome.SUCCESS, True, 1.0),
        ("2", Outcome.FAILED, False, 0.0),
        ("by a function", Outcome.SUCCESS, True, 1.0),
        ("by another", Outcome.FAILED, False, 0.0),
    ]
    assert (result.outcome, result.text, result.grade) == (Outcome.FAILED, "case 2: line 1: '2' is not what is expected", 40.0)
    assert result.tests == {"1": True, "2": False, "by a function": True, "by another": False}


def test_who_follows_a_job_sees_each_case_as_it_ends(client: JobManager) -> None:
    """The second case would end in five minutes: the first one is shown long before."""
    cases = [Case(args=["0"]), Case(name="one", args=["0"]), Case(name="long", args=["300"])]
    job = client.submit(Task("busybox", command=["sleep"], cases=cases))
    with client.follow(job.job_id, timeout_s=PATIENCE_S) as reader:
        ended = [output.case for output in (next(reader), next(reader))]
        assert [(case.name, case.outcome) for case in ended if case] == [("1", Outcome.SUCCESS), ("one", Outcome.SUCCESS)]
        assert not job.done()
        client.kill_job(job.job_id)
        assert [output for output in reader if output.case and output.case.name != "long"] == []
    assert job.result(PATIENCE_S).outcome is Outcome.KILLED


def test_a_checker_judges_over_both_clients_also_in_a_phase_and_before_the_next_case(client: JobManager) -> None:
    reads, refuses = Checker(Task("busybox", command=["cat"])), Checker(Task("busybox", command=["false"]))
    cases = [Case("1", check=reads), Case("2", name="wrong", check=refuses), Case("3", name="not run", check=reads)]
    task = Task("busybox", command="cat", cases=cases, stop_at_first_failure=True)
    for result in (client.submit(task), client.submit(Pipeline([Phase("test", task)]))):
        ended = result.result(PATIENCE_S)
        told = ended.cases or ended.phases[0].cases
        assert [(case.name, case.outcome, case.correct) for case in told] == [
            ("1", Outcome.SUCCESS, True),
            ("wrong", Outcome.FAILED, False),
            ("not run", None, None),
        ], ended


def test_when_all_cases_are_right_functions_have_their_say_still(client: JobManager) -> None:
    said: list[str] = []

    def check(case: Case, output: bytes) -> bool:
        said.append(f"{threading.current_thread().name}: {case.name}: {output.decode()}")
        return True

    task = Task("busybox", command="cat", cases=[Case("1", name="a", check=check), Case("2", name="b", check=check)])
    result = client.submit(task).result(PATIENCE_S)
    assert (result.outcome, result.grade, result.text) == (Outcome.SUCCESS, 100.0, "")
    assert [told.partition(": ")[2] for told in said] == ["a: 1", "b: 2"]


def test_an_interactor_talks_with_the_submission_wherever_that_runs(client: JobManager) -> None:
    content, not_content = (Interactor(Task("busybox", command=f"exit {code}")) for code in (0, 1))
    for check, outcome in ((content, Outcome.SUCCESS), (not_content, Outcome.FAILED)):
        task = Task("busybox", command="echo hello", cases=[Case("1", check=check), Case("2", check=check)])
        result = client.submit(task).result(60)
        assert [(case.outcome, case.correct) for case in result.cases] == [(outcome, outcome is Outcome.SUCCESS)] * 2, result


def test_cases_are_followed_and_told_as_they_end(start_client: Callable[..., JobManager]) -> None:
    hooks, told = HookManager(), list[tuple[int, int, str, bool | None]]()
    hooks.add(events.CaseEnded, lambda event: told.append((event.number, event.of, event.result.name, event.result.correct)))
    client = start_client(hook_manager=hooks)
    cases = [Case(f"{number}\n", name=f"n{number}", expected=f"{number}") for number in range(1, 31)]
    future = client.submit(Task("busybox", build="echo built", command="cat", cases=cases))
    pieces = list(client.follow(future.job_id, timeout_s=PATIENCE_S))
    result = future.result(PATIENCE_S)

    assert result.outcome is Outcome.SUCCESS
    assert [piece.data for piece in pieces if piece.case is None] == [b"built\n"]
    assert [piece.case.name for piece in pieces if piece.case is not None] == [f"n{number}" for number in range(1, 31)]
    eventually(lambda: len(told) >= 30)
    assert told == [(number, 30, f"n{number}", True) for number in range(1, 31)]


def have_all_slots(client: JobManager, futures: list[JobFuture]) -> None:
    """Until exactly these run. Those of another test may still be listed, and their slots be about to be free."""
    wanted = {future.job_id for future in futures}
    eventually(lambda: {job.job_id for job in client.get_job_queue_snapshot()[0]} == wanted, what="they have all slots")


def test_a_newer_job_takes_the_place_of_a_waiting_one(client: JobManager) -> None:
    sleepers = [client.submit(SLEEPER) for _ in range(8)]
    have_all_slots(client, sleepers)
    older = client.submit(HELLO, supersede_key="ann")
    newer = client.submit(HELLO, supersede_key="ann")

    result = older.result(PATIENCE_S)
    assert (result.outcome, result.text) == (Outcome.KILLED, f"killed: superseded by job {newer.job_id}")
    sleepers[0].cancel()
    assert newer.result(PATIENCE_S).outcome is Outcome.SUCCESS


def test_where_jobs_stand(client: JobManager) -> None:
    sleepers = [client.submit(SLEEPER, launcher_name="eve") for _ in range(8)]
    have_all_slots(client, sleepers)
    waiting = [client.submit(HELLO, priority=number) for number in range(3)]

    def listed() -> bool:
        return [job.job_id for job in client.get_job_queue_snapshot()[1]] == [future.job_id for future in waiting]

    eventually(listed, what="three wait, in the order of their priorities")
    running = client.get_job_queue_snapshot()[0]
    assert {job.job_id for job in running} == {future.job_id for future in sleepers}
    assert all(job.is_current_client_job and job.launcher == "eve" and job.host for job in running)
    info = client.get_job_queue_info(waiting[1].job_id)
    assert info is not None and info.jobs_before == 1 and info.remaining_s is None
    assert client.queue_length() == 3
    held = client.get_job_queue_info(sleepers[0].job_id)
    assert held is not None and held.jobs_before == -1 and held.wait_s is not None
    assert held.is_running and held.remaining_s == held.wait_s
    eventually(lambda: sum(host.running for host in client.hosts()) == 8, what="the hosts say so, too")


def test_a_network_that_is_nowhere_is_refused_at_the_call(client: JobManager) -> None:
    says = r"no (host|node) that has its environment has the network 'nonet'; there are: bridge$"
    with pytest.raises(errors.Unsatisfiable, match=says):
        client.submit(Task("busybox", command="true", network="nonet"))


def test_a_callback_that_raises_or_blocks_harms_no_other(start_client: Callable[..., JobManager]) -> None:
    client, gate, results = start_client(callback_threads=2), threading.Event(), list[JobResult]()

    def raises(result: JobResult) -> None:
        raise SystemExit(3)

    client.new_job(HELLO, callback=lambda result: gate.wait(PATIENCE_S))
    client.new_job(HELLO, callback=raises)
    for _ in range(5):
        client.new_job(HELLO, callback=results.append)
    eventually(lambda: len(results) == 5)
    gate.set()


def test_closing_drains(client: JobManager) -> None:
    results: list[JobResult] = []
    for _ in range(12):
        client.new_job(Task("busybox", command="sleep 0.3"), callback=results.append)
    client.close()

    assert [result.outcome for result in results] == [Outcome.SUCCESS] * 12


def test_closing_kills_when_it_is_told_to(client: JobManager) -> None:
    results: list[JobResult] = []
    for _ in range(12):
        client.new_job(SLEEPER, callback=results.append)
    started_at = time.monotonic()
    client.close(kill=True)

    assert [result.outcome for result in results] == [Outcome.KILLED] * 12
    assert time.monotonic() - started_at < PATIENCE_S


# ---- many jobs


def test_a_batch_runs_over_all_slots_and_goes_on_from_its_file(client: JobManager, tmp_path: Path) -> None:
    inputs = [JobInput(stdin=f"{number}") for number in range(30)]
    cat = Task("busybox", command="cat")
    some = list(itertools.islice(client.map(cat, inputs, results=tmp_path / "run.jsonl"), 10))
    pairs = list(client.map(cat, inputs, results=tmp_path / "run.jsonl"))

    assert [(given.stdin, result.stdout) for given, result in pairs] == [(given.stdin, given.stdin) for given in inputs]
    assert [result.job_id for _, result in pairs[:10]] == [result.job_id for _, result in some]
    assert len({result.job_id for _, result in pairs}) == 30


def test_a_batch_that_is_closed_or_cancelled_leaves_no_job(client: JobManager) -> None:
    async def consume() -> None:
        async for _ in client.amap(SLEEPER, itertools.repeat(None), at_once=12):
            pytest.fail("they sleep")

    async def main() -> None:
        task = asyncio.create_task(consume())
        while sum(map(len, client.get_job_queue_snapshot())) < 12 and not task.done():
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    eventually(lambda: client.get_job_queue_snapshot() == ([], []))


def test_a_full_queue_is_waited_for(start_client: Callable[..., JobManager]) -> None:
    client = start_client(max_waiting_jobs=1)
    running = [client.submit(SLEEPER, wait_s=PATIENCE_S) for _ in range(8)]
    eventually(lambda: len(client.get_job_queue_snapshot()[0]) == 8)
    waits = client.submit(HELLO)
    with pytest.raises(errors.QueueFull):
        client.new_job(HELLO, wait_s=0.1)
    late: list[JobFuture] = []
    thread = threading.Thread(target=lambda: late.append(client.submit(HELLO, wait_s=None)))
    thread.start()
    for job in running:
        job.cancel()
    thread.join(PATIENCE_S)
    assert [job.result(PATIENCE_S).outcome for job in (waits, *late)] == [Outcome.SUCCESS] * 2
