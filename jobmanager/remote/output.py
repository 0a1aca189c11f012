"""What a job prints, on its way from its node to the client that follows it: the stream ``out:R``.

The client sends its job's node the command ``follow``. The node reads its own manager's ``follow`` and puts each record there as
a signed ``OutputPiece``. While ``MAX_UNREAD`` pieces lie there it waits, and looks again after some time: the client removes
what it has read. So a job that prints without end costs Redis a few MiB at most. A client that asks again, as Redis has lost
data, gets it from the beginning once more; pieces say where they belong, so those that are known count once.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from redis import Redis

from jobmanager.live_output.run_buffer import Output
from jobmanager.remote.keys import Keys
from jobmanager.remote.records import BadMessage, Message

MAX_UNREAD = 32  # pieces
MAX_ENVELOPE_BYTES = 128 * 1024  # of a piece: 64 KiB of data as base64, signed
_MAX_STREAM = 256  # pieces, whoever writes
_TTL_S = 60  # after the last piece, for one that nobody reads
_MAX_DATA_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPiece(Message):
    """One ``Output`` record of a job, and where it belongs."""

    kind_of_signature: ClassVar[str] = "output"

    r: str
    token: str  # of the placement that runs it
    phase: str = ""
    stderr: int = 0  # 1: standard error
    at: int = 0  # how many bytes of this stream of this phase came before ``data``, those that were missed included
    missed_bytes: int = 0  # of these, just before ``data``, how many the node did not get
    data: str = ""  # base64
    to_submitter: str = ""  # what the grader tells the submitter, after ``at`` other texts; there is no data then
    starts_again: int = 0  # 1: what came before does not count
    ended: int = 0  # 1: nothing more will come

    @property
    def content(self) -> bytes:
        """What was printed.

        Raises:
            BadMessage: it is no base64, or too long.
        """
        try:
            content = base64.b64decode(self.data, validate=True)
        except (binascii.Error, ValueError):
            raise BadMessage("OutputPiece.data is no base64") from None
        if len(content) > _MAX_DATA_BYTES:
            raise BadMessage("OutputPiece.data is too long")
        return content


def output_pieces(r: str, token: str, outputs: Iterable[Output]) -> Iterator[OutputPiece]:
    """The pieces that a node sends for what its manager's ``follow`` gives; the last one says that it has ended."""
    seen: dict[tuple[str, bool], int] = {}
    told: dict[str, int] = {}
    for output in outputs:
        if output.starts_again:
            seen.clear()
            told.clear()
            yield OutputPiece(r=r, token=token, starts_again=1)
            continue
        if output.to_submitter:
            at = told.get(output.phase, 0)
            told[output.phase] = at + 1
            yield OutputPiece(r=r, token=token, phase=output.phase, at=at, to_submitter=output.to_submitter)
            continue
        stream = (output.phase, output.stderr)
        at = seen.get(stream, 0) + output.missed_bytes
        seen[stream] = at + len(output.data)
        yield OutputPiece(
            r=r,
            token=token,
            phase=output.phase,
            stderr=int(output.stderr),
            at=at,
            missed_bytes=output.missed_bytes,
            data=base64.b64encode(output.data).decode(),
        )
    yield OutputPiece(r=r, token=token, ended=1)


class JobOutputStream:
    """The stream of one job. Raises redis' own errors."""

    def __init__(self, redis: Redis, keys: Keys, r: str) -> None:
        self._redis = redis
        self._key = keys.output(r)

    def put(self, envelope: str) -> int:
        """Add a signed piece; how many lie there now."""
        with self._redis.pipeline() as together:
            together.xadd(self._key, {"e": envelope}, maxlen=_MAX_STREAM, approximate=True)
            together.expire(self._key, _TTL_S)
            together.xlen(self._key)
            return int(together.execute()[-1])

    def unread(self) -> int:
        """How many pieces lie there."""
        return int(self._redis.xlen(self._key))

    def forget(self, entries: Iterable[str]) -> None:
        """Remove what was read."""
        if names := list(entries):
            self._redis.xdel(self._key, *names)

    def remove(self) -> None:
        """Nobody follows the job any more."""
        self._redis.delete(self._key)
