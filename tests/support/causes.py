"""Every cause of an outcome that one job can have by itself or by an external action, and what must come of it.

``integration/test_outcomes.py`` runs each once, ``stress/test_same_cause_same_outcome.py`` each twenty times. Causes
that need a host or an image of their own have tests of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import Enum

import docker
import docker.errors
from docker.models.containers import Container

from jobmanager import JobFuture, JobInput, JobManager, JobResult, Limits, Outcome, Task
from jobmanager.engine.labels import JOB_LABEL
from tests.conftest import BUSYBOX, SLOWNESS, eventually
from tests.support.faults import restart
from tests.support.printed import wait_until_printed

PYTHON = "python3"  # an environment's name: Debian with dash, Python and gcc
SHELLS = (BUSYBOX, PYTHON)  # ash and dash run commands that are given as text
PARTIAL = b"partial\n"

SOURCES = {
    "paused_externally": "inspect",
    "requested_by": "our own request",
    "wall_time_s": "our clock",
    "cpu_time_s": "CPU counter of the whole container",
    "output_bytes": "bytes counted",
    "oom_kills": "the container's cgroup, read by the runner",
    "oom_killed": "inspect",
    "fork_refusals": "the container's cgroup, read by the runner",
    "workspace_full": "free space of the workspace",
    "shm_full": "free space of /dev/shm",
    "exit_code": "the runner",
    "signal": "the runner",
    "container_exit_code": "inspect",
    "stopped_externally": "inspect",
    "removed": "inspect",
    "not_started": "the runner",
    "grader": "result.json",
    "result_file": "result.json",
    "output_cut": "the connection to the host",
}


class ExternalAction(str, Enum):
    """What somebody does to a job, once it has printed its first line."""

    NONE = ""
    KILL_JOB = "kill_job"
    KILL = "docker kill"
    STOP = "docker stop"
    REMOVE = "docker rm"
    RESTART = "docker restart"
    PAUSE = "docker pause"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """What is run, what is done to it, and what must come of it."""

    name: str
    command: str | tuple[str, ...]
    outcome: Outcome
    proof: tuple[str, ...]  # kinds of evidence: all that there must be, the one that decides first
    may_show: tuple[str, ...] = ()  # kinds that depend on who is quicker
    text: str = ""
    exit_code: int | None = None
    signal: str | None = None
    limit: str | None = None
    killed_by: str | None = None
    stdout: bytes = PARTIAL  # with ``cut``: how it begins
    stderr: bytes | None = b""  # None: words of the shell's own
    cut: bool = False  # the output's limit was reached, and all within it came
    limits: Limits = field(default_factory=Limits)
    files: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    images: tuple[str, ...] = SHELLS
    action: ExternalAction = ExternalAction.NONE
    may_lose_pid_1: bool = False  # memory that belongs to no process stays short: seldom PID 1 dies of it before its last word


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What a result says of its cause."""

    outcome: Outcome
    text: str
    exit_code: int | None
    signal: str | None
    limit: str | None
    killed_by: str | None
    decided_by: str
    proof: frozenset[str]
    sources: Mapping[str, str]
    stdout: bytes
    stderr: bytes | None
    output_bytes: int | None  # only where it was cut


def submitted(manager: JobManager, cause: Cause, image: str) -> JobFuture:
    """Those with an external action run first, so that they do not wait while the others run."""
    task = Task(image, command=cause.command, files=cause.files, limits=cause.limits, name=cause.name)
    return manager.submit(task, JobInput(stdin=cause.stdin), priority=-1 if cause.action else 0)


def apply_external_actions(jobs: Iterable[tuple[Cause, JobFuture]], manager: JobManager, engine_url: str) -> None:
    """Apply each job's action as soon as it has begun. All at once: while one is waited for, another could come to its end."""
    acted_on = [(cause, job) for cause, job in jobs if cause.action]
    if acted_on:
        with ThreadPoolExecutor(len(acted_on)) as threads:
            list(threads.map(lambda case: _apply_with_client(*case, manager, engine_url), acted_on))


def _apply_with_client(cause: Cause, job: JobFuture, manager: JobManager, engine_url: str) -> None:
    outsider = docker.DockerClient(base_url=engine_url, version="1.41", timeout=60)
    try:
        _apply(cause, job, manager, outsider)
    finally:
        outsider.close()


