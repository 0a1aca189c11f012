"""A job's container, and the message for its waiter: pure functions of the ledger's commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from jobmanager.control.secret_store import SecretStore
from jobmanager.engine.labels import Owner, labels
from jobmanager.grading.bundle import grader_command, supervisor_command
from jobmanager.ipc.messages import CasePlan, CaseRun, GradingSettings, JudgePlan, MonitorContainer
from jobmanager.model.case import Case, case_name
from jobmanager.model.container import PIPES, ContainerSpec, SSHEndpoint, VolumeMount
from jobmanager.model.grader import Grader
from jobmanager.model.job import Request, RunRequest
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import Outcome
from jobmanager.model.task import Task, clearing_s
from jobmanager.model.volume import Volume, mount_path
from jobmanager.results.checking import ANSWER, INPUT, OUTPUT
from jobmanager.scheduling.commands import MonitorRun, SubmitContainer
from jobmanager.scheduling.volumes import pipes_name, volume_name
from jobmanager.ssh import debug_session

_TO_SUBMISSION, _FROM_SUBMISSION = "to", "from"  # the fifos of a submission that talks with its interactor
_LEASE_SLACK_S = 900.0  # past a job's wall clock, before anybody may call its container abandoned


def container_spec(
    command: SubmitContainer,
    *,
    manager_id: str,
    owner: Owner,
    loopback_only: bool,
    runner_lease_s: float,
    manager_name: str = "",
) -> ContainerSpec:
    """The container that a submitter makes.

    ``loopback_only``: a debug session's port is published for this machine alone. ``runner_lease_s``: for so long its runner waits
    for a waiter's first word.
    """
    request = command.request
    run = request.runs[command.run]
    task = run.task
    return ContainerSpec(
        name=command.container,
        image=command.image,
        labels=labels(manager_id, request.job_id, request.task.wall_s + _LEASE_SLACK_S, owner, manager_name=manager_name),
        limits=task.first_limits,
        network=task.network,
        workspace=task.workspace,
        shares=task.grader is not None,
        pipes=pipes_name(command.slot) if run.interactor is not None else "",
        user=task.user,
        devices=tuple(task.devices),
        privileged=task.privileged,
        volumes=_mounts(command),
        volume_holders=command.volume_holders,
        lease_s=runner_lease_s,
        ssh_endpoint=_ssh_endpoint(request, loopback_only=loopback_only),
    )


def monitor_message(command: MonitorRun, secrets: SecretStore, *, runner_lease_s: float) -> MonitorContainer:
    """The message by which a waiter takes a container over.

    ``runner_lease_s``: for so long its runner goes on without a sign of life of a waiter.

    Raises:
        InvalidValue: a secret of its phase is missing by now.
    """
    request = command.request
    run = request.runs[command.run]
    task, phase = run.task, run.phase
    message = MonitorContainer(
        job_id=request.job_id,
        container_id=command.container_id,
        container_name=command.container,
        command=_program(command),
        env={**(task.env or {}), **(secrets.variables(phase) if phase is not None else {})},
        files=run.files,
        executables=run.executables,
        stdin=run.inputs.stdin if task.grader is None else None,  # type: ignore[arg-type]
        limits=command.limits,
        collect=tuple(task.collect),
        wipe=tuple(phase.wipe) if phase is not None else (),
        secrets=secrets.files(phase) if phase is not None else {},
        tests=tuple(phase.tests) if phase is not None else (),
        volumes=tuple(_volumes(request, command.run)),
        hold_s=request.task.wall_s + _LEASE_SLACK_S if _volumes(request, command.run) else 0.0,
        workspace=task.workspace,
        grading=_grading(command),
        cases=_cases(task, command, runner_lease_s),
        stdin_fifo=_fifo(command, _TO_SUBMISSION) if run.interactor is not None else "",
        stdout_fifo=_fifo(command, _FROM_SUBMISSION) if run.interactor is not None else "",
        lease_s=runner_lease_s,
        engine_id=command.engine_id,
        volume_devices=command.volume_devices,
        taken_over=command.taken_over,
        elapsed_s=command.elapsed_s,
        limit_hit=command.limit_hit,
    )
    return _with_ssh(message, task.grader) if request.ssh_password else message


def _mounts(command: SubmitContainer) -> tuple[VolumeMount, ...]:
    """The volumes of a phase's container."""
    phase = command.request.runs[command.run].phase
    return tuple(
        VolumeMount(
            name=volume_name(command.slot, name),
            path=mount_path(name),
            size_mib=volume.size_mib,
            read_only=phase is None or name not in phase.writes,
        )
        for name, volume in _volumes(command.request, command.run).items()
    )


