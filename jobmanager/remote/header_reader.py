"""Headers of jobs, as the dispatcher reads them: verified, then a job of its ledger."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import lru_cache

from jobmanager.remote.records import SCHEMA, BadMessage, JobHeader, Needs
from jobmanager.remote.signing import BadSignature, Signer
from jobmanager.remote.store import JobFields
from jobmanager.scheduling.cluster import ClusterJob
from jobmanager.scheduling.waiting_queue import Requirements, rounded_up

_MAX_BYTES = 64 * 1024  # of an envelope
_MAX_S = 10 * 365 * 86400.0  # of any duration


class UnreadableHeader(Exception):
    """A header that is signed by one of us, and that this version cannot read."""


class ExpiredHeader(Exception):
    """A header that is signed by one of us, for a job that can no longer be wanted. ``job``: whose it was."""

    def __init__(self, job: ClusterJob) -> None:
        super().__init__("it is too old: it was sent long ago, or it is a replay")
        self.job = job


class HeaderReader:
    """Reads headers of one namespace."""

    def __init__(self, signer: Signer, wall_clock: Callable[[], float] = time.time) -> None:
        self._signer = signer
        self._wall_clock = wall_clock

    def read(self, r: str, fields: JobFields) -> ClusterJob:
        """The job whose record this is.

        Raises:
            BadSignature: nobody with our key has sent it, or not as this job.
            UnreadableHeader: it is for another version.
            ExpiredHeader: it waits, and its time is long over.
        """
        text = self._signer.open(JobHeader.kind_of_signature, fields.header, _MAX_BYTES)
        try:
            header = JobHeader.from_json(text)
            job = _job(header)
        except (BadMessage, ValueError, OverflowError) as error:
            raise UnreadableHeader(str(error)) from None
        if header.r != r:
            raise BadSignature("it is the header of another job")
        if header.schema > SCHEMA:
            raise UnreadableHeader(f"it has form {header.schema}, and this version reads up to {SCHEMA}")
        if fields.state == "waiting" and self._wall_clock() > header.not_after_s:
            raise ExpiredHeader(job)
        return job


def _job(header: JobHeader) -> ClusterJob:
    for seconds in (header.needs.wall_s, header.queue_timeout_s):
        if not 0 < seconds <= _MAX_S:
            raise ValueError(f"a duration of {seconds:g} s")
    return ClusterJob(
        key=header.r,
        job_id=header.job_id,
        client=header.client,
        launcher=header.launcher,
        priority=header.priority,
        title=sys.intern(header.title),
        job_class=sys.intern(header.job_class),
        requirements=_requirements(header.needs),
        wall_s=header.needs.wall_s,
        retries=header.retries,
        supersede_key=header.supersede_key,
        queue_timeout_s=header.queue_timeout_s,
    )


@lru_cache(maxsize=10_000)
def _requirements(needs: Needs) -> Requirements:
    if needs.memory_mib < 0 or needs.cpus < 0:
        raise ValueError("needs that are negative")
    return Requirements(
        environment=needs.environment,
        memory_mib=needs.memory_mib,
        cpus=needs.cpus,
        ends_within_s=rounded_up(needs.wall_s),
        other_environments=frozenset(needs.other_environments),
        networks=frozenset(needs.networks),
    )
