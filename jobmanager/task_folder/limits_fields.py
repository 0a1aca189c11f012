"""The limits of a ``task.yaml``."""

from __future__ import annotations

from jobmanager.errors import InvalidValue
from jobmanager.model.limits import Limits
from jobmanager.task_folder.fields import Fields
from jobmanager.task_folder.marked_yaml import Mistakes


def read_limits(fields: Fields, mistakes: Mistakes, what: str = "limits") -> Limits:
    """Convert INGInious's limits. Nothing ever enforced ``output``, and its unit differs from course to course."""
    for unknown in sorted(set(fields).difference(("time", "hard_time", "memory", "disk", "output", "hard"))):
        fields.add_mistake(unknown, "is no limit: there are time, hard_time, memory and disk")
    before = len(mistakes.found)
    times: dict[str, float | None] = {
        "cpu_time_s": fields.number("time", unit=" of seconds"),
        "wall_time_s": fields.number("hard_time", unit=" of seconds"),
    }
    sizes = {"memory_mib": fields.whole("memory", unit=" of MB"), "workspace_mib": fields.whole("disk", unit=" of MB")}
    try:
        return Limits(**{name: value for name, value in {**times, **sizes}.items() if value is not None})  # type: ignore[arg-type]
    except InvalidValue as error:
        if len(mistakes.found) == before:
            mistakes.add(fields.line, f"{what}: {error}")
        return Limits()
