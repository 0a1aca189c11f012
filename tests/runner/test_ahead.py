"""The next run, sent while one is going on: it begins as soon as that is over, without a word from the waiter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobmanager.runner.frames import (
    Clear,
    Cleared,
    DownMessage,
    Ended,
    Fault,
    Input,
    InputFrom,
    Kill,
    Put,
    RefusalReason,
    Started,
    StartRun,
)
from tests.support.bare_runner import BareRunner

PLACES = (b"/job", b"/tmp", b"/dev/shm")


@pytest.fixture
def runner() -> Iterator[BareRunner]:
    with BareRunner() as bare:
        yield bare


def send(runner: BareRunner, *messages: DownMessage) -> None:
    for message in messages:
        runner.send(message)


def ahead(number: int, script: str, *, stdin: bytes = b"", files: dict[str, bytes] | None = None) -> list[DownMessage]:
    """All that the next case takes."""
    return [
        Clear(request=number, places=PLACES),
        *(
            Put(path=f"/job/{name}".encode(), mode=0o644, mtime_s=0, offset=0, last=True, data=content)
            for name, content in (files or {}).items()
        ),
        Input(run=number, offset=0, last=True, data=stdin),
        StartRun(run=number, argv=(b"sh", b"-c", script.encode()), cwd=b"/job", stdin=InputFrom.MEMORY),
    ]


def test_it_begins_when_the_one_before_is_over_and_finds_a_cleared_container(runner: BareRunner) -> None:
    first = runner.start(["sh", "-c", "touch /tmp/mark; sleep 0.3; cat"], stdin=b"one")
    send(runner, *ahead(first + 1, "ls /tmp; cat - file", stdin=b"two", files={"file": b" and its file"}))
    runner.last_run = first + 1
    assert runner.finish(first).stdout == b"one"
    assert runner.wait_for(Cleared).clean
    assert runner.finish(first + 1).stdout == b"two and its file"


def test_what_is_sent_at_once_with_the_run_before_does_not_take_its_input(runner: BareRunner) -> None:
    """Before the program of the first one has started, too."""
    for _ in range(20):
        first = runner.last_run + 1
        runner.last_run = first + 1
        send(runner, *ahead(first, "cat", stdin=b"one"), *ahead(first + 1, "cat", stdin=b"two"))
        assert (runner.finish(first).stdout, runner.finish(first + 1).stdout) == (b"one", b"two")


def test_a_new_session_forgets_it(runner: BareRunner) -> None:
    first = runner.start(["sleep", "0.5"])
    send(runner, *ahead(first + 1, "echo never"))
    runner.flush()
    runner.resume()
    assert runner.finish(first).ended.code == 0
    runner.last_run = first + 1
    send(runner, *ahead(first + 1, "echo sent again"))
    assert runner.finish(first + 1).stdout == b"sent again\n"


def test_one_that_is_killed_before_it_begins_is_refused_and_the_one_before_goes_on(runner: BareRunner) -> None:
    first = runner.start(["sh", "-c", "sleep 0.3; echo done"])
    runner.last_run = first + 1
    send(runner, *ahead(first + 1, "echo never"), Kill(run=first + 1))
    assert runner.finish(first).stdout == b"done\n"
    assert runner.finish(first + 1).refused.why is RefusalReason.KILLED_BEFORE
    assert runner.run(["echo", "fine"]).stdout == b"fine\n"


def test_after_a_container_that_cannot_be_cleared_it_is_refused(runner: BareRunner) -> None:
    first = runner.start(["sleep", "0.2"])
    runner.last_run = first + 1
    _, *rest = ahead(first + 1, "echo never")
    send(runner, Clear(request=1, places=(b"/job", b"/.jobmanager")), *rest)
    assert runner.finish(first).ended.code == 0
    assert runner.finish(first + 1).refused.why is RefusalReason.NOT_CLEAN


def test_only_one_run_is_begun_and_the_next_one_waits_for_its_end(runner: BareRunner) -> None:
    first = runner.start(["sleep", "0.2"])
    runner.last_run = first + 2
    send(runner, *ahead(first + 1, "sleep 0.2; echo second"), *ahead(first + 2, "echo third"))
    records = [runner.finish(first + number) for number in range(3)]
    assert [record.stdout for record in records] == [b"", b"second\n", b"third\n"]
    assert all(record.all_of(Started) and record.all_of(Ended) for record in records)


def test_more_than_fits_is_a_fault(runner: BareRunner) -> None:
    first = runner.start(["sleep", "60"])
    send(runner, *ahead(first + 1, "cat", stdin=bytes(70_000)))
    assert runner.wait_for(Fault).text == b"more for the next run than may be sent ahead"
    assert runner.exit_code() == 121
