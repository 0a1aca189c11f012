"""``Limits``: good ones are kept, bad ones are refused with a message that names the limit and what would do."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import pytest

from jobmanager import Limits
from jobmanager.errors import InvalidValue

WHOLE = ("memory_mib", "processes", "open_files", "workspace_mib", "output_kib", "archive_mib")
REAL = ("cpu_time_s", "wall_time_s", "cpus")
NO_NUMBER = (0, -1, True, "10", [], math.nan, math.inf, -math.inf)


def test_the_defaults_are_these():
    limits = Limits()

    assert (limits.cpu_time_s, limits.wall_time_s, limits.memory_mib, limits.processes) == (30, None, 256, 64)
    assert (limits.open_files, limits.workspace_mib, limits.output_kib, limits.archive_mib, limits.cpus) == (256, 64, 1024, 16, 1.0)
    assert (limits.on_output_limit, limits.drops_output) == ("stop", False)


def test_the_wall_clock_is_three_times_the_cpu_time_unless_it_is_given():
    assert Limits(cpu_time_s=7).wall_s == 21
    assert Limits(cpu_time_s=7, wall_time_s=2.5).wall_s == 2.5


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_limit_takes_whole_numbers_above_zero_only(name):
    assert getattr(Limits(**{name: 40}), name) == 40

    for bad in (*NO_NUMBER, None, 1.5, 20.0):
        with pytest.raises(InvalidValue, match=f"{name} must be a whole number above zero, not "):
            Limits(**{name: bad})


@pytest.mark.parametrize("name", REAL)
def test_a_limit_in_seconds_or_cores_takes_finite_numbers_above_zero_only(name):
    assert getattr(Limits(**{name: 0.5}), name) == 0.5

    for bad in NO_NUMBER:
        with pytest.raises(InvalidValue, match=f"{name} must be a number above zero, not "):
            Limits(**{name: bad})


def test_less_than_an_engine_needs_to_start_a_container_is_refused_and_the_message_says_how_much_is_needed():
    with pytest.raises(InvalidValue, match="memory_mib must be at least 16, not 15"):
        Limits(memory_mib=15)
    with pytest.raises(InvalidValue, match=r"cpus must be at least 0\.01, not 0\.001"):
        Limits(cpus=0.001)
    with pytest.raises(InvalidValue, match="open_files must be at least 32, not 31"):
        Limits(open_files=31)
    assert Limits(memory_mib=16, cpus=0.01, open_files=32).memory_mib == 16


def test_what_becomes_of_too_much_output_is_one_of_two_words():
    assert Limits(on_output_limit="truncate").drops_output

    for bad in ("", "TRUNCATE", "drop", None, True, 0, ["stop"]):
        with pytest.raises(InvalidValue, match="on_output_limit must be 'stop' or 'truncate', not "):
            Limits(on_output_limit=bad)


def test_limits_are_given_by_name_and_cannot_be_changed():
    with pytest.raises(TypeError):
        Limits(30)
    with pytest.raises(FrozenInstanceError):
        Limits().memory_mib = 1


def test_the_workspace_counts_whole_blocks():
    limits = Limits(workspace_mib=1)

    assert not limits.workspace_excess([2**20])
    assert "larger than the workspace of 1 MiB" in limits.workspace_excess([2**20 + 1])
    assert not limits.workspace_excess([1] * 256)
    assert "larger than the workspace of 1 MiB" in limits.workspace_excess([1] * 257)  # one block of 4096 bytes each


def test_the_workspace_counts_files_too():
    limits = Limits(workspace_mib=1)
    assert limits.workspace_inodes == 1024 + 64

    assert not limits.workspace_excess([0] * 544)
    assert "more than the 544 files" in limits.workspace_excess([0] * 545)
