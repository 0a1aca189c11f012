"""What a runner is sent for a container's run: its files, what is to be removed, its standard input, and the run itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from jobmanager.grading.bundle import bundle
from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model._checks import RESERVED_FOLDER
from jobmanager.model._utf8 import to_utf8
from jobmanager.model.limits import MAX_FILE_MIB, Limits
from jobmanager.model.volume import mount_path
from jobmanager.runner.frames import (
    Clear,
    DownMessage,
    Input,
    InputFrom,
    Put,
    PutKind,
    Remove,
    ResourceLimit,
    StartRun,
    VolumeDevice,
)
from jobmanager.runner.place import SHM
from jobmanager.watching.brought import brought_paths

RUN = 1  # the first, and mostly the only one
SECRETS_FOLDER = ".jobmanager/secrets"
_RUNNABLE = ".jobmanager/bin/"
_PIECE_BYTES = 2**20 - 2**14  # of a file, in one message
_SCRIPT, _ELF = b"#!", b"\x7fELF"
_RLIMIT_CPU, _RLIMIT_FSIZE, _RLIMIT_NOFILE = 0, 1, 7  # numbers of Linux, on all architectures that have a runner
_CPU_BACKSTOP_S = 10  # so much higher than the limit is the kernel's own for each process


def run_messages(job: MonitorContainer, *, made_at_s: float, number: int = RUN) -> Iterator[DownMessage]:
    """All that a runner needs for a run, in the order in which it is to be sent.

    ``made_at_s`` (seconds since 1970) is the time of all files: one moment, so that ``make`` takes none for newer, and one that
    lies in the past of the container's host.
    """
    if job.clears:
        yield Clear(request=number, put_back=job.puts_back, places=tuple(map(to_utf8, job.clears)))
    yield from file_messages(job, made_at_s=made_at_s)
    if job.stdin is not None:
        yield from _standard_input(job.stdin, number)
    yield _start(job, number)


def file_messages(job: MonitorContainer, *, made_at_s: float) -> Iterator[DownMessage]:
    """What is to be there before the run, and what is not."""
    yield _folder(f"{job.workspace}/{RESERVED_FOLDER}", 0o755, made_at_s)  # where a program leaves its result file
    files = {**job.files, **(bundle() if job.grading is not None else {})}
    for name, content in files.items():
        yield from _file(f"{job.workspace}/{name}", content, _mode(name, content, job), made_at_s)
    if job.secrets:
        yield _folder(f"{job.workspace}/{SECRETS_FOLDER}", 0o700, made_at_s)
    for name, content in job.secrets.items():
        yield from _file(f"{job.workspace}/{SECRETS_FOLDER}/{name}", content, 0o400, made_at_s)
    for pattern in job.wipe:
        volume, *parts = pattern.split("/")
        yield Remove(base=to_utf8(mount_path(volume)), parts=tuple(to_utf8(part) for part in parts))


def words(command: str | tuple[str, ...]) -> tuple[str, ...]:
    """A command as the words that are executed. A text is for the image's shell."""
    return ("sh", "-c", command) if isinstance(command, str) else command


def _mode(name: str, content: bytes, job: MonitorContainer) -> int:
    runs = content.startswith((_SCRIPT, _ELF)) or name in job.executables or name.startswith(_RUNNABLE)
    return 0o755 if runs else 0o644


def _file(path: str, content: bytes, mode: int, made_at_s: float) -> Iterator[Put]:
    for offset in range(0, len(content), _PIECE_BYTES) or (0,):
        piece = content[offset : offset + _PIECE_BYTES]
        yield Put(
            path=to_utf8(path),
            mode=mode,
            mtime_s=int(made_at_s),
            offset=offset,
            last=offset + len(piece) == len(content),
            data=piece,
        )


def _folder(path: str, mode: int, made_at_s: float) -> Put:
    return Put(kind=PutKind.FOLDER, path=to_utf8(path), mode=mode, mtime_s=int(made_at_s))


def _standard_input(content: bytes, number: int) -> Iterator[Input]:
    for offset in range(0, len(content), _PIECE_BYTES) or (0,):
        piece = content[offset : offset + _PIECE_BYTES]
        yield Input(run=number, offset=offset, last=offset + len(piece) == len(content), data=piece)


def _start(job: MonitorContainer, number: int) -> StartRun:
    limits = job.limits
    return StartRun(
        run=number,
        argv=tuple(to_utf8(word) for word in words(job.command)),
        env=_variables(job.env),
        cwd=to_utf8(job.workspace),
        stdin=_input_from(job),
        stdin_fifo=to_utf8(job.stdin_fifo),
        stdout_fifo=to_utf8(job.stdout_fifo),
        channel=job.grading is not None or job.with_ssh,
        wall_ms=0 if job.grading is not None else math.ceil(limits.wall_s * 1000),  # a grader's clock pauses: the waiter has it
        cpu_us=math.ceil(limits.cpu_time_s * 1e6),
        cpus_milli=math.ceil(limits.cpus * 1000),
        output_bytes=limits.output_kib * 1024,
        drops_output=limits.drops_output,
        rlimits=_resource_limits(limits),
        places=(to_utf8(job.workspace), to_utf8(SHM)),
        volumes=_volumes(job),
        bring=brought_paths(job),
    )


def _variables(env: Mapping[str, str]) -> tuple[bytes, ...]:
    return tuple(to_utf8(f"{name}={value}") for name, value in env.items())


def _input_from(job: MonitorContainer) -> InputFrom:
    """A grader has its channel, a student's program what its grader sends, one that talks its fifo, any other a file in memory."""
    if job.stdin_fifo:
        return InputFrom.FIFO
    if job.grading is not None:
        return InputFrom.NOTHING
    return InputFrom.PIPE if job.stdin is None else InputFrom.MEMORY


def _volumes(job: MonitorContainer) -> tuple[VolumeDevice, ...]:
    """The volumes that it shares with others, each with the device that it must have, if that is known."""
    devices = job.volume_devices
    return tuple(
        VolumeDevice(path=to_utf8(mount_path(name)), device=to_utf8(devices.get(name, ""))) for name in job.volumes
    )


def _resource_limits(limits: Limits) -> tuple[ResourceLimit, ...]:
    """Those that PID 1 must not have itself: it writes files, and needs descriptors."""
    cpu_s = int(limits.cpu_time_s) + _CPU_BACKSTOP_S
    largest_file = max(limits.workspace_mib, limits.memory_mib, MAX_FILE_MIB) * 2**20
    each = {_RLIMIT_CPU: cpu_s, _RLIMIT_FSIZE: largest_file, _RLIMIT_NOFILE: limits.open_files}
    return tuple(ResourceLimit(resource=number, soft=value, hard=value) for number, value in each.items())
