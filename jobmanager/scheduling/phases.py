"""The order of a pipeline's phases: which one is next, which containers are started ahead, which are kept for their volumes.

Pure functions. A volume is in memory, and empty once no container has it. So before a phase begins, the next container that will
have each of its volumes is started; and a container whose run has ended is kept until that one is there (``docs/pipelines.md``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from jobmanager.model.phase import Phase
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import Outcome
from jobmanager.results.verdict import Verdict

_STARTED_AHEAD = 2
OVER = "the job was over before"
KILLED = "the job was killed before"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCourse:
    """What has happened to a job so far, as far as the choice of its next phase depends on it."""

    has_failed: bool = False  # a phase has stopped it
    is_killed: bool = False  # on request: only what always runs is still run
    is_over: bool = False  # nothing more is run: its host is lost, or the manager is closed


def stops_the_job(phase: Phase, verdict: Verdict) -> bool:
    """Whether the job has this phase's outcome. A phase that runs after a failure decides nothing, nor does one that may fail."""
    if phase.when != "on_success" or verdict.outcome is Outcome.SUCCESS:
        return False
    return not phase.allow_failure or verdict.outcome in (Outcome.CRASH, Outcome.KILLED)


def reason_not_to_run(phase: Phase, course: JobCourse) -> str:
    """Why a phase is not run, in words; empty when it is."""
    if course.is_over:
        return OVER
    if phase.when == "always":
        return ""
    if course.is_killed:
        return KILLED
    if phase.when == "on_failure":
        return "" if course.has_failed else "no phase before it has failed"
    return "a phase before it has stopped the job" if course.has_failed else ""


def next_phase(phases: Sequence[Phase], after: int, course: JobCourse) -> int | None:
    """The number of the next phase that is run; None: none is."""
    return next(_following(phases, after, course), None)


def started_ahead(phases: Sequence[Phase], current: int, course: JobCourse) -> list[int]:
    """The phases whose containers are started while this one runs: the two that are next if all goes well.

    Two, as a short phase ends before the next container has started. And for each volume that may have content, the first later
    phase that has it: its container keeps the content, also when this phase's container is killed.
    """
    later = [number for number in range(current + 1, len(phases)) if can_still_run(phases[number], course)]
    ahead = set(islice(_following(phases, current, course), _STARTED_AHEAD))
    for volume in {name for phase in phases[: current + 1] for name in phase.volumes}:
        ahead.update([number for number in later if volume in phases[number].volumes][:1])
    return sorted(ahead)


def volumes_to_keep(phases: Sequence[Phase], current: int, course: JobCourse) -> frozenset[str]:
    """The volumes that phases after this one may still need."""
    later = (phase for phase in phases[current + 1 :] if can_still_run(phase, course))
    return frozenset(volume for phase in later for volume in phase.volumes)


def spent_to_release(spent: Sequence[tuple[int, Collection[str]]], safe: Collection[str], to_keep: Collection[str]) -> list[int]:
    """Of containers whose runs have ended, in that order, those that are needed no more: their numbers.

    Each comes with the volumes that it has. ``safe``: volumes that a container has which waits for its run.
    """
    released, kept = [], set(safe)
    for number, volumes in reversed(spent):
        needed = {*volumes} & {*to_keep} - kept
        if needed:
            kept |= needed
        else:
            released.append(number)
    return released


def allowed_s(pipeline: Pipeline, number: int, elapsed_s: float) -> float:
    """The seconds that a phase may take, when so many have passed since the first began; at most 0: no time is left for it.

    What always runs has its own limit in full: that is what the phases before it could not use.
    """
    phase = pipeline.phases[number]
    if pipeline.wall_time_s is None or phase.when == "always":
        return phase.task.wall_s
    return min(phase.task.wall_s, pipeline.wall_time_s - elapsed_s - pipeline.always_reserve_s(number))


def can_still_run(phase: Phase, course: JobCourse) -> bool:
    """Whether a later phase may yet be run, by what happens from now on."""
    if course.is_over:
        return False
    if phase.when == "always":
        return True
    return not course.is_killed and (phase.when == "on_failure" or not course.has_failed)


def _following(phases: Sequence[Phase], after: int, course: JobCourse) -> Iterator[int]:
    """The numbers of the later phases that are run if nothing more happens to the job."""
    return (number for number in range(after + 1, len(phases)) if not reason_not_to_run(phases[number], course))
