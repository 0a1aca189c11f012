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
_OUR_COUNTS = ("processes", "open_files", "output_kib")  # INGInious has none of ours; they are named as in ``Limits``
_OURS = (*_OUR_COUNTS, "cpus", "on_output_limit")
_LIMITS = {**_TIMES, **_SIZES, **{name: name for name in _OURS}}  # by the field's name: that in ``Limits``
_NOT_READ = ("output", "hard")  # nothing ever enforced ``output``, and its unit differs from course to course
_OF_A_BUILD = {name for name, limit in _LIMITS.items() if limit not in FIXED_LIMITS}


def read_limits(fields: Fields, mistakes: Mistakes) -> Limits:
    """Convert INGInious's limits, and those of ours."""
    _refuse_others(fields, {*_LIMITS, *_NOT_READ})
    return _made(fields, mistakes, "limits", Limits())


def read_build_limits(fields: Fields, mistakes: Mistakes, of_cases: Limits) -> Limits:
    """The limits of a build, in the same names. What a container has for all its runs is that of ``limits``."""
    shared = sorted(set(fields) & (_LIMITS.keys() - _OF_A_BUILD))
    for name in shared:
        fields.add_mistake(name, "is that of limits, for the build and all cases")
    _refuse_others(fields, {*_OF_A_BUILD, *shared})
    return _made(fields, mistakes, "build_limits", Limits(**{name: getattr(of_cases, name) for name in FIXED_LIMITS}))


def _refuse_others(fields: Fields, known: Collection[str]) -> None:
    for unknown in sorted(set(fields).difference(known)):
        there_are = [name for name in _LIMITS if name in known]
        fields.add_mistake(unknown, f"is no limit: there are {', '.join(there_are)}")


def _made(fields: Fields, mistakes: Mistakes, what: str, otherwise: Limits) -> Limits:
    before = len(mistakes.found)
    read: dict[str, object] = {
        **{name: fields.number(name, unit=" of seconds") for name in _TIMES},
        **{name: fields.whole(name, unit=" of MB") for name in _SIZES},
        **{name: fields.whole(name) for name in _OUR_COUNTS},
        "cpus": fields.number("cpus"),
        "on_output_limit": fields.text("on_output_limit"),
    }
    given = {name: value for name, value in read.items() if value is not None}
    for name, value in given.items():
        limit = _LIMITS[name]
        try:
            Limits(**{"wall_time_s": 1.0, limit: value})  # type: ignore[arg-type]
        except InvalidValue as error:
            said = str(error)
            why = said.removeprefix(limit) if said.startswith(f"{limit} must") else f": {said}"
            mistakes.add(fields.line_of(name), f"{what}.{name}{why}")
    if len(mistakes.found) > before:
        return otherwise
    try:
        return replace(otherwise, **{_LIMITS[name]: value for name, value in given.items()})  # type: ignore[arg-type]
    except InvalidValue as error:
        mistakes.add(fields.line, f"{what}: {error}")
        return otherwise
