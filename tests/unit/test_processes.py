"""The first and last lines of a child process."""

from __future__ import annotations

import logging
import os
import threading

import pytest

from jobmanager.engine import processes


def test_a_parent_whose_pipes_are_closed_a_moment_before_it_is_gone_is_found_to_end(monkeypatch):
    parents = iter([7, 7, 7])
    monkeypatch.setattr(os, "getppid", lambda: next(parents, 1))

    assert processes._is_ending(7)


def test_a_parent_that_has_only_closed_its_pipe_is_not_taken_for_one_that_ends(monkeypatch):
    monkeypatch.setattr(processes, "_ENDING_S", 0.05)

    assert not processes._is_ending(os.getppid())


def test_what_a_child_logged_last_is_out_before_it_ends_and_a_record_that_cannot_be_sent_costs_itself():
    sent, flushed = [], []
    handler = processes._PipeHandler(sent.append, lambda: flushed.append(len(sent)))
    handler.emit(logging.makeLogRecord({"msg": "%d and %d", "args": (1,)}))
    handler.emit(logging.makeLogRecord({"msg": "last"}))
    handler.flush()

    assert [line.record.getMessage() for line in sent] == ["last"]
    assert flushed == [1]


def test_a_child_that_can_start_no_thread_to_tidy_up_ends_with_its_parent_all_the_same(monkeypatch):
    def none_left(_):
        raise RuntimeError("can't start new thread")

    left = []
    monkeypatch.setattr(processes, "_wait_for_end_of", lambda parent: None)
    monkeypatch.setattr(os, "_exit", left.append)
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(threading.Thread, "start", none_left)
        processes._leave_with(1, lambda: None)

    assert left == [0]
