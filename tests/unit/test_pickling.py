"""What crosses a process boundary survives it unchanged."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import pickle
import typing
from dataclasses import replace

import pytest

from jobmanager import (
    TLS,
    CaseResult,
    Code,
    DockerHost,
    Evidence,
    File,
    Floats,
    JobInput,
    JobResult,
    Limits,
    Match,
    MultipleChoice,
    Network,
    Outcome,
    ProblemResult,
    Step,
    Task,
    events,
)  # fmt: skip
from jobmanager.ipc import messages
from jobmanager.model.container import ContainerInfo, ContainerSpec, ContainerStatus, EngineInfo, Image
from jobmanager.model.host import Address
from jobmanager.model.job import Request, RunRequest
from jobmanager.model.phase import Phase, Secret
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import PhaseResult, RunResult
from jobmanager.model.volume import Volume
from jobmanager.results import facts
from jobmanager.results.facts import Limit, LimitHit, ProgramEnd, RunFacts

TASK = Task(
    "python3",
    command=["python3", "main.py"],
    files={"main.py": "print(1)", "data": b"\0\xff"},
    problems={
        "m": Match("a", ignore_case=True),
        "c": MultipleChoice({"1", "2"}, {"1": "one", "2": "two"}.keys()),
        "p": Code("p.py"),
        "f": File("f"),
    },
    limits=Limits(cpu_time_s=1.5, wall_time_s=2),
    network=Network.LOOPBACK,
    env={"A": "é"},
    collect=["*.txt"],
    name="task",
)
INPUT = JobInput({"p": "x", "f": b"\0"}, files={"a": b"1"}, stdin=b"in")
END = ProgramEnd(signal="SIGSEGV", cpu_ns=5, oom_kills=1)
CONTAINER = ContainerInfo(id="1", name="n", status=ContainerStatus.ENDED, labels={"a": "b"}, exit_code=0)
CAUSES = [
    facts.ContainerEnded(container=CONTAINER),
    facts.RemovedExternally(),
    facts.HostGivenUp(),
    facts.EndedDuringOutage(container=CONTAINER),
    facts.InfrastructureFailure(reason="r", container=CONTAINER),
    facts.LeaseExpired(container=CONTAINER),
]
ENDINGS = [
    *(facts.JobNotSent(cause=cause) for cause in [*CAUSES, facts.EngineUnreachable(reason="r")]),
    facts.CannotRun(reason="r", container=CONTAINER),
    facts.ProgramExited(end=END, result_file=b"{}", container=CONTAINER),
    facts.StoppedForLimit(limit_hit=LimitHit(limit=Limit.CPU, measured=1.5), end=END, container=CONTAINER),
    facts.StoppedForProtocolError(reason="r", end=END, container=CONTAINER),
    *(facts.RunCutOff(cause=cause, end=END) for cause in [*CAUSES, facts.StudentsLost(container=CONTAINER)]),
]
OUTPUT, COLLECTED = facts.CapturedOutput(stdout=b"\0", stdout_bytes=1), facts.Collected(archive=b"tar", error="e")
FACTS = [RunFacts(ending=ending, output=OUTPUT, collected=COLLECTED, timings={"run": 1.0}) for ending in ENDINGS]
RESULT = JobResult(
    job_id="j",
    outcome=Outcome.TIMEOUT,
    problems={"q": ProblemResult(Outcome.SUCCESS, "")},
    tests={"deep": [{"a": None}]},
    archive=b"tar",
    evidence=(Evidence(kind="cpu_time_s", value=1.5, source="x"),),
    steps=(Step(name="accepted", at_s=0.0),),
    timings={"run": 1.0},
    phases=(
        PhaseResult(
            name="build",
            outcome=Outcome.FAILED,
            run=RunResult(outcome=Outcome.FAILED, exit_code=139, signal="SIGSEGV", stdout=b"\0", cpu_time_s=0.5),
            tests={"t": {"passed": False}},
        ),
        PhaseResult(name="test", outcome=None, text="skipped"),
    ),
)
ADDRESS = Address(host="h", url="tcp://h:2376", tls=TLS(verify=False), pull="missing")
IMAGE = Image(id="sha256:1", references=("a:latest",), labels={}, created_at_s=1.0)
INFO = EngineInfo(version="20.10", cores=2, memory_mib=1024, now_s=1.0, cgroup="2")
SPEC = ContainerSpec(name="n", image="i", labels={"a": "b"}, limits=TASK.limits, network="mine")

RUN_RESULT = RunResult(outcome=Outcome.SUCCESS, exit_code=0)
CASE_RESULT = CaseResult(name="a", outcome=Outcome.SUCCESS, correct=True, points=1.0, run=RUN_RESULT)

MESSAGES = [
    messages.StartContainer(address=ADDRESS, container=SPEC, timeout_s=1.0),
    messages.RemoveContainer(address=ADDRESS, name="n", manager_id="m", timeout_s=1.0),
    messages.ContainerStarted(container_id="1", image_command=("sh",), duration_s=0.1),
    messages.StartFailed(reason="r", unreachable=True),
    messages.StartRefused(reason="r"),
    messages.ContainerRemoved(),
    messages.RemovalFailed(reason="r"),
    messages.RemoveVolumes(address=ADDRESS, names=("v",), manager_id="m", timeout_s=1.0),
    messages.VolumesRemoved(),
    messages.VolumesLost(reason="it had ended"),
    messages.VolumeRemovalFailed(reason="r"),
    messages.WaiterSettings(address=ADDRESS, manager_id="m", owner="", monitors_host=True, engine_timeout_s=1,
                            host_lost_timeout_s=1, host_check_interval_s=1, reconcile_interval_s=1),
    messages.MonitorContainer(job_id="j", container_id="1", container_name="n", command=("sh",), env={},
                              files={"a": b"1"}, stdin=b"", limits=TASK.limits, collect=("*",)),
    messages.CaseRun(number=1, name="a", args=("-v",), stdin=b"1", files={"f": b"x"}, limits=TASK.limits, expected=b"2",
                     check=Floats(absolute=0.5)),
    messages.CasePlan(build=("make",), cases=(messages.CaseRun(number=1, name="a", limits=TASK.limits),), last=1, clearing_s=1.0),
    messages.JudgePlan(
        spec=SPEC,
        job=messages.MonitorContainer(job_id="j", container_id="", container_name="n-i", command="x", env={}, files={}, stdin=None,
                                      limits=TASK.limits, collect=(), stdin_fifo="/pipes/a", stdout_fifo="/pipes/b"),
    ),
    messages.BuildDone(container_name="n", run=RUN_RESULT),
    messages.CaseDone(container_name="n", number=1, result=CASE_RESULT),
    messages.GradingSettings(images={"": "sha256:1"}, cpu_time_s=1.0, memory_mib=64, network="off", most_students=8),
    messages.KillContainer(container_name="c"),
    messages.FetchOutput(container_name="c", stdout_from=1, stderr_from=0),
    messages.CheckHostNow(),
    messages.ClosedManagers(manager_ids=frozenset({"m"})),
    messages.WarmUp(address=ADDRESS),
    messages.WorkerReady(),
    messages.Shutdown(),
    messages.Heartbeat(),
    messages.MonitorAcknowledged(container_name="n"),
    messages.ProgramStarted(container_name="n"),
    messages.SSHReady(container_name="n", port=49153),
    messages.SubmitterTold(container_name="n", number=1, text="x"),
    messages.LimitReached(container_name="n", limit_hit=LimitHit(limit=Limit.WALL, measured=2.0)),
    messages.StreamPiece(False, 1, b"\0"),
    messages.OutputChunk(job_id="j", container_name="n", pieces=(messages.StreamPiece(True, 0, b"e"),)),
    *(messages.RunEnded(job_id="j", container_name="n", facts=seen) for seen in FACTS),
    messages.UnknownContainers(names=("a",)),
    messages.HostReachable(info=INFO, images=(IMAGE,)), messages.HostReachable(info=INFO, images=(), networks=frozenset({"n"})),
    messages.HostUnreachable(reason="r"),
    messages.TunnelOpen(),
    messages.TunnelBroken(reason="r"),
    messages.TunnelSettings(url="ssh://h", socket="/s", ssh_config=None),
]  # fmt: skip
RUN = RunRequest(task=TASK, inputs=INPUT, files={"a": b"secret"})
REQUEST = Request(job_id="j", task=TASK, inputs=INPUT, runs=(RUN,), priority=0, launcher_name="x", debug=True)
PHASE = Phase("build", TASK, writes=["work"], secrets=[Secret("token", variable="TOKEN")])
PIPELINE = Pipeline([PHASE], volumes={"work": Volume(1)})
OTHERS = [
    TASK,
    INPUT,
    RESULT,
    REQUEST,
    replace(REQUEST, task=PIPELINE, runs=(replace(RUN, phase=PHASE),)),
    DockerHost("unix:///x", max_concurrent_jobs=3),
    events.JobEnded(at_s=1.0, job_id="j", result=RESULT),
]


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_everything_that_crosses_a_process_boundary_is_the_same_on_the_other_side(protocol):
    for value in [*MESSAGES, *OTHERS]:
        copy = pickle.loads(pickle.dumps(value, protocol))
        assert copy == value
        assert type(copy) is type(value)


def test_every_message_is_among_those_tried():
    declared = {cls for cls in vars(messages).values() if inspect.isclass(cls) and cls.__module__ == messages.__name__}

    assert declared - {messages.LogMessage} == {type(message) for message in MESSAGES}


def test_a_log_record_crosses_with_its_text():
    record = logging.makeLogRecord({"msg": "%s jobs", "args": (3,), "name": "jobmanager.x"})

    copy = pickle.loads(pickle.dumps(messages.LogMessage(record=record)))

    assert copy.record.getMessage() == "3 jobs"


def test_every_record_is_frozen_and_slotted():
    records = [*FACTS, *ENDINGS, *CAUSES, OUTPUT, COLLECTED, SPEC, INFO, IMAGE, ADDRESS, Limits()]
    for value in [*MESSAGES, *OTHERS, *records, Evidence(kind="k", value=1, source="s")]:
        assert dataclasses.is_dataclass(value)
        assert value.__dataclass_params__.frozen, type(value)
        assert not hasattr(value, "__dict__"), type(value)


def test_what_is_secret_or_large_is_not_in_the_repr():
    watch = messages.MonitorContainer(job_id="j", container_id="1", container_name="n", command="sh", env={},
                           files={"a": b"secret"}, stdin=b"secret", limits=Limits(), collect=(),
                           secrets={"a": b"secret"})  # fmt: skip

    for value in (watch, INPUT, REQUEST, FACTS):
        assert "secret" not in repr(value)
    assert typing.get_type_hints(messages.MonitorContainer)  # the annotations can be resolved
