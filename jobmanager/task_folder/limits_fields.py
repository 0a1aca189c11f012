"""The limits of a ``task.yaml``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from jobmanager.errors import InvalidValue
from jobmanager.model.limits import Limits
from jobmanager.model.task import FIXED_LIMITS
from jobmanager.task_folder.fields import Fields
from jobmanager.task_folder.marked_yaml import Mistakes

_TIMES = {"time": "cpu_time_s", "hard_time": "wall_time_s"}
_SIZES = {"memory": "memory_mib", "disk": "workspace_mib"}
_OUR_COUNTS = ("processes", "open_files", "output_kib")  # INGInious has none of them; they are named as in ``Limits``
_OURS = (*_OUR_COUNTS, "cpus", "on_output_limit")
_NOT_READ = ("output", "hard")  # nothing ever enforced ``output``, and its unit differs from course to course
_OF_LIMITS = {*_TIMES, *_SIZES, *_OURS}
_OF_A_BUILD = {name for name in _OF_LIMITS if {**_TIMES, **_SIZES}.get(name, name) not in FIXED_LIMITS}


def read_limits(fields: Fields, mistakes: Mistakes) -> Limits:
    """Convert INGInious's limits, and those of ours."""
    _refuse_others(fields, {*_OF_LIMITS, *_NOT_READ})
    return _made(fields, mistakes, "limits", Limits())


def read_build_limits(fields: Fields, mistakes: Mistakes, of_cases: Limits) -> Limits:
    """The limits of a build, in the same names. What a container has for all its runs is that of ``limits``."""
    shared = sorted(set(fields) & (_OF_LIMITS - _OF_A_BUILD))
    for name in shared:
        fields.add_mistake(name, "is that of limits, for the build and all cases")
    _refuse_others(fields, {*_OF_A_BUILD, *shared})
    return _made(fields, mistakes, "build_limits", Limits(**{name: getattr(of_cases, name) for name in FIXED_LIMITS}))


def _refuse_others(fields: Fields, known: Collection[str]) -> None:
    for unknown in sorted(set(fields).difference(known)):
        there_are = [name for name in (*_TIMES, *_SIZES, *_OURS) if name in known]
        fields.add_mistake(unknown, f"is no limit: there are {', '.join(there_are)}")


def _made(fields: Fields, mistakes: Mistakes, what: str, otherwise: Limits) -> Limits:
    before = len(mistakes.found)
    read: dict[str, object] = {
        **{limit: fields.number(name, unit=" of seconds") for name, limit in _TIMES.items()},
        **{limit: fields.whole(name, unit=" of MB") for name, limit in _SIZES.items()},
        **{limit: fields.whole(limit) for limit in _OUR_COUNTS},
        "cpus": fields.number("cpus"),
        "on_output_limit": fields.text("on_output_limit"),
    }
    given = {limit: value for limit, value in read.items() if value is not None}
    for limit, value in given.items():
        try:
            Limits(**{"wall_time_s": 1.0, limit: value})  # type: ignore[arg-type]
        except InvalidValue as error:
            name = next((name for name, its_limit in {**_TIMES, **_SIZES}.items() if its_limit == limit), limit)
            said = str(error)
            why = said.removeprefix(limit) if said.startswith(f"{limit} must") else f": {said}"
            mistakes.add(fields.line_of(name), f"{what}.{name}{why}")
    if len(mistakes.found) > before:
        return otherwise
    try:
        return replace(otherwise, **given)  # type: ignore[arg-type]
    except InvalidValue as error:
        mistakes.add(fields.line, f"{what}: {error}")
        return otherwise
