"""The listing of all jobs that the leader writes while somebody reads it: ``get_job_queue_snapshot`` of every client.

It is signed as the kind ``snapshot``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from jobmanager.model.listings import RunningJob, WaitingJob
from jobmanager.remote.records import BadMessage
from jobmanager.scheduling.cluster import ClusterListing

KIND = "snapshot"  # of its signature
MAX_BYTES = 128 * 2**20  # of its envelope: a million jobs
_RUNNING = (str, str, str, str, float, float, str)
_WAITING = (str, str, str, str, float)


def snapshot_text(running: Iterable[ClusterListing], waiting: Iterable[ClusterListing]) -> str:
    """The text to sign."""
    lists = {
        "running": [
            (each.client, job.job_id, job.info, job.launcher, job.started_at, job.max_time, job.host)
            for each in running
            if isinstance(job := each.job, RunningJob)
        ],
        "waiting": [(each.client, each.job.job_id, each.job.info, each.job.launcher, each.job.max_time) for each in waiting],
    }
    return json.dumps(lists, separators=(",", ":"))


def read_snapshot(text: str, client: str) -> tuple[list[RunningJob], list[WaitingJob]]:
    """What a snapshot says, for one client.

    Raises:
        BadMessage: it is none.
    """
    try:
        data = json.loads(text)
        running, waiting = data["running"], data["waiting"]
    except (ValueError, RecursionError, TypeError, LookupError):
        raise BadMessage("it is no snapshot of the queue") from None
    return (
        [RunningJob(row[1], row[0] == client, *row[2:]) for row in _rows(running, _RUNNING)],
        [WaitingJob(row[1], row[0] == client, *row[2:]) for row in _rows(waiting, _WAITING)],
    )


def _rows(rows: Any, types: tuple[type, ...]) -> Iterable[list[Any]]:
    if not isinstance(rows, list):
        raise BadMessage("a list of the snapshot is none")
    for row in rows:
        if not isinstance(row, list) or len(row) != len(types) or not all(map(_fits, row, types)):
            raise BadMessage("a row of the snapshot makes no sense")
        yield row


def _fits(value: Any, type_: type) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) if type_ is float else isinstance(value, type_)
