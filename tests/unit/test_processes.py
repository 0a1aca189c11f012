"""The first and last lines of a child process."""

from __future__ import annotations

import os

from jobmanager.engine import processes


def test_a_parent_whose_pipes_are_closed_a_moment_before_it_is_gone_is_found_to_end(monkeypatch):
    parents = iter([7, 7, 7])
    monkeypatch.setattr(os, "getppid", lambda: next(parents, 1))

    assert processes._is_ending(7)


def test_a_parent_that_has_only_closed_its_pipe_is_not_taken_for_one_that_ends(monkeypatch):
    monkeypatch.setattr(processes, "_ENDING_S", 0.05)

    assert not processes._is_ending(os.getppid())
