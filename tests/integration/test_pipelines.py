"""Pipelines on a real engine: the order of phases, what each may do to volumes, time, rights, secrets, and the one result."""

from __future__ import annotations

import io
import json
import logging
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from jobmanager import (
    ClientBuffer,
    ClientFuture,
    ClientSync,
    DockerHost,
    JobFuture,
    JobInput,
    JobManager,
    JobResult,
    Limits,
    Match,
    Network,
    Outcome,
    Phase,
    Pipeline,
    Secret,
    Task,
    Volume,
)
from jobmanager.engine.labels import JOB_LABEL
from jobmanager.errors import InvalidTask, Unsatisfiable
from tests.conftest import BUSYBOX, eventually, our_containers, our_volumes
from tests.integration.conftest import PATIENCE_S, SECRETS, proof
from tests.support.daemons import PrivateDaemon

pytestmark = pytest.mark.engine

LIMITS = Limits(memory_mib=64, wall_time_s=30, workspace_mib=4)


def phase(
    name: str, command: str | list[str], *, limits: Limits = LIMITS, task: dict[str, Any] | None = None, **rights: Any
) -> Phase:
    """A phase in busybox."""
    return Phase(name, Task(BUSYBOX, command=command, limits=limits, **(task or {})), **rights)


def outcomes(result: JobResult) -> dict[str, str | None]:
    """What became of each phase; None: it was not run."""
    return {each.name: None if each.outcome is None else each.outcome.value for each in result.phases}


def output(result: JobResult, name: str) -> str:
    """What a phase printed."""
    run = next(each.run for each in result.phases if each.name == name)
    assert run is not None, result.phases
    return run.stdout_text


def text(result: JobResult, name: str) -> str:
    """Why a phase ended as it did."""
    return next(each.text for each in result.phases if each.name == name)


RunPipeline = Callable[..., JobResult]


@pytest.fixture
def run_pipeline(shared_manager: JobManager) -> RunPipeline:
    def result(*phases: Phase, inputs: JobInput | None = None, **options: object) -> JobResult:
        return shared_manager.submit(Pipeline(phases, **options), inputs).result(PATIENCE_S)  # type: ignore[arg-type]

    return result


# ---- the way of a pipeline


def test_phases_run_in_their_order_and_share_what_they_name(run_pipeline: RunPipeline, engine_url: str) -> None:
    result = run_pipeline(
        phase("clone", "cat; cp greeting /volumes/work/; echo cloned", writes=["work"]),
        phase("build", "cat /volumes/work/greeting; echo built > /volumes/work/program", writes=["work"]),
        phase("test", "cat /volumes/work/program; echo 'tested' > /volumes/out/report; ls", reads=["work"], writes=["out"]),
        phase("report", "cat /volumes/out/report; ls /volumes; exit 0", reads=["out"], when="always"),
        inputs=JobInput(files={"greeting": b"hello\n"}, stdin=b"typed\n"),
    )

    assert result.outcome is Outcome.SUCCESS, result
    assert outcomes(result) == dict.fromkeys(["clone", "build", "test", "report"], "success")
    assert output(result, "clone") == "typed\ncloned\n"
    assert output(result, "build") == "hello\n"
    assert output(result, "test") == "built\n"
    assert output(result, "report") == "tested\nout\n"
    assert (result.stdout_text, result.exit_code, result.grade) == ("built\n", 0, 100.0)  # of the last that could stop it
    eventually(lambda: not our_volumes(engine_url), what="the volumes are gone with the job")


def test_the_first_phase_that_fails_stops_the_job_names_itself_and_is_what_the_result_shows(run_pipeline: RunPipeline) -> None:
    result = run_pipeline(
        phase("build", "echo built"),
        phase("test", "echo wrong; echo kept > seen; exit 3", task={"collect": ["seen"]}),
        phase("bonus", "echo never"),
        phase("explain", "echo why", when="on_failure"),
        phase("report", "echo told; exit 1", when="always"),
    )

    assert (result.outcome, result.exit_code, result.stdout) == (Outcome.FAILED, 3, b"wrong\n")
    assert result.text == "phase 'test': exit code 3"
    assert outcomes(result) == {"build": "success", "test": "failed", "bonus": None, "explain": "success", "report": "failed"}
    assert text(result, "bonus") == "a phase before it has stopped the job"
    assert proof(result)["phase"] == "test"
    assert "exit code 1" in str(proof(result)["phase_failed"])  # a report that fails changes no verdict; it is told beside it
    assert collected(result) == {"seen": b"kept\n"}