def _apply(cause: Cause, job: JobFuture, manager: JobManager, outsider: docker.DockerClient) -> None:
    """Wait for the job's first line, then do to it what the cause says."""
    wait_until_printed(job, PARTIAL)
    (container,) = eventually(lambda: _containers_of(job, outsider), what=f"the container of {cause.name!r} runs")
    if cause.action is ExternalAction.KILL_JOB:
        assert manager.kill_job(job.job_id)
    elif cause.action is ExternalAction.REMOVE:
        container.remove(force=True)
    elif cause.action is ExternalAction.RESTART:
        restart(container)
    else:
        methods = {ExternalAction.KILL: container.kill, ExternalAction.STOP: container.stop, ExternalAction.PAUSE: container.pause}
        methods[cause.action]()


def _containers_of(job: JobFuture, outsider: docker.DockerClient) -> list[Container]:
    return list(outsider.containers.list(filters={"label": f"{JOB_LABEL}={job.job_id}"}, ignore_removed=True))


def ending(cause: Cause, result: JobResult) -> Ending:
    """What came of it, without what may differ."""
    kinds = [evidence.kind for evidence in result.evidence]
    stdout, stderr = result.stdout, result.stderr
    return Ending(
        outcome=result.outcome,
        text=result.text,
        exit_code=None if "exit_code" in cause.may_show else result.exit_code,
        signal=result.signal,
        limit=result.limit,
        killed_by=None if "exit_code" in cause.may_show else result.killed_by,
        decided_by=kinds[0],
        proof=frozenset(kinds) - set(cause.may_show),
        sources={evidence.kind: evidence.source for evidence in result.evidence if evidence.kind not in cause.may_show},
        stdout=stdout[: len(cause.stdout)] if cause.cut else stdout,
        stderr=None if cause.cut or cause.stderr is None else stderr,
        output_bytes=len(stdout) + len(stderr) if cause.cut else None,
    )


def promised(cause: Cause) -> tuple[Ending, ...]:
    """What may come of it: one ending, or the same outcome without the runner's report."""
    usual = Ending(
        outcome=cause.outcome,
        text=cause.text,
        exit_code=cause.exit_code,
        signal=cause.signal,
        limit=cause.limit,
        killed_by=cause.killed_by,
        decided_by=cause.proof[0],
        proof=frozenset(cause.proof),
        sources={kind: SOURCES[kind] for kind in cause.proof},
        stdout=cause.stdout,
        stderr=None if cause.cut else cause.stderr,
        output_bytes=cause.limits.output_kib * 1024 if cause.cut else None,
    )
    if not cause.may_lose_pid_1:
        return (usual,)
    seen = ("oom_killed", "container_exit_code", "output_cut")
    sources = {kind: SOURCES[kind] for kind in seen}
    return usual, replace(usual, signal=None, decided_by=seen[0], proof=frozenset(seen), sources=sources)


# ---- success, failed, error: the program's own end

HOG = "dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null"
FILL = {
    "bytes": "dd if=/dev/zero of=big bs=64k 2>/dev/null",
    "inodes": "i=0; while true 2>/dev/null >f$i; do i=$((i+1)); done",
}
FILL_SHM = "cat /dev/zero > /dev/shm/f"
FORKS = "(while :; do sleep 60 & done) 2>/dev/null"
SPIN = "while :; do :; done"


def _successes() -> Iterator[Cause]:
    for name, command in {
        "ends with 0": "true",
        "never reads standard input": "true",
        "reads standard input for ever": "cat >/dev/null; cat /dev/stdin >/dev/null; while read -r line; do :; done",
        "leaves a daemon behind": f"(setsid sh -c '{SPIN}' &); (trap '' HUP TERM; sleep 60) &",
        "replaces the shell": "exec true",
    }.items():
        yield Cause(
            name=name,
            command=f"echo partial; {command}",
            outcome=Outcome.SUCCESS,
            proof=("exit_code",),
            exit_code=0,
            stdin=b"line\n" * 50_000,
        )
    for name, command, stdout, stderr in [
        ("prints nothing", "true", b"", b""),
        ("prints to standard error only", "echo partial >&2", b"", PARTIAL),
    ]:
        yield Cause(
            name=name, command=command, outcome=Outcome.SUCCESS, proof=("exit_code",), exit_code=0, stdout=stdout, stderr=stderr
        )
    for name, command, kind, limits in [
        ("a child takes too much memory", HOG, "oom_kills", Limits(memory_mib=32)),
        ("a child makes too many processes", FORKS, "fork_refusals", Limits(processes=12)),
        *((f"the workspace is full of {what}", FILL[what], "workspace_full", Limits(workspace_mib=2)) for what in FILL),
        ("/dev/shm is full", FILL_SHM, "shm_full", Limits(memory_mib=16)),
    ]:
        yield Cause(
            name=f"{name}, yet it ends with 0",
            command=f"echo partial; ({command}) 2>/dev/null; exit 0",
            outcome=Outcome.SUCCESS,
            proof=("exit_code", kind),
            exit_code=0,
            stderr=None,
            limits=limits,
        )