def _volumes(request: Request, run: int) -> Mapping[str, Volume]:
    """The job's volumes that a phase names."""
    pipeline, phase = request.task, request.runs[run].phase
    if phase is None or not isinstance(pipeline, Pipeline):
        return {}
    return {name: (pipeline.volumes or {})[name] for name in phase.volumes}


def _ssh_endpoint(request: Request, *, loopback_only: bool) -> SSHEndpoint | None:
    if not request.ssh_password:
        return None
    return debug_session.ssh_endpoint(request.ssh_password, workspace=request.runs[0].task.workspace, loopback_only=loopback_only)


def _program(command: MonitorRun) -> str | tuple[str, ...]:
    """What the container runs: a grader's supervisor, the task's command, or the image's own."""
    task = command.request.runs[command.run].task
    if task.grader is not None:
        return supervisor_command(task.grader.run)  # type: ignore[arg-type]
    return task.command if task.command is not None else command.image_command  # type: ignore[return-value]


def _cases(task: Task, command: MonitorRun, runner_lease_s: float) -> CasePlan | None:
    """The cases that have not ended, and the build, which each container runs once."""
    ended = command.progress.cases
    if not task.cases:
        return None
    cases = [_case(task, case, number) for number, case in enumerate(task.cases, 1)]
    kept = [case.run for case in ended if case.run is not None]
    build = command.progress.build
    is_over = (build is not None and build.outcome is not Outcome.SUCCESS) or (
        task.stop_at_first_failure and any(case.outcome is not Outcome.SUCCESS for case in ended)
    )
    left = () if is_over else tuple(cases[len(ended) :])
    return CasePlan(
        build=task.build,  # type: ignore[arg-type]
        build_limits=task.build_limits,
        is_built=command.is_built,
        cases=left,
        last=len(cases),
        interactor=_interactor(task, command, left, runner_lease_s) if left else None,
        checkers=tuple(_checkers(task, command, left, runner_lease_s)),
        stop_at_first_failure=task.stop_at_first_failure,
        streams_kept=sum(len(run.stdout) + len(run.stderr) for run in kept),
        clearing_s=clearing_s(len(cases)),
    )


def _interactor(task: Task, command: MonitorRun, cases: Sequence[CaseRun], runner_lease_s: float) -> JudgePlan | None:
    """The container that talks with the submission's, and its runs, one beside each case."""
    request = command.request.runs[command.run].interactor
    if request is None:
        return None
    talks = [_talk(request.task, task, case) for case in cases]
    plan = _judge(request, command, f"{command.container}-i", talks, runner_lease_s=runner_lease_s)
    fifos = {"stdin_fifo": _fifo(command, _FROM_SUBMISSION), "stdout_fifo": _fifo(command, _TO_SUBMISSION)}
    return JudgePlan(
        spec=replace(plan.spec, pipes=pipes_name(command.slot)), job=replace(plan.job, stdin=None, **fifos)  # type: ignore[arg-type]
    )


def _checkers(task: Task, command: MonitorRun, cases: Sequence[CaseRun], runner_lease_s: float) -> Iterator[JudgePlan]:
    """A container for each checker that has something to judge, and its runs, which are given what the submission printed."""
    requests = command.request.runs[command.run].checkers
    for place, (request, checker) in enumerate(zip(requests, task.checkers, strict=True), 1):
        numbers = set(task.checked_by(checker))
        checks = [_check(request.task, task, case) for case in cases if case.number in numbers]
        if checks:
            name = f"{command.container}-c{place}"
            yield _judge(request, command, name, checks, runner_lease_s=runner_lease_s)