def test_a_phase_for_failures_is_not_run_when_none_has_failed(run_pipeline: RunPipeline) -> None:
    result = run_pipeline(phase("test", "true"), phase("explain", "true", when="on_failure"))
    assert outcomes(result) == {"test": "success", "explain": None}
    assert text(result, "explain") == "no phase before it has failed"


def test_a_phase_that_may_fail_stops_nothing_and_is_told(run_pipeline: RunPipeline) -> None:
    result = run_pipeline(phase("style", "exit 1", allow_failure=True), phase("test", "echo ok"))
    assert (result.outcome, outcomes(result)) == (Outcome.SUCCESS, {"style": "failed", "test": "success"})
    assert "phase_failed" in proof(result)


def test_what_the_course_is_to_blame_for_is_a_crash_that_says_so(run_pipeline: RunPipeline) -> None:
    result = run_pipeline(phase("clone", "exit 1", blame="course"), phase("build", "true"))
    assert (result.outcome, outcomes(result)) == (Outcome.CRASH, {"clone": "failed", "build": None})
    assert result.text.startswith("not your program: phase 'clone'")


def test_inputs_go_to_the_first_phase_and_to_those_that_ask(run_pipeline: RunPipeline) -> None:
    result = run_pipeline(
        phase("one", "ls; cat"),
        phase("two", "ls; cat"),
        phase("three", "ls; cat", inputs=True),
        inputs=JobInput(files={"a": b"1"}, stdin=b"s"),
    )
    assert [output(result, name) for name in ("one", "two", "three")] == ["a\ns", "", "a\ns"]


def test_problems_of_all_phases_are_answered_once(shared_manager: JobManager) -> None:
    task = Task(BUSYBOX, command="true", limits=LIMITS, problems={"q": Match("right")})
    pipeline = Pipeline([phase("one", "true"), Phase("two", task)])
    wrong, right = (shared_manager.submit(pipeline, {"q": answer}).result(PATIENCE_S) for answer in ("no", "right"))
    assert (wrong.outcome, right.outcome) == (Outcome.FAILED, Outcome.SUCCESS)
    assert set(right.problems) == {"q"}


def test_a_result_file_of_a_phase_stops_the_job_and_gives_the_grade(run_pipeline: RunPipeline) -> None:
    says = "mkdir -p .jobmanager; echo '%s' > .jobmanager/result.json"
    failed = run_pipeline(phase("test", says % '{"result": "failed", "grade": 30, "text": "two of three"}'), phase("bonus", "true"))
    assert (failed.outcome, failed.grade, outcomes(failed)) == (Outcome.FAILED, 30.0, {"test": "failed", "bonus": None})
    assert "two of three" in failed.text and "'test'" in failed.text

    passed = run_pipeline(phase("test", says % '{"grade": 70}'), phase("report", "true", when="always"))
    assert (passed.outcome, passed.grade) == (Outcome.SUCCESS, 70.0)


# ---- the ways in


def wait_until_in(manager: JobManager, job_id: str, name: str) -> None:
    """Until the program of a phase has started."""
    ledger = manager._lifetime.running().ledger

    def is_in() -> bool:
        job = ledger._jobs[job_id]
        since_the_last = "\n".join(step.name for step in job.steps).rpartition("phase_ended")[2]
        return job.run.request.phase.name == name and "job_sent" in since_the_last

    eventually(is_in, within_s=PATIENCE_S, what=f"phase {name} runs")


