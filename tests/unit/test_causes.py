"""The table of outcomes is closed: whatever a verdict can be or show has a test on a real engine, or says which test it has."""

from __future__ import annotations

import ast

from jobmanager import Outcome
from tests.support.causes import CAUSES, SOURCES
from tests.unit.test_docs import TOP, evidence_kinds

OUTCOMES = "integration/test_outcomes.py"
HOSTS = "integration/test_hosts.py"
DAEMONS = "integration/test_daemon_faults.py"
RERUNS = "integration/test_reruns.py"
SEQUENCE = "unit/test_run_sequence.py"
ELSEWHERE = {
    "phase_not_started": (SEQUENCE, "test_a_phase_whose_host_did_not_answer_when_it_was_to_begin_is_a_crash"),
    "secret_missing": (SEQUENCE, "test_a_phase_whose_secret_is_missing_by_now_is_a_crash"),
    "volumes_lost": (SEQUENCE, "test_a_phase_whose_volumes_were_lost_is_a_crash_when_its_turn_comes"),
    "oom_killed": (OUTCOMES, "test_a_pid_1_that_the_kernel_killed_for_memory_is_never_taken_for_the_programs_end"),
    "start_refused": (
        "integration/test_external_interference.py",
        "test_a_name_that_a_stranger_has_taken_is_an_error_and_the_strangers_container_stays",
    ),
    "lease_expired": ("unit/test_verdict.py", "test_each_line_has_its_outcome_and_names_its_proof"),
    "host_lost": (OUTCOMES, "test_a_host_that_does_not_come_back_in_time_is_a_crash_that_keeps_what_was_printed"),
    "queue_timeout": (OUTCOMES, "test_a_job_that_waited_longer_than_it_may_is_a_crash"),
    "no_host": (HOSTS, "test_an_image_that_vanished_unnoticed_is_one_clear_crash"),
    "archive": ("integration/test_limits.py", "test_collected_files_are_cut_at_a_whole_file"),
    "not_collected": ("integration/test_files_and_output.py", "test_what_was_to_be_collected_and_did_not_come_is_told"),
    "ended_during_outage": (DAEMONS, "test_programs_that_a_killed_daemon_took_along_are_crashes_never_failures"),
    "outage_s": (DAEMONS, "test_exit_codes_are_true_when_a_killed_daemon_with_live_restore_comes_back"),
    "reruns": (RERUNS, "test_a_task_with_retries_runs_again_and_the_result_is_that_of_the_last_run"),
    "cut_off": (RERUNS, "test_a_task_with_retries_runs_again_and_the_result_is_that_of_the_last_run"),
    "superseded_by": (
        "integration/test_queue.py",
        "test_a_superseded_job_ends_once_as_killed_and_names_the_newer_one_which_has_its_turn",
    ),
    "link_broke": (
        "integration/test_student_faults.py",
        "test_a_grader_whose_waiter_dies_is_cut_off_and_never_gives_a_verdict",
    ),
    "waiter_died": (
        "integration/test_the_callers_own_code.py",
        "test_a_job_that_its_waiters_die_of_is_a_crash_and_its_neighbours_keep_their_verdicts",
    ),
    # what no real fault brings about at a known moment
    "protocol_error": ("unit/test_students.py", "test_a_supervisor_that_makes_no_sense_ends_its_job_as_error"),
    "infrastructure_error": ("unit/test_verdict.py", "test_each_line_has_its_outcome_and_names_its_proof"),
    "submitter_died": ("unit/test_ledger.py", "test_a_job_over_which_submitters_keep_dying_is_a_crash"),
    "overdue": ("unit/test_ledger.py", "test_no_word_long_past_every_limit_is_a_crash_and_not_before"),
    "given_up": ("unit/test_ledger.py", "test_closing_kills_every_job_in_every_state_with_one_result_each"),
}


def test_every_outcome_has_a_cause() -> None:
    assert {cause.outcome for cause in CAUSES} == set(Outcome)


def test_every_kind_of_evidence_has_a_cause_or_a_test_of_its_own() -> None:
    caused = {kind for cause in CAUSES for kind in cause.proof}
    assert not caused & ELSEWHERE.keys()
    assert caused | ELSEWHERE.keys() == evidence_kinds()
    assert caused <= SOURCES.keys()


def test_the_tests_that_are_named_exist() -> None:
    for path, name in ELSEWHERE.values():
        module = ast.parse((TOP / "tests" / path).read_text())
        assert name in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}


def test_every_cause_has_a_name_of_its_own() -> None:
    assert len({cause.name for cause in CAUSES}) == len(CAUSES)
