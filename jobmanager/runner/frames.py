"""Every message between a waiter and the runner: one record each, whose annotations are also how it is written and read.

`docs/runner.md` is the contract: the numbers and the order of the fields are from there.
Names and paths are bytes, as in the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, ClassVar, TypeVar

from jobmanager.runner.fields import (
    I64,
    U8,
    U16,
    U32,
    U64,
    Choice,
    Count,
    Data,
    FrameError,
    HeaderNumber,
    ListOf,
    Name,
    Names,
    Path,
    Paths,
    Payload,
    RecordOf,
    Yes,
)

VERSION = 2
DOWN_MESSAGE_BYTES = 2**20  # the most of one message's payload
UP_MESSAGE_BYTES = 2**16
RESOURCE_LIMITS = 64  # the most of one run
FETCH_BYTES = 2**15  # of the list of one Fetch, as it is sent
_Message = TypeVar("_Message", bound="DownMessage | UpMessage | Status")


class PathKind(IntEnum):
    """What is at a path. Only files and folders are put."""

    FILE = 0
    FOLDER = 1
    LINK = 2
    OTHER = 3


class PutKind(IntEnum):
    """What is put at a path."""

    FILE = 0
    FOLDER = 1


class InputFrom(IntEnum):
    """Where a run's standard input comes from."""

    NOTHING = 0
    MEMORY = 1
    PIPE = 2
    FIFO = 3  # what a program in another container writes


class ProgramStream(IntEnum):
    """Where a program wrote to."""

    STDOUT = 1
    STDERR = 2


class RefusalReason(IntEnum):
    """Why a run has not started."""

    NO_SUCH_PROGRAM = 1
    IS_A_FOLDER = 2
    NOT_EXECUTABLE = 3
    NO_SUCH_FOLDER = 4
    PUT_FAILED = 5
    REMOVE_FAILED = 6
    OTHER_DEVICE = 7
    OTHER = 8
    NO_INTERPRETER = 9
    ARGUMENTS_TOO_LONG = 10
    KILLED_BEFORE = 11
    NO_PROCESS = 12
    NOT_CLEAN = 13


class HowEnded(IntEnum):
    """How the first process of a run ended."""

    EXITED = 0
    SIGNALLED = 1
    NEVER_REAPED = 2


class StoppedBy(IntEnum):
    """Who stopped a run."""

    NOBODY = 0
    WALL = 1
    CPU = 2
    OUTPUT = 3
    KILL = 4
    LEASE = 5
    LEAVE = 6


class RunnerState(IntEnum):
    """The states of the runner."""

    NEW = 0
    IDLE = 1
    RUNNING = 2
    ENDING = 3
    LEAVING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceLimit:
    """A limit of ``setrlimit``."""

    resource: U8  # number of the kernel
    soft: U64
    hard: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeDevice:
    """A mounted volume and its device."""

    path: Path
    device: Name  # major:minor; empty in a request: any