def test_all_ways_in_take_a_pipeline(shared_manager: JobManager) -> None:
    writes, reads = phase("one", "echo 1 > /volumes/v/f", writes=["v"]), phase("two", "cat /volumes/v/f; exit 4", reads=["v"])
    pipeline = Pipeline([writes, reads])
    called: list[JobResult] = []
    shared_manager.new_job(pipeline, callback=called.append)
    buffer = ClientBuffer(shared_manager)
    buffered = buffer.new_job(pipeline, None)
    future = ClientFuture(shared_manager).new_job(pipeline, None)
    results = [ClientSync(shared_manager).new_job(pipeline, None), future.result(PATIENCE_S)]
    eventually(lambda: called and buffer.is_done(buffered), within_s=PATIENCE_S)
    results += [*called, buffer.get_result(buffered)]
    for result in results:
        assert (result.outcome, result.exit_code, result.stdout) == (Outcome.FAILED, 4, b"1\n"), result
        assert [each.name for each in result.phases] == ["one", "two"]


def test_steps_and_listings_know_pipelines(shared_manager: JobManager) -> None:
    pipeline = Pipeline([phase("one", "true"), phase("two", "sleep 30")], wall_time_s=40)
    results: list[JobResult] = []
    job_id = shared_manager.new_job(pipeline, None, results.append, debug=True, launcher_name="me")
    wait_until_in(shared_manager, job_id, "two")
    info = shared_manager.get_job_queue_info(job_id)
    assert info is not None and info.wait_s is not None and 0 < info.wait_s <= 40
    running, _ = shared_manager.get_job_queue_snapshot()
    (listed,) = [each for each in running if each.job_id == job_id]
    assert "one, two" in listed.info and listed.max_time == 40 and listed.launcher == "me"
    eventually(lambda: shared_manager.hosts()[0].running == 1, what="one slot, however many containers")
    assert shared_manager.kill_job(job_id)
    eventually(lambda: results)
    steps = [step.name for step in results[0].steps]
    assert steps[:5] == ["accepted", "host_assigned", "container_started", "job_sent", "phase_ended"], steps
    assert steps[-2:] == ["kill_requested", "run_ended"]


# ---- results beside the verdict


