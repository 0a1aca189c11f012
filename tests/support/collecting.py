"""Drives ``collecting`` as a monitor does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from jobmanager.ipc.messages import MonitorContainer
from jobmanager.results.facts import Collected
from jobmanager.runner.frames import Entries, Fetch, ListFolder, Piece
from jobmanager.watching.collect import Working, collecting

Answerer = Callable[[ListFolder | Fetch], Iterable[Entries | Piece]]


def collected(job: MonitorContainer, answer: Answerer) -> Collected:
    """What comes back. ``answer`` gives the messages for a request; those that nobody waits for are not taken from it."""
    requests = collecting(job)
    messages: Iterator[Entries | Piece] = iter(())
    try:
        due = next(requests)
        while True:
            if isinstance(due, (ListFolder, Fetch)):
                messages = iter(answer(due))
            message = None if isinstance(due, Working) else next(messages, None)
            assert message is not None or isinstance(due, Working), "it waits for more than the answer has"
            due = requests.send(message)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
