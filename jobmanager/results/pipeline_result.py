"""The result of a pipeline: that of the phase that decided, and beside it what became of each phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from jobmanager.model.job import Request
from jobmanager.model.phase import Phase
from jobmanager.model.result import Evidence, JobResult, Outcome, PhaseResult, Step
from jobmanager.results.case_results import all_cases
from jobmanager.results.facts import NO_PROGRESS, CasesProgress, RunFacts
from jobmanager.results.merge import apply_result_file, merged_result
from jobmanager.results.run_result import run_result
from jobmanager.results.test_reports import parsed_tests
from jobmanager.results.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseReport:
    """What became of one phase, as the ledger has it."""

    verdict: Verdict | None = None  # None: it was not run
    facts: RunFacts | None = None  # what was seen of it, if anything was
    progress: CasesProgress = NO_PROGRESS  # of its cases
    why_not_run: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds by step


def merged_pipeline_result(
    request: Request,
    verdict: Verdict,
    reports: Sequence[PhaseReport],
    *,
    decided_by: int | None,
    host: str | None,
    timings: Mapping[str, float],
    steps: tuple[Step, ...],
) -> JobResult:
    """The one result of a job that is a pipeline.

    Its output, exit code, archive and measurements are those of the phase that stopped the job; of a success, of the last phase
    that could have stopped it, and succeeded. If none succeeded, it is the last one that could, and its result file says
    nothing of the job. ``decided_by`` is the number of the phase that stopped the job; None: none did.
    """
    phases = [_phase(run.phase) for run in request.runs]
    read = [parsed_tests(report.facts.collected.test_files if report.facts is not None else {}) for report in reports]
    results = [_phase_result(phase, report, tests) for phase, report, (tests, _) in zip(phases, reports, read, strict=True)]
    problems = [
        Evidence(kind="test_report", value=problem, source=f"phase {phase.name!r}")
        for phase, report, (_, found) in zip(phases, reports, read, strict=True)
        for problem in (*_lack_of_reports(phase, report), *found)
    ]
    shown = _shown(phases, reports, decided_by)
    shown_request = replace(request, runs=(request.runs[shown],))
    report = reports[shown]
    own, decided = report.verdict, verdict
    if own is not None and own.outcome is verdict.outcome is Outcome.SUCCESS:
        decided = replace(own, evidence=(*own.evidence, *verdict.evidence))
    merged = merged_result(
        shown_request,
        decided,
        report.facts,
        has_file=decided_by is not None or _has_succeeded(report),
        progress=report.progress,
        host=host,
        timings=timings,
        steps=steps,
    )
    return replace(
        merged,
        text=_named(merged, verdict, phases[shown].name),
        evidence=_without_doubles((*merged.evidence, *_beside(phases, reports, decided_by), *problems)),
        tests={**_tests(phases, results), **merged.tests},
        phases=tuple(results),
    )


def _phase(phase: Phase | None) -> Phase:
    assert phase is not None, "each run of a pipeline is a phase's"
    return phase


def _shown(phases: Sequence[Phase], reports: Sequence[PhaseReport], decided_by: int | None) -> int:
    """The number of the phase whose run the result shows."""
    if decided_by is not None:
        return decided_by
    seen = [number for number, report in enumerate(reports) if report.verdict is not None]
    deciding = [number for number in seen if phases[number].when == "on_success"]
    succeeded = [number for number in deciding if _has_succeeded(reports[number])]
    return max(succeeded or deciding or [0])


def _has_succeeded(report: PhaseReport) -> bool:
    return report.verdict is not None and report.verdict.outcome is Outcome.SUCCESS


def _named(merged: JobResult, verdict: Verdict, name: str) -> str:
    """The text, with the name of the phase that stopped the job where a result file has another text."""
    if verdict.outcome is Outcome.SUCCESS or verdict.text in merged.text:
        return merged.text
    return f"phase {name!r}: {merged.text}"


def _phase_result(phase: Phase, report: PhaseReport, tests: Mapping[str, object]) -> PhaseResult:
    verdict = report.verdict
    if verdict is None:
        return PhaseResult(name=phase.name, outcome=None, text=report.why_not_run)
    file = apply_result_file(phase.task, verdict, report.facts)[1]
    cases = all_cases(phase.task, report.progress, report.facts) if phase.task.cases else ()
    return PhaseResult(
        name=phase.name,
        outcome=verdict.outcome,
        text=file.text or verdict.text,
        run=None if report.facts is None else run_result(verdict, report.facts),
        tests=dict(tests),
        build=report.progress.build,
        cases=cases,
        timings=dict(report.timings),
    )


def _lack_of_reports(phase: Phase, report: PhaseReport) -> list[str]:
    """Why test reports of a phase may be missing."""
    error = report.facts.collected.error if report.facts is not None and phase.tests else ""
    return [error] if error else []


def _tests(phases: Sequence[Phase], results: Sequence[PhaseResult]) -> dict[str, object]:
    """The tests of all phases' reports. One whose name a later phase has, too, is named after its phase.

    So no phase can put a test in the place of one of a later phase's.
    """
    tests: dict[str, object] = {}
    for number, (phase, result) in enumerate(zip(phases, results, strict=True)):
        later = {name for each in results[number + 1 :] for name in each.tests}
        tests.update({f"{phase.name}: {name}" if name in later else name: test for name, test in result.tests.items()})
    return tests


def _beside(phases: Sequence[Phase], reports: Sequence[PhaseReport], decided_by: int | None) -> list[Evidence]:
    """Phases that did not succeed, and decided nothing."""
    return [
        Evidence(kind="phase_failed", value=f"{report.verdict.outcome}: {report.verdict.text}", source=f"phase {phase.name!r}")
        for number, (phase, report) in enumerate(zip(phases, reports, strict=True))
        if report.verdict is not None and report.verdict.outcome is not Outcome.SUCCESS and number != decided_by
    ]


def _without_doubles(evidence: Sequence[Evidence]) -> tuple[Evidence, ...]:
    return tuple(dict.fromkeys(evidence))