SIGNALS = (
    *("HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM"),
    *("XCPU", "XFSZ", "SYS"),
)
DEATHS = {
    "SEGV": "import ctypes, os; os.write(1, b'partial\\n'); ctypes.string_at(0)",
    "ABRT": "import os; os.write(1, b'partial\\n'); os.abort()",
    "INT": "import os, signal; os.write(1, b'partial\\n'); signal.signal(2, signal.SIG_DFL); os.kill(os.getpid(), 2)",
    "FPE": "import os, signal; os.write(1, b'partial\\n'); os.kill(os.getpid(), signal.SIGFPE)",
}


def _failures() -> Iterator[Cause]:
    for code in (1, 42, 125, 126, 128, 137, 255):
        yield _failure(f"ends with {code}", f"echo partial; exit {code}", code)
    for name in SIGNALS:
        images = (PYTHON,) if name == "QUIT" else SHELLS  # busybox's sh ignores that one
        yield _death(f"SIG{name} of its own", f"echo partial; kill -{name} $$; sleep 9", name, images=images)
    for name, program in DEATHS.items():
        yield _death(f"SIG{name} without a shell", ("python3", "-c", program), name, images=(PYTHON,))
    yield _death("SIGKILL of another process", "echo partial; (kill -KILL $$) & sleep 9", "KILL")
    yield _failure("a child dies of SIGSEGV", "echo partial; sh -c 'kill -SEGV $$'; exit $?", 139, stderr=None)
    too_large = "exec dd if=/dev/zero of=f bs=1M seek=5000 count=1"
    yield _death("writes a file that is too large", f"echo partial; {too_large}", "XFSZ", stderr=None)
    yield _failure("its shell finds no such command", "echo partial; nosuch", 127, stderr=None)
    yield _failure("its shell may not run a file", "echo partial; ./data", 126, stderr=None, files={"data": "echo no\n"})
    yield _failure("ends badly while children run", f"echo partial; (setsid sh -c '{SPIN}' &); sleep 60 & exit 4", 4)
    yield Cause(
        name="its result file says failed",
        command="""echo partial; echo '{"result": "failed"}' > .jobmanager/result.json""",
        outcome=Outcome.FAILED,
        proof=("exit_code", "grader"),
        exit_code=0,
    )
    yield Cause(
        name="its result file cannot be read",
        command="echo partial; echo '[]' > .jobmanager/result.json",
        outcome=Outcome.ERROR,
        proof=("exit_code", "result_file"),
        text="the result file cannot be read: it is no object",
        exit_code=0,
    )


def _failure(name: str, command: str | tuple[str, ...], code: int, **more: object) -> Cause:
    return Cause(
        name=name,
        command=command,
        outcome=Outcome.FAILED,
        proof=("exit_code",),
        text=f"exit code {code}",
        exit_code=code,
        **more,  # type: ignore[arg-type]
    )


def _death(name: str, command: str | tuple[str, ...], signal: str, **more: object) -> Cause:
    return Cause(
        name=name,
        command=command,
        outcome=Outcome.FAILED,
        proof=("signal",),
        text=f"killed by SIG{signal}",
        signal=f"SIG{signal}",
        killed_by="program",
        **more,  # type: ignore[arg-type]
    )


# ---- timeout

COMPUTES = {
    "computes": SPIN,
    "children compute": f"({SPIN}) & ({SPIN}) & wait",
    "a child with a session of its own computes": f"setsid sh -c '{SPIN}' & while :; do sleep 60; done",
    "an orphan of an orphan computes": f"((setsid sh -c '{SPIN}' &) &); while :; do sleep 60; done",
    "many short-lived children compute": "while :; do /bin/true; done",
    "computes and ignores signals": f"trap '' HUP INT QUIT TERM XCPU USR1; {SPIN}",
}
IDLES = {
    "sleeps": "sleep 60",
    "stops itself": "kill -STOP $$",
    "stops all that it may": "kill -STOP -1 2>/dev/null; sleep 60",
    "ignores all signals": "trap '' HUP INT QUIT TERM PIPE ALRM USR1 USR2; while :; do sleep 60; done",
    "hides in the background": "setsid sh -c 'sleep 60' & wait",
    "waits for a fifo": "mkfifo f; cat f",
    "closes its output": "exec >&- 2>&-; sleep 60",
    "attacks PID 1": "while :; do kill -KILL 1; kill -STOP 1; kill -TERM 1; sleep 1; done 2>/dev/null",
}
PAUSES = "import signal; print('partial', flush=True); signal.pthread_sigmask(0, signal.valid_signals()); signal.pause()"


