"""A program for any image that tries system calls on PID 1: machine code, made here, as an image may have nothing to try them with.

No call changes anything, even where it is let through. What each one returned is written to standard output.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from errno import EINVAL, EPERM

_NONE = 2**64 - 1  # no descriptor
_NOFILE = 7
_RESULT = struct.Struct("<q8x")
_BASE = 0x400000
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_PT_LOAD, _PT_STACK = 1, 0x6474E551
_READ, _WRITE, _RUN = 4, 2, 1
_ENTRY = _BASE + _HEADER.size + 2 * _SEGMENT.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Pid1Call:
    """A call that the seccomp profile refuses."""

    name: str
    numbers: tuple[int, int]  # on x86-64 and on aarch64
    arguments: tuple[int, ...]
    refused_with: int = EPERM  # by the profile; the kernel would answer something else


CALLS = (
    Pid1Call(name="prlimit64", numbers=(302, 261), arguments=(1, _NOFILE, 0, 0)),
    Pid1Call(name="setpriority", numbers=(141, 140), arguments=(0, 1, 0)),
    Pid1Call(name="ioprio_set", numbers=(251, 30), arguments=(1, 1, 0)),
    Pid1Call(name="sched_setaffinity", numbers=(203, 122), arguments=(1, 8, 0)),
    Pid1Call(name="sched_setscheduler", numbers=(144, 119), arguments=(1, 0, 0)),
    Pid1Call(name="sched_setparam", numbers=(142, 118), arguments=(1, 0)),
    Pid1Call(name="sched_setattr", numbers=(314, 274), arguments=(1, 0, 0)),
    Pid1Call(name="splice", numbers=(275, 76), arguments=(_NONE, 0, _NONE, 0, 1, 0), refused_with=EINVAL),
    Pid1Call(name="sendfile", numbers=(40, 71), arguments=(_NONE, _NONE, 0, 1), refused_with=EINVAL),
)
_WRITE_CALL, _EXIT_CALL = (1, 64), (231, 94)


def program(architecture: str) -> bytes:
    """A static ELF file for ``x86_64`` or ``aarch64``."""
    machine, column, one_call, keep, write_kept = _MACHINES[architecture]
    code = b"".join(one_call(call.numbers[column], call.arguments) + keep for call in CALLS)
    code += write_kept(_WRITE_CALL[column], len(CALLS) * _RESULT.size)
    code += one_call(_EXIT_CALL[column], (0,))
    size = _ENTRY - _BASE + len(code)
    magic = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = _HEADER.pack(magic, 2, machine, 1, _ENTRY, _HEADER.size, 0, 0, _HEADER.size, _SEGMENT.size, 2, 0, 0, 0)
    segments = _SEGMENT.pack(_PT_LOAD, _READ | _RUN, 0, _BASE, _BASE, size, size, 0x10000)
    segments += _SEGMENT.pack(_PT_STACK, _READ | _WRITE, 0, 0, 0, 0, 0, 16)
    return header + segments + code


def let_through(written: bytes) -> list[str] | None:
    """Names of the calls that were not refused, from what the program has written; None: this is not what it writes."""
    if len(written) != len(CALLS) * _RESULT.size:
        return None
    results = [result for (result,) in _RESULT.iter_unpack(written)][::-1]  # the stack grows downwards
    return [call.name for call, result in zip(CALLS, results, strict=True) if result != -call.refused_with]


# ---- x86-64: a call's number is in rax, its arguments are in these registers, its result is in rax

_MOVE_TO = (b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8", b"\x49\xb9")  # rdi rsi rdx r10 r8 r9
_RAX, _SYSCALL = b"\x48\xb8", b"\x0f\x05"
_PUSH_RAX_TWICE = b"\x50\x50"
_RSI_IS_RSP = b"\x48\x89\xe6"


def _call_x86_64(number: int, arguments: tuple[int, ...]) -> bytes:
    return _loads_x86_64(number, dict(enumerate(arguments))) + _SYSCALL


def _write_x86_64(number: int, size: int) -> bytes:
    return _loads_x86_64(number, {0: 1, 2: size}) + _RSI_IS_RSP + _SYSCALL


def _loads_x86_64(number: int, arguments: dict[int, int]) -> bytes:
    loads = [_MOVE_TO[place] + struct.pack("<Q", value) for place, value in arguments.items()]
    return b"".join([*loads, _RAX + struct.pack("<Q", number)])


# ---- aarch64: the number is in x8, the arguments are in x0 to x5, the result is in x0

_MOVE, _MOVE_PART, _SVC = 0xD2800000, 0xF2800000, 0xD4000001
_PUSH_X0 = struct.pack("<I", 0xF81F0FE0)  # 16 bytes: the stack stays aligned
_X1_IS_SP = struct.pack("<I", 0x910003E1)


def _call_aarch64(number: int, arguments: tuple[int, ...]) -> bytes:
    return _loads_aarch64({8: number, **dict(enumerate(arguments))}) + struct.pack("<I", _SVC)


def _write_aarch64(number: int, size: int) -> bytes:
    return _loads_aarch64({8: number, 0: 1, 2: size}) + _X1_IS_SP + struct.pack("<I", _SVC)


def _loads_aarch64(values: dict[int, int]) -> bytes:
    loads = []
    for register, value in values.items():
        for part in range(4):
            move = _MOVE_PART if part else _MOVE
            loads.append(move | part << 21 | (value >> 16 * part & 0xFFFF) << 5 | register)
    return struct.pack(f"<{len(loads)}I", *loads)


_OneCall = Callable[[int, tuple[int, ...]], bytes]
_MACHINES: dict[str, tuple[int, int, _OneCall, bytes, Callable[[int, int], bytes]]] = {
    "x86_64": (62, 0, _call_x86_64, _PUSH_RAX_TWICE, _write_x86_64),
    "aarch64": (183, 1, _call_aarch64, _PUSH_X0, _write_aarch64),
}