def _judge(request: RunRequest, command: MonitorRun, name: str, cases: Sequence[CaseRun], *, runner_lease_s: float) -> JudgePlan:
    """The container of a program that judges these cases."""
    task, last = request.task, cases[-1].number
    spec = ContainerSpec(
        name=name,
        image=command.images.get(task.environment) or command.images.get(f"{task.environment}:latest", ""),
        labels={},
        limits=task.first_limits,
        network=task.network,
        workspace=task.workspace,
        user=task.user,
        devices=tuple(task.devices),
        privileged=task.privileged,
        lease_s=runner_lease_s,
    )
    job = MonitorContainer(
        job_id=command.request.job_id,
        container_id="",
        container_name=name,
        command=task.command,  # type: ignore[arg-type]
        env=task.env or {},
        files=request.files,
        executables=request.executables,
        stdin=b"",
        limits=task.limits,
        collect=(),
        workspace=task.workspace,
        cases=CasePlan(
            build=task.build,  # type: ignore[arg-type]
            build_limits=task.build_limits,
            cases=tuple(cases),
            last=last,
            clearing_s=clearing_s(last),
        ),
        lease_s=runner_lease_s,
        engine_id=command.engine_id,
    )
    return JudgePlan(spec=spec, job=job)


def _talk(interactor: Task, task: Task, case: CaseRun) -> CaseRun:
    """A run of an interactor. Its wall clock limit is for what it does after the submission has ended."""
    run = _check(interactor, task, case)
    return replace(run, limits=replace(run.limits, wall_time_s=run.limits.wall_s + case.limits.wall_s))


def _check(judge: Task, task: Task, case: CaseRun) -> CaseRun:
    """A run of a program that judges this case. Of its three files there is one that somebody else writes."""
    theirs = task.cases[case.number - 1]
    return CaseRun(
        number=case.number,
        name=case.name,
        args=(INPUT, OUTPUT, ANSWER),
        files={INPUT: theirs.stdin, ANSWER: theirs.expected or b""},  # type: ignore[dict-item]
        limits=judge.limits,
    )


def _fifo(command: MonitorRun, direction: str) -> str:
    """The name is that of the container: one that takes its place shares nothing with it."""
    return f"{PIPES}/{command.container}-{direction}"


def _case(task: Task, case: Case, number: int) -> CaseRun:
    """What is expected goes to the waiter, unless a function of the caller's compares it: never to the container."""
    return CaseRun(
        number=number,
        name=case_name(case, number),
        args=tuple(case.args),
        stdin=b"" if task.interactor is not None else case.stdin,  # type: ignore[arg-type]
        files=case.files or {},  # type: ignore[arg-type]
        limits=task.limits_of(case),
        expected=case.expected if case.is_compared else None,  # type: ignore[arg-type]
        check=case.check if case.is_compared else None,  # type: ignore[arg-type]
        is_checked_later=case.is_checked_later,
        points=case.points,
    )


def _with_ssh(message: MonitorContainer, grader: Grader | None) -> MonitorContainer:
    """The same with an SSH server in the place of the program: a grader, or the task's command."""
    if grader is None:
        return debug_session.with_ssh_server(message)
    session = debug_session.with_ssh_server(replace(message, command=grader_command(grader.run)))  # type: ignore[arg-type]
    return replace(session, command=supervisor_command(session.command))


def _grading(command: MonitorRun) -> GradingSettings | None:
    task = command.request.runs[command.run].task
    if task.grader is None:
        return None
    return GradingSettings(
        images=command.images,
        cpu_time_s=task.grader.students_cpu_time_s(task.limits),
        memory_mib=task.grader.students_memory_mib(task.limits),
        network=task.grader.student_network,
        most_students=task.grader.most_students,
    )
