"""The doctor's program that tries system calls on PID 1, for both architectures. Here it is PID 1 itself, of a namespace."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from jobmanager.doctor.pid_1_calls import CALLS, let_through, program
from tests.support.foreign_programs import able_to_run


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_without_a_profile_no_call_is_refused(architecture: str, tmp_path: Path) -> None:
    path = tmp_path / "calls"
    path.write_bytes(program(architecture))
    path.chmod(0o755)

    with able_to_run(architecture):
        ran = subprocess.run(["unshare", "--pid", "--fork", str(path)], stdout=subprocess.PIPE, timeout=60, check=True)

    assert let_through(ran.stdout) == [call.name for call in CALLS]


def test_a_refusal_is_told_by_the_profiles_own_error_and_by_no_other() -> None:
    results = [-call.refused_with for call in CALLS]
    assert let_through(_written(results)) == []
    results[-1] = -9  # EBADF, as of a kernel that has looked at the descriptors
    assert let_through(_written(results)) == [CALLS[-1].name]


@pytest.mark.parametrize("written", [b"", b"cut", bytes(16 * len(CALLS) + 1)])
def test_what_is_not_from_the_program_says_nothing(written: bytes) -> None:
    assert let_through(written) is None


def _written(results: list[int]) -> bytes:
    return b"".join(result.to_bytes(8, "little", signed=True) + bytes(8) for result in reversed(results))