def _timeouts() -> Iterator[Cause]:
    for name, command in COMPUTES.items():
        yield Cause(
            name=name,
            command=f"echo partial; {command}",
            outcome=Outcome.TIMEOUT,
            proof=("cpu_time_s",),
            text="CPU time limit of 0.5 s reached",
            limit="cpu",
            killed_by="jobmanager",
            limits=Limits(cpu_time_s=0.5, wall_time_s=30),
        )
    yield Cause(
        name="has computed for too long when it ends",
        command="echo partial; i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done",
        outcome=Outcome.TIMEOUT,
        proof=("cpu_time_s",),
        may_show=("exit_code",),  # unless it was stopped just before its end
        text="CPU time limit of 0.05 s reached",
        limit="cpu",
        limits=Limits(cpu_time_s=0.05, wall_time_s=30),
    )
    for name, command in IDLES.items():
        yield _idler(name, f"echo partial; {command}")
    yield _idler("pauses with all signals blocked", ("python3", "-c", PAUSES), images=(PYTHON,))
    proof = ("wall_time_s", "paused_externally", "output_cut", "container_exit_code")
    yield _idler("a stranger pauses it", "echo partial; sleep 60", action=ExternalAction.PAUSE, proof=proof)


def _idler(
    name: str, command: str | tuple[str, ...], *, proof: tuple[str, ...] = ("wall_time_s",), **more: object
) -> Cause:
    return Cause(
        name=name,
        command=command,
        outcome=Outcome.TIMEOUT,
        proof=proof,
        text="wall clock limit of 1.5 s reached",
        limit="wall",
        killed_by="jobmanager",
        limits=Limits(wall_time_s=1.5),
        **more,  # type: ignore[arg-type]
    )


# ---- overflow

FLOODS = {
    "lines": "yes",
    "no newline": "cat /dev/zero",
    "a line of 50 MB": "head -c 50000000 /dev/zero",
    "standard error": "yes >&2",
    "both streams": "while :; do echo 1; echo 2 >&2; done",
    "lines whatever happens": "trap '' PIPE TERM; while :; do yes; done",
}
SHELL_BOMB = "b() { b & b; }; (b) 2>/dev/null & while :; do sleep 60 & done 2>/dev/null"
ZOMBIES = "import os\nprint('partial', flush=True)\nwhile True:\n  if os.fork() == 0: os._exit(0)"
HOLDS = "held = []\nprint('partial', flush=True)\nwhile True: held.append(bytearray(2**20))"


def _overflows() -> Iterator[Cause]:
    for name, command in FLOODS.items():
        yield Cause(
            name=f"prints {name}",
            command=f"echo partial; {command}",
            outcome=Outcome.OVERFLOW,
            proof=("output_bytes",),
            may_show=("exit_code",),  # a short one may have ended by itself
            text="output limit of 64 KiB reached",
            limit="output",
            cut=True,
            limits=Limits(output_kib=64),
        )
    yield Cause(
        name="has printed too much when it ends with 0",
        command="echo partial; head -c 9000 /dev/zero; exit 0",
        outcome=Outcome.OVERFLOW,
        proof=("output_bytes",),
        may_show=("exit_code",),
        text="output limit of 8 KiB reached",
        limit="output",
        cut=True,
        limits=Limits(output_kib=8),
    )
    yield _hog("takes too much memory", f"echo partial; exec {HOG}")
    yield _memory_overflow(
        "a child takes too much memory, and it ends badly",
        f"echo partial; {HOG} || exit 3",
        proof=("oom_kills", "exit_code"),
        exit_code=3,
    )
    yield _hog("takes memory bit by bit", ("python3", "-c", HOLDS), images=(PYTHON,))
    for folder in ("/job", "/tmp"):
        fills = f"echo partial; exec cat /dev/zero > {folder}/f"
        yield _hog(f"files in {folder} take too much memory", fills, may_lose_pid_1=True)
    yield _bomb("makes too many processes", f"echo partial; {FORKS}; exit 3", 3)
    yield _bomb("leaves dead children behind", ("python3", "-c", ZOMBIES), 1, images=(PYTHON,), stderr=None)
    for what, fill in FILL.items():
        yield Cause(
            name=f"the workspace is full of {what}, and it ends badly",
            command=f"echo partial; {fill}; exit 3",
            outcome=Outcome.OVERFLOW,
            proof=("workspace_full", "exit_code"),
            text="workspace of 2 MiB full",
            limit="workspace",
            exit_code=3,
            limits=Limits(workspace_mib=2),
        )
    yield Cause(
        name="/dev/shm is full, and it ends badly",
        command=f"echo partial; {FILL_SHM} || exit 3",
        outcome=Outcome.OVERFLOW,
        proof=("shm_full", "exit_code"),
        text="/dev/shm of 12 MiB full",
        limit="shm",
        exit_code=3,
        stderr=None,
        limits=Limits(memory_mib=16),
    )
    fills = f"open('/dev/shm/f', 'wb').write(bytes(11 * 2**20))\n{HOLDS}"
    yield _hog("files in /dev/shm take the memory that it needs", ("python3", "-c", fills), images=(PYTHON,), may_lose_pid_1=True)


