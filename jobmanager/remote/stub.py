"""What RQ's records of our jobs name as their function."""

from __future__ import annotations


def wrong_worker() -> None:
    """Is never called by our own workers.

    Raises:
        RuntimeError: a plain ``rq worker`` was started on our queue.
    """
    raise RuntimeError("this queue is jobmanager's: stop this worker, and start `jobmanager worker` instead")
