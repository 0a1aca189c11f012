"""``on_output_limit="truncate"``: output past the limit is dropped and counted, and the program's own end decides, whoever dies."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import docker
import pytest

from jobmanager import (
    Case,
    Checker,
    DockerHost,
    Exact,
    Grader,
    Interactor,
    JobManager,
    JobResult,
    Limits,
    Outcome,
    Phase,
    Pipeline,
    Task,
)
from jobmanager.engine.labels import JOB_LABEL
from tests.conftest import BUSYBOX, eventually
from tests.integration.conftest import PATIENCE_S, PYTHON, Run, proof, source
from tests.integration.test_cases import Told
from tests.support.daemons import PrivateDaemon
from tests.support.faults import processes
from tests.support.printed import wait_until_printed

pytestmark = pytest.mark.engine

SMALL = Limits(memory_mib=64, cpu_time_s=20, wall_time_s=60, workspace_mib=4, output_kib=4, on_output_limit="truncate")
LINES = b"".join(b"%d\n" % number for number in range(1, 20_001))
LINE = b"0123456789\n"
FLOOD = f"yes {LINE.decode().strip()}"


def dropped(result: JobResult) -> int:
    """How many bytes the evidence says were dropped."""
    assert source(result, "output_cut") == "the runner"
    return int(str(proof(result)["output_cut"]).removesuffix(" bytes past 4 KiB were dropped"))


# ---- one program


@pytest.mark.parametrize(("code", "outcome"), [(0, Outcome.SUCCESS), (5, Outcome.FAILED)])
def test_a_program_that_prints_too_much_goes_on_and_its_exit_code_decides(
    run: Run, shell: str, code: int, outcome: Outcome
) -> None:
    program = f"seq 1 20000; echo done > mark; seq 1 20000 >&2; exit {code}"
    result = run(program, image=shell, limits=SMALL, collect=["mark"])
    assert (result.outcome, result.exit_code, result.limit) == (outcome, code, None), result
    assert (result.stdout, result.stderr) == (LINES[:4096], b"")
    assert (result.stdout_bytes, result.stderr_bytes, result.output_cut) == (len(LINES), len(LINES), True)
    assert (result.stdout_cut_at, result.stderr_cut_at) == (4096, 0)
    assert dropped(result) == 2 * len(LINES) - 4096
    assert result.archive is not None


def test_output_within_its_limit_is_whole_and_nothing_is_said(run: Run) -> None:
    result = run("printf 123; printf 45 >&2", limits=SMALL)
    assert (result.outcome, result.stdout, result.stderr, result.output_cut) == (Outcome.SUCCESS, b"123", b"45", False)
    assert "output_cut" not in proof(result)


def test_a_program_that_prints_for_seconds_ends_at_its_wall_clock(run: Run) -> None:
    result = run(FLOOD, limits=replace(SMALL, wall_time_s=2))
    assert (result.outcome, result.limit, result.text) == (Outcome.TIMEOUT, "wall", "wall clock limit of 2 s reached"), result
    assert result.stdout == (LINE * 1000)[:4096]
    assert result.stdout_bytes > 2**20
    assert dropped(result) == result.stdout_bytes - 4096


def test_a_program_that_prints_and_computes_ends_at_its_cpu_time(run: Run) -> None:
    """Some of it by the container's own runner, which is not counted as the program's."""
    result = run(f"{FLOOD} & while :; do :; done", limits=replace(SMALL, cpu_time_s=2))
    assert (result.outcome, result.limit) == (Outcome.TIMEOUT, "cpu"), result
    assert result.cpu_time_s is not None and result.cpu_time_s >= 2
    assert result.stdout == (LINE * 1000)[:4096]


def test_a_program_that_takes_too_much_memory_is_told_so_however_much_it_printed(run: Run) -> None:
    result = run(["sh", "-c", "seq 1 20000; exec dd if=/dev/zero of=/dev/null bs=200M count=1"], limits=SMALL)
    assert (result.outcome, result.limit) == (Outcome.OVERFLOW, "memory"), result
    assert result.stdout == LINES[:4096]
    assert result.stdout_bytes == len(LINES)


def test_without_the_word_a_program_that_prints_too_much_is_stopped_as_ever(run: Run) -> None:
    result = run("seq 1 20000; sleep 60", limits=replace(SMALL, on_output_limit="stop"))
    assert (result.outcome, result.limit) == (Outcome.OVERFLOW, "output")


def test_who_follows_it_sees_what_is_kept_and_then_how_much_is_not(shared_manager: JobManager) -> None:
    job = shared_manager.submit(Task(BUSYBOX, command="seq 1 20000; echo error >&2; sleep 0.5", limits=SMALL))
    with shared_manager.follow(job.job_id, timeout_s=PATIENCE_S) as live:
        seen = list(live)
    result = job.result(PATIENCE_S)
    assert b"".join(output.data for output in seen) == result.stdout == LINES[:4096]
    assert [(output.stderr, output.missed_bytes) for output in seen if output.missed_bytes] == [
        (False, len(LINES) - 4096),
        (True, 6),
    ]
    assert not seen[-1].data and not any(output.starts_again for output in seen)


# ---- cases, phases, graders


def test_each_case_has_its_own_limit_and_is_judged_by_what_is_kept(shared_manager: JobManager) -> None:
    cases = [
        Case("seq 1 20000", name="wrong", expected="1\n2\n"),
        Case("echo 42; yes ''", name="right at first", expected="42", wall_time_s=1),
        Case("echo 42; yes '' | head -n 5000", name="right as far as it is kept", expected="42"),
        Case("yes x | head -c 2000", name="its own", expected=b"x\n" * 512, output_kib=1, check=Exact()),
        Case("echo 42", name="short", expected="42"),
        Case("exit 3", name="fails"),
    ]
    result = shared_manager.submit(Task(BUSYBOX, command="sh", cases=cases, limits=SMALL)).result(120)

    assert [(case.outcome, case.correct, case.text) for case in result.cases] == [
        (Outcome.FAILED, False, "line 3: '3' is more than is expected; its output was cut after 4096 bytes"),
        (Outcome.TIMEOUT, None, "wall clock limit of 1 s reached"),
        (Outcome.SUCCESS, True, "its output was cut after 4096 bytes"),
        (Outcome.SUCCESS, True, "its output was cut after 1024 bytes"),
        (Outcome.SUCCESS, True, ""),
        (Outcome.FAILED, None, "exit code 3"),
    ], result
    wrong, _, kept, own, *_ = (case.run for case in result.cases)
    assert wrong is not None and (wrong.stdout, wrong.stdout_bytes, wrong.output_cut) == (LINES[:4096], len(LINES), True)
    assert kept is not None and (kept.stdout, kept.stdout_bytes, kept.output_cut) == (b"", 5003, True)
    assert own is not None and (own.stdout_bytes, own.stderr_bytes) == (2000, 0)
    assert [each.value for each in own.evidence if each.kind == "output_cut"] == ["976 bytes past 1 KiB were dropped"]


def test_a_checker_and_a_function_judge_what_is_kept_and_say_that_it_was_cut(shared_manager: JobManager) -> None:
    given: list[bytes] = []
    program = "[ $(cat output | wc -c) -eq 4096 ] || exit 1"
    cases = [
        Case(name="checked", check=Checker(Task(BUSYBOX, command=["sh", "-c", program], limits=SMALL))),
        Case(name="asked", check=lambda _, output: bool(given.append(output))),
    ]
    result = shared_manager.submit(Task(BUSYBOX, command="seq 1 20000", cases=cases, limits=SMALL)).result(120)

    cut = "its output was cut after 4096 bytes"
    assert [(case.outcome, case.text) for case in result.cases] == [
        (Outcome.SUCCESS, cut),
        (Outcome.FAILED, f"its check says that this is wrong; {cut}"),
    ], result
    assert given == [LINES[:4096]]


def test_a_build_that_prints_too_much_goes_on_where_its_own_limits_say_so(shared_manager: JobManager) -> None:
    stops = replace(SMALL, on_output_limit="stop")
    build = "seq 1 20000; echo made > product"
    truncated = Task(BUSYBOX, build=build, command="cat product", cases=[Case(expected="made")], limits=stops, build_limits=SMALL)
    stopped = replace(truncated, limits=SMALL, build_limits=stops)

    result, other = (shared_manager.submit(task).result(120) for task in (truncated, stopped))

    assert result.outcome is Outcome.SUCCESS and result.build is not None, result
    assert (result.build.stdout, result.build.stdout_bytes, result.build.output_cut) == (LINES[:4096], len(LINES), True)
    assert (other.outcome, other.limit) == (Outcome.OVERFLOW, "output")


def test_programs_that_talk_are_told_apart_from_what_they_complain(shared_manager: JobManager) -> None:
    """What they say to each other has no limit; what they print on standard error has."""
    talks = Interactor(Task(BUSYBOX, command=["sh", "-c", "seq 1 20000 >&2; echo 7; read n; [ $n = 7 ]"], limits=SMALL))
    command = "read n; seq 1 20000 >&2; echo $n"
    task = Task(BUSYBOX, command=command, cases=[Case(check=talks), Case(check=talks)], limits=SMALL)
    result = shared_manager.submit(task).result(120)

    assert [(case.outcome, case.text) for case in result.cases] == [(Outcome.SUCCESS, "")] * 2, result
    assert all(case.run is not None and case.run.stderr_bytes == len(LINES) and case.run.output_cut for case in result.cases)


def test_each_phase_has_its_own_limit(shared_manager: JobManager) -> None:
    phases = [
        Phase("floods", Task(BUSYBOX, command="seq 1 20000; echo left > /volumes/work/left", limits=SMALL), writes=["work"]),
        Phase("reads", Task(BUSYBOX, command="cat /volumes/work/left", limits=SMALL), reads=["work"]),
    ]
    result = shared_manager.submit(Pipeline(phases)).result(120)

    assert result.outcome is Outcome.SUCCESS, result
    first, second = (phase.run for phase in result.phases)
    assert first is not None and (first.stdout, first.stdout_bytes, first.output_cut) == (LINES[:4096], len(LINES), True)
    assert second is not None and (second.stdout, second.output_cut) == (b"left\n", False)


def test_a_student_that_prints_too_much_goes_on_and_so_does_its_grader(run: Run) -> None:
    script = """