def _hog(name: str, command: str | tuple[str, ...], **more: object) -> Cause:
    """It is itself what the kernel kills."""
    return _memory_overflow(name, command, proof=("oom_kills", "signal"), signal="SIGKILL", killed_by="kernel", **more)


def _memory_overflow(name: str, command: str | tuple[str, ...], **more: object) -> Cause:
    return Cause(
        name=name,
        command=command,
        outcome=Outcome.OVERFLOW,
        text="memory limit of 16 MiB reached",
        limit="memory",
        limits=Limits(memory_mib=16, workspace_mib=200),
        **more,  # type: ignore[arg-type]
    )


def _bomb(name: str, command: str | tuple[str, ...], code: int, **more: object) -> Cause:
    return Cause(
        name=name,
        command=command,
        outcome=Outcome.OVERFLOW,
        proof=("fork_refusals", "exit_code"),
        text="limit of 12 processes reached",
        limit="processes",
        exit_code=code,
        limits=Limits(processes=12),
        **more,  # type: ignore[arg-type]
    )


# ---- crash, killed: not the program's doing


NOT_EXECUTABLE = "is there, but may not be executed: run it by its interpreter, begin it with #!, or name it in executables"


def _crashes() -> Iterator[Cause]:
    for name, word, files, text in [
        ("its command does not exist", "nosuch", {}, "there is no 'nosuch' that can be run"),
        ("its command does not exist in a folder", "/bin/nosuch", {}, "there is no '/bin/nosuch' that can be run"),
        ("its command's name is odd", "a'b c", {}, 'there is no "a\'b c" that can be run'),
        ("its command is not executable", "./data", {"data": "echo hello\n"}, f"'./data' {NOT_EXECUTABLE}"),
        ("its command is a folder", "./folder", {"folder/file": ""}, "'./folder' is a folder, not a program"),
    ]:
        yield Cause(
            name=name,
            command=(word, "word"),
            files=files,
            outcome=Outcome.CRASH,
            proof=("not_started",),
            text=f"the program was not started: {text}",
            stdout=b"",
        )
    yield Cause(
        name=f"a stranger does {ExternalAction.REMOVE.value}",
        command="echo partial; sleep 60",
        outcome=Outcome.CRASH,
        proof=("removed", "output_cut"),
        text="the container was removed by somebody else",
        killed_by="outsider",
        action=ExternalAction.REMOVE,
    )
    for action in (ExternalAction.KILL, ExternalAction.STOP, ExternalAction.RESTART):
        yield Cause(
            name=f"a stranger does {action.value}",
            command="echo partial; sleep 60",
            outcome=Outcome.CRASH,
            proof=("stopped_externally", "output_cut"),
            may_show=("container_exit_code",),  # of one that was started again, there is none
            text="the container was stopped by somebody else",
            killed_by="outsider",
            action=action,
        )


def _kills() -> Iterator[Cause]:
    yield Cause(
        name="we are asked to kill it",
        command="trap '' TERM INT HUP; echo partial; while :; do sleep 60; done",
        outcome=Outcome.KILLED,
        proof=("requested_by",),
        text="killed: kill_job",
        killed_by="jobmanager",
        action=ExternalAction.KILL_JOB,
    )


CAUSES = (*_crashes(), *_kills(), *_timeouts(), *_overflows(), *_failures(), *_successes())
# In every shell; on a slow engine in one of them by turns, as what is tried there is the kernel
CASES = [
    (cause, image)
    for number, cause in enumerate(CAUSES)
    for image in (cause.images if SLOWNESS == 1 else (cause.images[number % len(cause.images)],))
]


def case_id(case: tuple[Cause, str]) -> str:
    """How a test's report names it."""
    cause, image = case
    return f"{cause.outcome.value}: {cause.name}, {'ash' if image == BUSYBOX else 'dash'}"