def collected(result: JobResult) -> dict[str, bytes]:
    assert result.archive is not None, result
    with tarfile.open(fileobj=io.BytesIO(result.archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]


def test_tests_of_reports_in_both_forms_are_in_the_result_and_what_is_wrong_with_one_changes_no_outcome(
    run_pipeline: RunPipeline,
) -> None:
    junit = '<testsuite><testcase classname="C" name="adds"/><testcase name="t"><failure message="no"/></testcase></testsuite>'
    entities = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;">]><testsuite><testcase name="&b;"/></testsuite>'
    ours = json.dumps({"tests": [{"name": "divides", "passed": True, "points": 2, "max_points": 3}]})
    writes = 'cd /volumes/out; printf %s "$1" > a.xml; printf %s "$2" > /job/b.json; printf %s "$3" > c.xml'
    result = run_pipeline(
        phase(
            "test",
            ["sh", "-c", writes, "-", junit, ours, entities],
            writes=["out"],
            tests=["/volumes/out/*.xml", "b.json"],
        ),
    )
    assert result.outcome is Outcome.SUCCESS, result
    assert {name: test["passed"] for name, test in result.tests.items()} == {"C.adds": True, "t": False, "divides": True}  # type: ignore[index]
    assert result.phases[0].tests.keys() == result.tests.keys()
    assert "c.xml" in str(proof(result)["test_report"]), result.evidence


def test_a_report_of_a_gibibyte_is_told_and_costs_nothing(run_pipeline: RunPipeline) -> None:
    sparse = "dd if=/dev/zero of=/volumes/out/r.xml bs=1 count=1 seek=1073741823 2>/dev/null; ls -l /volumes/out | wc -l"
    began = time.monotonic()
    result = run_pipeline(
        phase("test", sparse, writes=["out"], tests=["/volumes/out/*.xml"]),
        phase("report", "wc -c < /volumes/out/r.xml", reads=["out"]),
        volumes={"out": Volume(size_mib=8)},
    )
    assert result.outcome is Outcome.SUCCESS, result
    assert output(result, "report") == "1073741824\n"
    assert result.tests == {} and "r.xml" in str(proof(result)["test_report"]), result.evidence
    assert time.monotonic() - began < PATIENCE_S / 2


def test_files_of_volumes_are_collected_from_the_phase_that_decides(run_pipeline: RunPipeline) -> None:
    result = run_pipeline(
        phase("build", "echo p > /volumes/work/program; echo x > /volumes/work/other", writes=["work"]),
        phase("test", "echo l > log", reads=["work"], task={"collect": ["log", "/volumes/work/prog*"]}),
    )
    names = {name.lstrip("/"): content for name, content in collected(result).items()}
    assert names == {"log": b"l\n", "volumes/work/program": b"p\n"}, names


# ---- volumes


def test_a_volume_that_is_read_cannot_be_written_and_one_that_is_not_named_is_not_there(run_pipeline: RunPipeline) -> None:
    result = run_pipeline(
        phase("clone", "echo right > /volumes/work/f; echo secret > /volumes/mine/f", writes=["work", "mine"]),
        phase("test", "echo x > /volumes/work/f; rm /volumes/work/f; touch /volumes/new; ls /volumes", reads=["work"]),
        phase("check", "cat /volumes/work/f /volumes/mine/f", reads=["work", "mine"]),
    )
    assert output(result, "test") == "work\n"
    assert output(result, "check") == "right\nsecret\n"


def test_a_volume_holds_as_much_as_it_says_and_a_full_one_is_the_submitters_fault(run_pipeline: RunPipeline) -> None:
    fills = "i=0; while head -c 1000000 /dev/zero > /volumes/work/$i 2>/dev/null; do i=$((i+1)); done; echo $i; exit 1"
    result = run_pipeline(
        phase("build", fills, writes=["work"]),
        phase("report", "du -sm /volumes/work | cut -f1", reads=["work"], when="always"),
        volumes={"work": Volume(size_mib=3)},
    )
    assert (result.outcome, output(result, "build")) == (Outcome.FAILED, "3\n")
    assert output(result, "report") == "3\n"


@pytest.mark.parametrize("ends_by", ["wall clock", "memory", "kill_job", "CPU", "output"])
def test_what_a_phase_wrote_survives_however_it_ends(shared_manager: JobManager, ends_by: str) -> None:
    wrote = "echo begun > /volumes/work/f; sync; "
    command, limits = {
        "wall clock": ("sleep 60", Limits(wall_time_s=1, memory_mib=64)),
        "memory": ("head -c 100000000 /dev/zero | tail -c 90000000 > /dev/null; exit 9", Limits(memory_mib=16, wall_time_s=30)),
        "kill_job": ("echo ready; sleep 60", LIMITS),
        "CPU": ("while :; do :; done", Limits(cpu_time_s=1, wall_time_s=30, memory_mib=64)),
        "output": ("yes; sleep 60", Limits(output_kib=10, wall_time_s=30, memory_mib=64)),
    }[ends_by]
    pipeline = Pipeline(
        [
            phase("test", wrote + command, limits=limits, writes=["work"]),
            phase("between", "true"),
            phase("report", "cat /volumes/work/f", reads=["work"], when="always"),
        ]
    )
    results: list[JobResult] = []
    job_id = shared_manager.new_job(pipeline, None, results.append)
    if ends_by == "kill_job":
        next(shared_manager.follow(job_id, timeout_s=PATIENCE_S))
        assert shared_manager.kill_job(job_id)
    eventually(lambda: results, within_s=PATIENCE_S)

    expected = {"wall clock": "timeout", "CPU": "timeout", "kill_job": "killed"}.get(ends_by, "overflow")
    assert outcomes(results[0]) == {"test": expected, "between": None, "report": "success"}, results[0]
    assert output(results[0], "report") == "begun\n"
    assert results[0].outcome.value == expected


def test_a_build_cannot_forge_the_report_of_the_test_phase(run_pipeline: RunPipeline) -> None:
    """Neither ahead of it, nor as a link to what it may write to, nor with a process that stays."""
    forged = '{"tests": [{"name": "all", "passed": true}]}'
    hostile = (
        f"mkdir -p /volumes/work/reports; echo '{forged}' > /volumes/work/reports/r.json; ln -s /job /volumes/work/link;"
        f" (while :; do echo '{forged}' > /volumes/work/reports/r.json; sleep 0.05; done) & sleep 0.2;"
        " chmod 0 /volumes/work/reports; ls /volumes"
    )
    result = run_pipeline(
        phase("build", hostile, writes=["work"]),
        phase(
            "test",
            "ls -A /volumes/work /volumes/out; sleep 0.3; mkdir -p /volumes/out; echo '{\"tests\": []}' > /volumes/out/r.json",
            writes=["work", "out"],
            wipe=["work/reports", "work/link", "out/*"],
            tests=["/volumes/out/*.json", "/volumes/work/reports/*"],
        ),
    )
    assert output(result, "build") == "work\n"
    assert output(result, "test") == "/volumes/out:\n\n/volumes/work:\n"
    assert result.outcome is Outcome.SUCCESS and result.tests == {}


def test_wiping_follows_no_link_and_a_phase_that_cannot_wipe_is_not_started(run_pipeline: RunPipeline) -> None:
    result = run_pipeline(
        phase("one", "echo kept > /volumes/safe/f; ln -s /volumes/safe /volumes/work/d", writes=["work", "safe"]),
        phase("two", "cat /volumes/safe/f; ls -A /volumes/work", reads=["safe"], writes=["work"], wipe=["work/d/*"]),
    )
    assert output(result, "two") == "kept\n"

    refused = run_pipeline(
        phase("one", "mkdir /volumes/work/d; touch /volumes/work/d/f; chmod 0555 /volumes/work/d", writes=["work"]),
        phase("two", "echo started", writes=["work"], wipe=["work/d/*"], task={"user": "1000:1000"}),
        phase("report", "echo told", when="always"),
    )
    assert refused.outcome is Outcome.CRASH and proof(refused)["not_started"], refused
    assert "cannot be wiped" in refused.text and outcomes(refused)["report"] == "success"
    assert output(refused, "two") == ""


def test_a_process_that_a_phase_left_behind_is_gone_before_the_next_one_runs(run_pipeline: RunPipeline) -> None:
    result = run_pipeline(
        phase("build", "(while :; do date > /volumes/work/beat; sleep 0.02; done) & sleep 0.3", writes=["work"]),
        phase("test", "rm -f /volumes/work/beat; sleep 0.5; ls /volumes/work", writes=["work"]),
    )
    assert (result.outcome, output(result, "test")) == (Outcome.SUCCESS, "")


# ---- kill_job, close, supersede


def killable(first: str = "sleep 60", **rights: object) -> Pipeline:
    return Pipeline([phase("one", first), phase("two", "sleep 60"), phase("report", "echo told", when="always", **rights)])


def test_a_pipeline_that_waits_is_killed_without_any_phase(engine_url: str) -> None:
    with JobManager(DockerHost(engine_url, max_concurrent_jobs=1)) as manager:
        first = manager.submit(killable())
        results: list[JobResult] = []
        waiting = manager.new_job(killable(), None, results.append)
        assert manager.kill_job(waiting)
        eventually(lambda: results)
        assert (results[0].outcome, set(outcomes(results[0]).values())) == (Outcome.KILLED, {None})
        first.cancel()
        manager.kill_job(first.job_id)


@pytest.mark.parametrize("killed_in", ["one", "two"])
def test_after_kill_job_the_phases_that_always_run_are_run(shared_manager: JobManager, killed_in: str) -> None:
    results: list[JobResult] = []
    job_id = shared_manager.new_job(killable("true" if killed_in == "two" else "sleep 60"), None, results.append)
    wait_until_in(shared_manager, job_id, killed_in)
    assert shared_manager.kill_job(job_id)
    eventually(lambda: results, within_s=PATIENCE_S)
    assert results[0].outcome is Outcome.KILLED
    before = {"one": "killed", "two": None} if killed_in == "one" else {"one": "success", "two": "killed"}
    assert outcomes(results[0]) == {**before, "report": "success"}
    assert not shared_manager.kill_job(job_id)


def test_a_second_kill_ends_the_phase_that_always_runs(shared_manager: JobManager) -> None:
    results: list[JobResult] = []
    slow = Pipeline([phase("one", "sleep 60"), phase("report", "sleep 60", when="always"), phase("more", "true", when="always")])
    job_id = shared_manager.new_job(slow, None, results.append)
    wait_until_in(shared_manager, job_id, "one")
    assert shared_manager.kill_job(job_id)
    wait_until_in(shared_manager, job_id, "report")
    assert shared_manager.kill_job(job_id)
    eventually(lambda: results, within_s=PATIENCE_S)
    assert (results[0].outcome, outcomes(results[0])) == (Outcome.KILLED, {"one": "killed", "report": "killed", "more": None})


def test_a_kill_in_a_phase_that_always_runs_lets_it_end(shared_manager: JobManager) -> None:
    results: list[JobResult] = []
    pipeline = Pipeline([phase("one", "true"), phase("report", "sleep 1", when="always")])
    job_id = shared_manager.new_job(pipeline, None, results.append)
    wait_until_in(shared_manager, job_id, "report")
    assert shared_manager.kill_job(job_id)
    eventually(lambda: results, within_s=PATIENCE_S)
    assert (results[0].outcome, outcomes(results[0])) == (Outcome.KILLED, {"one": "success", "report": "success"})


@pytest.mark.parametrize("how", ["close(kill=True)", "drain"])
def test_a_manager_that_closes_runs_no_further_phase(engine_url: str, how: str) -> None:
    results: list[JobResult] = []
    manager = JobManager(engine_url)
    manager.start()
    job_id = manager.new_job(killable(), None, results.append)
    wait_until_in(manager, job_id, "one")
    manager.close(**({"kill": True} if how == "close(kill=True)" else {"drain_timeout_s": 0.2}))
    assert (results[0].outcome, outcomes(results[0])) == (Outcome.KILLED, {"one": "killed", "two": None, "report": None})
    assert not our_containers(engine_url) and not our_volumes(engine_url)


def test_a_manager_that_drains_runs_all_phases(engine_url: str) -> None:
    results: list[JobResult] = []
    with JobManager(engine_url) as manager:
        manager.new_job(Pipeline([phase("one", "true"), phase("two", "sleep 0.5"), phase("three", "true")]), None, results.append)
    assert outcomes(results[0]) == dict.fromkeys(["one", "two", "three"], "success")


def test_a_waiting_pipeline_gives_way_to_a_newer_one_and_to_a_lower_priority(engine_url: str) -> None:
    ended: list[str] = []
    with JobManager(DockerHost(engine_url, max_concurrent_jobs=1)) as manager:
        quick = Pipeline([phase("one", "true"), phase("two", "true")])
        results: dict[str, JobResult] = {}

        def keep(result: JobResult) -> None:
            results[result.job_id] = result
            ended.append(result.job_id)

        manager.new_job(Pipeline([phase("one", "sleep 1")]), None, keep, job_id="first")
        wait_until_in(manager, "first", "one")
        manager.new_job(quick, None, keep, job_id="older", supersede_key="k")
        manager.new_job(quick, None, keep, job_id="newer", supersede_key="k")
        manager.new_job(quick, None, keep, job_id="sooner", priority=-1)
        eventually(lambda: len(ended) == 4, within_s=PATIENCE_S)
    assert ended == ["older", "first", "sooner", "newer"]
    assert results["older"].outcome is Outcome.KILLED and set(outcomes(results["older"]).values()) == {None}


# ---- time


def test_a_phase_has_its_own_limit(run_pipeline: RunPipeline) -> None:
    short = Limits(wall_time_s=1, memory_mib=64)
    result = run_pipeline(phase("build", "true"), phase("test", "echo begun; sleep 60", limits=short), phase("more", "true"))
    assert (result.outcome, outcomes(result)) == (Outcome.TIMEOUT, {"build": "success", "test": "timeout", "more": None})
    assert result.stdout == b"begun\n" and result.phases[1].run.limit == "wall"  # type: ignore[union-attr]


def test_the_deadline_cuts_a_phase_leaves_none_for_the_next_and_keeps_the_reserve(run_pipeline: RunPipeline) -> None:
    reserve = Limits(wall_time_s=5, memory_mib=64)
    result = run_pipeline(
        phase("style", "sleep 60", allow_failure=True),
        phase("test", "echo never", allow_failure=True),
        phase("bonus", "echo never"),
        phase("report", "sleep 2; echo told", when="always", limits=reserve),
        wall_time_s=6.5,
    )
    assert outcomes(result) == {"style": "timeout", "test": "timeout", "bonus": "timeout", "report": "success"}
    assert "the job's deadline left it 1.5 s" in text(result, "style")
    assert text(result, "test") == "the job's deadline of 6.5 s left no time for it"
    assert (result.outcome, proof(result)["phase"], output(result, "report")) == (Outcome.TIMEOUT, "bonus", "told\n")
    assert result.phases[1].run is None


# ---- rights


def test_a_phase_has_its_own_user_and_its_files_are_theirs(run_pipeline: RunPipeline) -> None:
    result = run_pipeline(
        phase("one", "id -u; echo 1 > /volumes/work/f; chmod 600 /volumes/work/f", writes=["work"]),
        phase("two", "id -u; echo mine > f; cat f /volumes/work/f || :", reads=["work"], task={"user": "1000:1000"}),
    )
    assert (output(result, "one"), output(result, "two")) == ("65534\n", "1000\nmine\n")


def test_a_phase_has_the_devices_that_it_names_and_no_other_has(run_pipeline: RunPipeline) -> None:
    lists = "ls -l /dev/loop-control /dev/fuse 2>/dev/null | wc -l"
    device = next((path for path in ("/dev/fuse", "/dev/loop-control") if Path(path).exists()), None)
    if device is None:
        pytest.skip("this machine has neither device")
    result = run_pipeline(phase("one", lists), phase("two", lists, task={"devices": [device]}), phase("three", lists))
    assert [output(result, name) for name in ("one", "two", "three")] == ["0\n", "1\n", "0\n"]


def test_a_device_that_the_host_lacks_is_a_crash_of_its_phase(run_pipeline: RunPipeline) -> None:
    result = run_pipeline(
        phase("one", "echo 1"), phase("two", "true", task={"devices": ["/dev/no-such"]}), phase("report", "true", when="always")
    )
    assert (result.outcome, outcomes(result)) == (Outcome.CRASH, {"one": "success", "two": "crash", "report": "success"})
    assert "/dev/no-such" in result.text


@pytest.fixture(scope="module")
def networked(image_tar: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    """An engine with a bridge network and one that has a name."""
    with PrivateDaemon(tmp_path_factory.mktemp("networked"), bridge=True) as daemon:
        daemon.load_image(Path(image_tar))
        client = docker.DockerClient(base_url=daemon.url, version="1.41", timeout=20)
        client.networks.create("lecture", driver="bridge")
        yield daemon
        client.close()


@pytest.mark.daemon
def test_each_phase_has_its_own_network(networked: PrivateDaemon) -> None:
    asks = "ls /sys/class/net | tr '\\n' ' '; nc -w 3 server 80 < /dev/null"
    client = docker.DockerClient(base_url=networked.url, version="1.41", timeout=20)
    serve = ["sh", "-c", "while :; do echo served | nc -l -p 80; done"]
    server = client.containers.run(BUSYBOX, serve, name="server", network="lecture", detach=True)
    pipeline = Pipeline(
        [
            phase("clone", asks, task={"network": "lecture"}),
            phase("build", asks, allow_failure=True),
            phase("test", asks, task={"network": Network.LOOPBACK}, allow_failure=True),
            phase("fetch", asks, task={"network": Network.BRIDGE}, allow_failure=True),
            phase("report", asks, task={"network": "lecture"}, when="always"),
        ]
    )
    try:
        with JobManager(networked.url) as manager:
            result = manager.submit(pipeline).result(PATIENCE_S)
    finally:
        server.remove(force=True)
        client.close()
    seen = {each.name: output(result, each.name) for each in result.phases}
    assert seen == {
        "clone": "eth0 lo served\n",
        "build": "lo ",
        "test": "lo ",
        "fetch": "eth0 lo ",  # the bridge knows no names
        "report": "eth0 lo served\n",
    }, result


@pytest.mark.daemon
def test_a_network_that_is_made_while_a_manager_runs_is_known_soon_and_one_that_nobody_has_made_is_refused(
    networked: PrivateDaemon,
) -> None:
    client = docker.DockerClient(base_url=networked.url, version="1.41", timeout=20)
    job = Task(BUSYBOX, command="ls /sys/class/net", network="made-late")

    def accepted(manager: JobManager) -> JobFuture | None:
        try:
            return manager.submit(job)
        except Unsatisfiable:
            return None

    try:
        with JobManager(networked.url) as manager:
            with pytest.raises(Unsatisfiable, match=r"has the network 'made-late'; there are: bridge, lecture$"):
                manager.submit(job)
            client.networks.create("made-late", driver="bridge")
            result = eventually(lambda: accepted(manager), what="it is noticed").result(PATIENCE_S)
    finally:  # the job's container has left it by now
        for network in client.networks.list(names=["made-late"]):
            network.remove()
        client.close()
    assert result.stdout_text.split() == ["eth0", "lo"], result


# ---- secrets


def test_a_secret_is_in_its_phase_and_nowhere_else(
    shared_manager: JobManager, outsider: docker.DockerClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = SECRETS["token"]
    assert isinstance(token, str)
    looks = "env; cat .jobmanager/secrets/* /proc/*/environ 2>/dev/null; ls -A .jobmanager; echo ready"
    pipeline = Pipeline(
        [
            phase("before", looks, writes=["work"]),
            phase(
                "report",
                "echo kept > f; cd .jobmanager/secrets; ls -l . | tail -n +2 | cut -c1-10; cmp token - && echo right; wc -c < key;"
                ' [ "$TOKEN" = "$(cat token)" ] && echo same; echo x > token || :; echo ready; sleep 1',
                secrets=["token", "key", Secret("variable", variable="TOKEN")],
                task={"collect": ["*", "*/*", "*/*/*"]},
                inputs=True,
                reads=["work"],
            ),
            phase("after", looks, reads=["work"], when="always"),
        ]
    )
    SECRETS["variable"] = token
    results: list[JobResult] = []
    job_id = shared_manager.new_job(pipeline, None, results.append, debug=True)
    inspected: list[str] = []
    while not results:
        for container in outsider.containers.list(all=True, filters={"label": f"{JOB_LABEL}={job_id}"}, ignore_removed=True):
            inspected.append(json.dumps(container.attrs))  # noqa: PERF401
        time.sleep(0.05)
    (result,) = results

    assert result.outcome is Outcome.SUCCESS, result
    assert output(result, "report").splitlines()[:2] == ["-r--------", "-r--------"]
    assert output(result, "report").splitlines()[2:] == ["5", "same", "ready"]
    assert inspected and token not in "".join(inspected)
    assert token not in repr(result) and token not in repr(pipeline) and token not in repr(shared_manager)
    assert token not in caplog.text
    assert collected(result) == {"f": b"kept\n"}
    assert token not in output(result, "before") + output(result, "after")


def test_a_secret_that_is_missing_is_refused_at_the_call_and_one_that_vanishes_is_nobodys_fault(
    shared_manager: JobManager,
) -> None:
    wants = phase("report", "true", secrets=["passing"], when="on_success")
    with pytest.raises(InvalidTask, match="'report' wants the secret 'passing'"):
        shared_manager.submit(Pipeline([wants]))

    SECRETS["passing"] = "x"
    job = shared_manager.submit(Pipeline([phase("one", "echo ready; sleep 1"), wants, phase("after", "true", when="always")]))
    wait_until_in(shared_manager, job.job_id, "one")
    del SECRETS["passing"]
    result = job.result(PATIENCE_S)
    assert outcomes(result) == {"one": "success", "report": "crash", "after": "success"}
    assert result.outcome is Outcome.CRASH and "'passing'" in result.text


def test_a_secret_is_read_when_its_phase_starts(shared_manager: JobManager) -> None:
    SECRETS["rotated"] = "old"
    job = shared_manager.submit(
        Pipeline([phase("one", "sleep 1"), phase("two", "cat .jobmanager/secrets/rotated", secrets=["rotated"])])
    )
    wait_until_in(shared_manager, job.job_id, "one")
    SECRETS["rotated"] = "new"
    assert job.result(PATIENCE_S).stdout == b"new"
