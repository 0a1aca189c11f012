"""The limits of a ``task.yaml``."""

from __future__ import annotations

from dataclasses import replace

from jobmanager.errors import InvalidValue
from jobmanager.model.limits import Limits
from jobmanager.model.task import FIXED_LIMITS
from jobmanager.task_folder.fields import Fields
from jobmanager.task_folder.marked_yaml import Mistakes


def read_limits(fields: Fields, mistakes: Mistakes) -> Limits:
    """Convert INGInious's limits. Nothing ever enforced ``output``, and its unit differs from course to course."""
    for unknown in sorted(set(fields).difference(("time", "hard_time", "memory", "disk", "output", "hard"))):
        fields.add_mistake(unknown, "is no limit: there are time, hard_time, memory and disk")
    return _made(fields, mistakes, "limits", Limits())


def read_build_limits(fields: Fields, mistakes: Mistakes, of_cases: Limits) -> Limits:
    """The limits of a build, in the same names. The disk is one for the build and all cases."""
    for unknown in sorted(set(fields).difference(("time", "hard_time", "memory"))):
        why = "is that of limits, for the build and all cases" if unknown == "disk" else "is none of time, hard_time and memory"
        fields.add_mistake(unknown, why)
    return _made(fields, mistakes, "build_limits", Limits(**{name: getattr(of_cases, name) for name in FIXED_LIMITS}))


def _made(fields: Fields, mistakes: Mistakes, what: str, otherwise: Limits) -> Limits:
    before = len(mistakes.found)
    times: dict[str, float | None] = {
        "cpu_time_s": fields.number("time", unit=" of seconds"),
        "wall_time_s": fields.number("hard_time", unit=" of seconds"),
    }
    sizes = {"memory_mib": fields.whole("memory", unit=" of MB"), "workspace_mib": fields.whole("disk", unit=" of MB")}
    try:
        given = {name: value for name, value in {**times, **sizes}.items() if value is not None}
        return replace(otherwise, **given)  # type: ignore[arg-type]
    except InvalidValue as error:
        if len(mistakes.found) == before:
            mistakes.add(fields.line, f"{what}: {error}")
        return otherwise