import jobmanager_grading as grading
end = grading.run_student(["sh", "-c", "seq 1 20000; echo left > student_left; exit 3"], folder="student")
short = grading.run_student(["echo", "short"])
kept = grading.open_submission()
again = kept.run(["sh", "-c", "seq 1 20000"])
kept.close()
print("x" * 100000)
seen = [[each.outcome, each.exit_code, each.output_cut, len(each.stdout)] for each in (end, short, again)]
grading.set_custom("seen", seen)
grading.set_custom("first", end.stdout[-5:].decode())
grading.set_result("success")
"""
    result = run(image=PYTHON, grader=Grader(), files={"run.py": script}, limits=SMALL)
    assert result.outcome is Outcome.SUCCESS, result
    seen = cast(list[object], result.custom["seen"])
    assert seen == [["failed", 3, True, 4096], ["success", 0, False, 6], ["success", 0, True, 4096]]
    assert result.custom["first"] == LINES[:4096][-5:].decode()
    assert (result.stdout, result.stdout_bytes, result.output_cut) == (b"x" * 4096, 100_001, True)


# ---- deaths in the middle


@pytest.mark.parametrize("output_kib", [4, 900])
def test_a_waiter_killed_while_output_is_dropped_costs_no_byte_and_no_count(
    engine_url: str, outsider: docker.DockerClient, output_kib: int
) -> None:
    """Less than the runner keeps, and more, which the waiter before has kept."""
    others = processes("_waiter")
    waits = "until [ -f {} ]; do sleep 0.1; done"
    program = f"echo ready; {waits.format('go')}; {FLOOD} | head -n 500000; {waits.format('end')}; exit 7"
    with JobManager(engine_url) as manager:
        job = manager.submit(Task(BUSYBOX, command=program, limits=replace(SMALL, output_kib=output_kib)))
        wait_until_printed(job, b"ready")
        (container,) = outsider.containers.list(filters={"label": f"{JOB_LABEL}={job.job_id}"})
        for mark in ("go", "end"):
            for waiter in set(processes("_waiter")) - set(others):
                waiter.kill()
            assert container.exec_run(["touch", f"/job/{mark}"], user="65534:65534").exit_code == 0
        result = job.result(PATIENCE_S)
    assert (result.outcome, result.exit_code, result.output_cut) == (Outcome.FAILED, 7, True), result
    assert result.stdout == (b"ready\n" + LINE * 100_000)[: output_kib * 1024]
    assert (result.stdout_bytes, result.stderr_bytes) == (6 + 500_000 * len(LINE), 0)


@pytest.mark.daemon
def test_cases_that_print_too_much_are_told_exactly_by_waiters_that_die(private_engine: PrivateDaemon) -> None:
    told, others = Told(), processes("_waiter")
    cases = [Case(f"{number}\n", expected=f"{number}") for number in range(1, 31)]
    task = Task(BUSYBOX, command="read n; echo $n; yes '' | head -c 200000; sleep 0.05", cases=cases, limits=SMALL)
    with JobManager(DockerHost(private_engine.url), hook_manager=told.hooks) as manager:
        job = manager.submit(task)
        for many in (3, 10, 20):
            eventually(lambda: len(told.cases) >= many, what=f"{many} cases have ended", within_s=60)  # noqa: B023
            for waiter in set(processes("_waiter")) - set(others):
                waiter.kill()
        result = job.result(120)
    assert [(case.outcome, case.correct) for case in result.cases] == [(Outcome.SUCCESS, True)] * 30, result
    for number, case in enumerate(result.cases, 1):
        assert case.run is not None and case.run.stdout_bytes == 200_001 + len(str(number))