@dataclass(frozen=True, slots=True, kw_only=True)
class BringPath:
    """A file to bring: at the end of a run, or when it is asked for."""

    path: Path
    most: U32  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FullPlace:
    """A place in which nothing was free at the end of a run."""

    path: Path
    blocks: Yes
    inodes: Yes


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderEntry:
    """What a folder has under one name."""

    path: Path
    kind: Annotated[PathKind, Choice(PathKind)]
    mode: U32
    mtime_s: I64
    size: U64  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DownMessage:
    """A message to the runner."""

    NUMBER: ClassVar[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(DownMessage):
    """A waiter begins."""

    NUMBER = 1
    session: HeaderNumber  # drawn at random by each waiter
    version: U16 = VERSION
    read_from: U64  # offset in the stream
    lease_ms: U32


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack(DownMessage):
    """The stream was read up to here, and the waiter lives."""

    NUMBER = 2
    read_to: U64  # offset in the stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Put(DownMessage):
    """A folder, or a piece of a file."""

    NUMBER = 3
    kind: Annotated[PutKind, Choice(PutKind)] = PutKind.FILE
    path: Path
    mode: U32
    mtime_s: I64  # since 1970
    offset: U64 = 0  # of the piece in the file
    last: Yes = True
    data: Data = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove(DownMessage):
    """Everything that a pattern matches is to be removed."""

    NUMBER = 4
    base: Path
    parts: Names  # a shell pattern for each level below the base


@dataclass(frozen=True, slots=True, kw_only=True)
class Input(DownMessage):
    """A piece of a run's standard input."""

    NUMBER = 5
    run: U32
    offset: U64
    last: Yes
    data: Data


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRun(DownMessage):
    """``RUN``: a program is to be started. A limit of 0 is none."""

    NUMBER = 6
    run: U32  # larger than each before
    argv: Names
    env: Names = ()  # NAME=value
    cwd: Path
    umask: U32 = 0o022
    stdin: Annotated[InputFrom, Choice(InputFrom)] = InputFrom.NOTHING
    stdin_fifo: Path = b""
    stdout_fifo: Path = b""  # where its standard output goes then: that is not reported
    channel: Yes = False  # descriptor 3 is a socket for messages
    wall_ms: U64 = 0
    cpu_us: U64 = 0
    cpus_milli: U32 = 0
    output_bytes: U64 = 0
    drops_output: Yes = False  # what it prints past that is counted and not reported, and it goes on
    rlimits: Annotated[tuple[ResourceLimit, ...], ListOf(RecordOf(ResourceLimit), most=RESOURCE_LIMITS)] = ()
    places: Paths = ()  # whose free space is looked at, at the end
    volumes: Annotated[tuple[VolumeDevice, ...], ListOf(RecordOf(VolumeDevice))] = ()
    bring: Annotated[tuple[BringPath, ...], ListOf(RecordOf(BringPath))] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToProgram(DownMessage):
    """``MESSAGE``: something for the program's socket."""

    NUMBER = 7
    run: U32
    number: U64
    data: Data


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill(DownMessage):
    """A run is to be killed."""

    NUMBER = 8
    run: U32


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFolder(DownMessage):
    """``LIST``: what is in a folder is asked for."""

    NUMBER = 9
    request: U32
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch(DownMessage):
    """Files are asked for: all pieces of the first come, then those of the next."""

    NUMBER = 10
    request: U32
    files: Annotated[tuple[BringPath, ...], ListOf(RecordOf(BringPath), fewest=1, most_bytes=FETCH_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clear(DownMessage):
    """The container is to be cleared of everything that a run has left."""

    NUMBER = 11
    request: U32
    put_back: Yes = False  # what was kept, when all is clean
    places: Paths  # are emptied


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave(DownMessage):
    """The runner is to leave."""

    NUMBER = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep(DownMessage):
    """A folder with all that is in it is to be kept in memory that only the runner has, in the place of what it kept before."""

    NUMBER = 13
    request: U32
    path: Path
    most: U64  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UpMessage:
    """A message of the runner's stream."""

    NUMBER: ClassVar[int]
    run: HeaderNumber = 0  # the run that it belongs to, or the request, or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(UpMessage):
    """The program was started."""

    NUMBER = 1
    volumes: Annotated[tuple[VolumeDevice, ...], ListOf(RecordOf(VolumeDevice))]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRefused(UpMessage):
    """The program was not started."""

    NUMBER = 2
    why: Annotated[RefusalReason, Choice(RefusalReason)]
    errno: U32
    what: Data


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputData(UpMessage):
    """``OUTPUT``: a piece of what the program wrote."""

    NUMBER = 3
    stream: Annotated[ProgramStream, Choice(ProgramStream)]
    offset: U64  # in what it wrote to this stream
    data: Data


@dataclass(frozen=True, slots=True, kw_only=True)
class FromProgram(UpMessage):
    """``MESSAGE``: something from the program's socket."""

    NUMBER = 4
    number: U64
    data: Data


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken(UpMessage):
    """How much the program has taken."""

    NUMBER = 5
    input: U64  # bytes
    messages: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(UpMessage):
    """The run is over, and nothing more of it comes."""

    NUMBER = 6
    how: Annotated[HowEnded, Choice(HowEnded)]
    code: U32  # exit code or signal
    stopped_by: Annotated[StoppedBy, Choice(StoppedBy)]
    cpu_us: Count
    wall_us: U64
    peak_bytes: Count
    peak_is_exact: Yes
    oom_kills: Count
    fork_refusals: Count
    stdout_bytes: U64
    stderr_bytes: U64
    full: Annotated[tuple[FullPlace, ...], ListOf(RecordOf(FullPlace))]
    left: Yes  # processes that could not be reaped
    input_over: Yes = False  # it read from a fifo, and its writer had left before it ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece(UpMessage):
    """A piece of a file that was asked for."""

    NUMBER = 7
    request: U32  # 0: of the run's ``bring``
    path: Path
    mode: U32
    mtime_s: I64
    size: U64  # bytes, of the file
    errno: U32
    offset: U64
    last: Yes
    data: Data


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries(UpMessage):
    """A part of what is in a folder."""

    NUMBER = 8
    request: U32
    errno: U32
    last: Yes
    entries: Annotated[tuple[FolderEntry, ...], ListOf(RecordOf(FolderEntry))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared(UpMessage):
    """The container was cleared, or why it is not clean."""

    NUMBER = 9
    request: U32
    clean: Yes
    why: Data


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(UpMessage):
    """What the waiter sent made no sense; the runner leaves."""

    NUMBER = 10
    text: Data


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept(UpMessage):
    """What is kept, or why it is not."""

    NUMBER = 11
    request: U32
    errno: U32  # 0: it is kept
    entries: U32
    bytes: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the runner is doing: the first packet of a session. It is no part of the stream."""

    stream_bytes: HeaderNumber  # so far
    version: U16 = VERSION
    build: Data
    state: Annotated[RunnerState, Choice(RunnerState)]
    run: U32  # the last one taken; 0: none
    kept_from: U64  # offset in the stream: the first byte of the window
    input: U64  # as in Taken
    messages: U64
    skipped: U64  # bytes that were no frame
    put_to: Path  # of the last Put
    cgroup: U8  # version; 0: none found
    dumpable: Yes
    cpu_us: Count = None  # of the run that is going on, so far; None: none is, or nothing counts it


DOWN: dict[int, type[DownMessage]] = {
    kind.NUMBER: kind for kind in (Hello, Ack, Put, Remove, Input, StartRun, ToProgram, Kill, ListFolder, Fetch, Clear, Leave, Keep)
}
UP: dict[int, type[UpMessage]] = {
    kind.NUMBER: kind for kind in (Started, RunRefused, OutputData, FromProgram, Taken, Ended, Piece, Entries, Cleared, Fault, Kept)
}


def encode(message: DownMessage | UpMessage | Status) -> bytes:
    """The payload of a message.

    Raises:
        FrameError: a value is out of its bounds, or the message is too long.
    """
    out = bytearray()
    try:
        RecordOf(type(message)).write(message, out)
    except FrameError as error:
        raise FrameError(f"{type(message).__name__}.{error}") from None
    _check_length(type(message), len(out))
    return bytes(out)


def decode(kind: type[_Message], payload: bytes, **header: int) -> _Message:
    """The message of a kind in a payload, with the fields that its header had.

    Raises:
        FrameError: the payload makes no sense. Nothing else is raised, whatever the payload is.
    """
    _check_length(kind, len(payload))
    source = Payload(payload)
    try:
        values = RecordOf(kind).read_values(source)
    except FrameError as error:
        raise FrameError(f"{kind.__name__}.{error}") from None
    if source.left:
        raise FrameError(f"{kind.__name__}: {source.left} bytes too many")
    return kind(**values | header)


def decode_down(number: int, payload: bytes, session: int) -> DownMessage:
    """The message of a type to the runner; raises FrameError."""
    if number not in DOWN:
        raise FrameError(f"no message down has the type {number}")
    kind = DOWN[number]
    return decode(Hello, payload, session=session) if kind is Hello else decode(kind, payload)


def decode_up(number: int, payload: bytes, run: int) -> UpMessage:
    """The message of a type of the runner's stream; raises FrameError."""
    if number not in UP:
        raise FrameError(f"no message up has the type {number}")
    return decode(UP[number], payload, run=run)


def _check_length(kind: type, length: int) -> None:
    most = DOWN_MESSAGE_BYTES if issubclass(kind, DownMessage) else UP_MESSAGE_BYTES
    if length > most:
        raise FrameError(f"{kind.__name__}: {length} bytes, where a message has at most {most}")
