"""The log thread: whatever a log handler of the caller's does, it costs the library nothing but its own records."""

from __future__ import annotations

import logging
import os
import sys
import threading

import pytest

from jobmanager.threads import log_thread
from jobmanager.threads.log_thread import drain, forward, logger
from tests.conftest import eventually, our_threads


class Keeping(logging.Handler):
    """Keeps records, and the names of the threads that brought them."""

    def __init__(self):
        super().__init__()
        self.records, self.threads = [], set()

    def emit(self, record):
        self.records.append(record)
        self.threads.add(threading.current_thread().name)

    @property
    def said(self):
        return [record.getMessage() for record in self.records]


@pytest.fixture
def attached(monkeypatch):
    """Attaches handlers to the logger ``jobmanager``, and takes them away again."""
    theirs = logging.getLogger("jobmanager")
    monkeypatch.setattr(theirs, "handlers", [])
    monkeypatch.setattr(theirs, "propagate", False)
    monkeypatch.setattr(theirs, "level", logging.INFO)
    theirs.manager._clear_cache()

    def attach(handler):
        theirs.addHandler(handler)
        return handler

    yield attach
    drain(10)
    monkeypatch.undo()
    theirs.manager._clear_cache()


def test_records_come_in_their_order_from_a_thread_that_is_gone_when_they_have(attached):
    kept, log = attached(Keeping()), logger("jobmanager.x")
    for number in range(1000):
        log.info("%d", number)

    assert drain(10)
    assert kept.said == [str(number) for number in range(1000)]
    assert kept.threads == {"jobmanager-log"}
    assert our_threads() == []


def test_a_record_says_where_it_was_made_and_what_had_been_raised(attached):
    kept, log = attached(Keeping()), logger("jobmanager.x")
    try:
        raise ValueError("mine")
    except ValueError:
        log.exception("failed", extra={"job_id": "j"})
    log.warning("bad")
    drain(10)

    assert [(record.funcName, record.filename, record.name) for record in kept.records] == [
        ("test_a_record_says_where_it_was_made_and_what_had_been_raised", os.path.basename(__file__), "jobmanager.x")
    ] * 2
    assert (kept.records[0].job_id, kept.records[0].exc_info[1].args) == ("j", ("mine",))
    assert kept.records[0].threadName == threading.current_thread().name


def test_levels_and_filters_are_those_of_the_callers_own_logger(attached):
    kept, log = attached(Keeping()), logger("jobmanager.x")
    log.debug("hidden")
    logging.getLogger("jobmanager").setLevel(logging.DEBUG)
    log.debug("shown")
    theirs = logging.getLogger("jobmanager.x")
    theirs.addFilter(lambda record: record.msg != "filtered")
    log.warning("filtered")
    drain(10)
    theirs.filters.clear()

    assert kept.said == ["shown"]


class Raising(logging.Handler):
    def __init__(self, error):
        super().__init__()
        self._error = error

    def emit(self, record):
        raise self._error


@pytest.mark.parametrize("error", [RuntimeError("log server away"), SystemExit(1), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_a_handler_that_raises_anything_costs_nothing_and_the_next_record_comes(attached, capsys, error):
    raising, log = attached(Raising(error)), logger("jobmanager.x")
    log.error("one"), log.error("two")
    assert drain(10)
    logging.getLogger("jobmanager").removeHandler(raising)
    kept = attached(Keeping())
    log.error("three")
    assert drain(10)

    assert kept.said == ["three"]
    assert capsys.readouterr().err.count(type(error).__name__) >= 2  # as logging tells of its own handlers' errors


def test_a_closed_standard_error_costs_nothing_where_nothing_else_listens(attached, monkeypatch):
    monkeypatch.setattr(logging.getLogger("jobmanager"), "propagate", False)
    log = logger("jobmanager.x")
    with open(os.devnull, "w") as closed:
        pass
    monkeypatch.setattr(sys, "stderr", closed)
    log.error("to Python's last resort")
    assert drain(10)

    monkeypatch.setattr(sys, "stderr", None)
    attached(Raising(ValueError()))
    log.error("to nobody")
    assert drain(10)


def test_a_handler_that_blocks_holds_up_nobody_and_what_waits_for_it_is_bounded_and_told(attached, monkeypatch):
    monkeypatch.setattr(log_thread, "_MAX_WAITING", 5)
    gate, begun = threading.Event(), threading.Event()

    class Blocking(Keeping):
        def emit(self, record):
            begun.set()
            gate.wait(30)
            super().emit(record)

    kept, log = attached(Blocking()), logger("jobmanager.x")
    log.info("0")
    assert begun.wait(10)
    for number in range(1, 10):
        log.info("%d", number)  # returns at once
    assert not drain(0.01)
    gate.set()
    assert drain(10)

    assert kept.said == [*"012345", "the log handlers are too slow: 4 records were dropped"]


def test_a_handler_that_closes_or_logs_itself_does_not_wait_for_itself(attached):
    log = logger("jobmanager.x")

    class Draining(Keeping):
        def emit(self, record):
            super().emit(record)
            if record.msg == "outer":
                log.info("inner")
                drain(60)

    kept = attached(Draining())
    log.info("outer")
    assert drain(10)

    assert kept.said == ["outer", "inner"]


@pytest.mark.case(53)
def test_where_no_thread_can_be_started_records_wait_and_who_drains_hands_them_on(attached, monkeypatch):
    kept, log = attached(Keeping()), logger("jobmanager.x")

    def no_more(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    log.info("one"), log.info("two")
    assert kept.said == []
    assert drain(10)

    assert kept.said == ["one", "two"]


def test_a_record_factory_of_the_callers_that_raises_costs_no_record(attached):
    kept, log, theirs = attached(Keeping()), logger("jobmanager.x"), logging.getLogRecordFactory()

    def broken(*args, **kwargs):
        raise LookupError

    logging.setLogRecordFactory(broken)
    try:
        log.error("still %s", "there")
    finally:
        logging.setLogRecordFactory(theirs)
    drain(10)

    assert kept.said == ["still there"]


def test_an_argument_that_cannot_be_written_out_is_met_in_the_log_thread_only(attached, capsys):
    class Odd:
        def __repr__(self):
            raise LookupError("no words")

    attached(logging.StreamHandler())
    logger("jobmanager.x").error("hook %r failed", Odd())
    assert drain(10)

    assert "no words" in capsys.readouterr().err


def test_a_childs_record_is_handed_on_if_its_level_is_wanted(attached):
    kept = attached(Keeping())
    for level in (logging.DEBUG, logging.WARNING):
        forward(logging.makeLogRecord({"name": "jobmanager._waiter", "msg": "said", "levelno": level}))
    drain(10)

    assert [record.levelno for record in kept.records] == [logging.WARNING]


def in_a_forked_child(act):
    """The exit code of a forked child that does this, and only this."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_after_a_fork_the_child_tells_its_own_records_and_none_of_its_parents(attached):
    gate, begun = threading.Event(), threading.Event()

    class Blocking(Keeping):
        def emit(self, record):
            if record.msg == "block":
                begun.set()
                gate.wait(30)
            super().emit(record)

    kept, log = attached(Blocking()), logger("jobmanager.x")
    log.info("block"), log.info("the parent's")
    assert begun.wait(10)

    def in_child():
        kept.createLock()  # what logging itself does after a fork, for handlers that it knows
        log.info("the child's")
        assert drain(10)
        assert kept.said == ["the child's"]

    assert in_a_forked_child(in_child) == 0
    gate.set()
    assert drain(10)
    assert kept.said == ["block", "the parent's"]


def test_a_child_that_a_handler_forks_hands_nothing_on_a_second_time(attached):
    read, write = os.pipe()
    log, pids = logger("jobmanager.x"), []

    class Forking(logging.Handler):
        def emit(self, record):
            os.write(write, f"{record.getMessage()} ".encode())
            if record.msg == "fork" and (pid := os.fork()) != 0:
                pids.append(pid)

    attached(Forking())
    log.info("fork"), log.info("next")
    assert drain(10)

    eventually(lambda: os.waitpid(pids[0], os.WNOHANG) != (0, 0), what="the child has ended")
    os.close(write)
    with open(read) as told:
        assert told.read() == "fork next "
