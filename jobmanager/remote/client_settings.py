"""What a RemoteClient was given, checked: one record."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobmanager.errors import InvalidValue
from jobmanager.model import _checks
from jobmanager.remote.blobs import BlobStore
from jobmanager.remote.connect import redis_url
from jobmanager.remote.keys import ANONYMOUS, checked_name
from jobmanager.remote.signing import Keyring
from jobmanager.remote.timeouts import ClusterTimeouts

_MAX_CALLBACK_THREADS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """Settings of one client; ``RemoteClient`` says what each means."""

    url: str = field(repr=False)  # it may hold a password
    keyring: Keyring
    namespace: str
    client_id: str | None
    max_waiting_jobs: int
    queue_timeout_s: float
    callback_threads: int
    blobs: BlobStore | None
    timeouts: ClusterTimeouts

    @classmethod
    def checked(
        cls,
        url: str | None,
        *,
        key: Keyring | bytes | str | None,
        namespace: str,
        client_id: str | None,
        max_waiting_jobs: int,
        queue_timeout_s: float,
        callback_threads: int,
        blobs: BlobStore | None,
        timeouts: ClusterTimeouts,
    ) -> ClientSettings:
        """The settings that these arguments stand for. Raises InvalidValue where one makes no sense."""
        if not isinstance(timeouts, ClusterTimeouts):
            raise InvalidValue(f"timeouts must be a ClusterTimeouts, not {timeouts!r}")
        if blobs is not None and not (callable(getattr(blobs, "put", None)) and callable(getattr(blobs, "get", None))):
            raise InvalidValue(f"blobs must have put and get, as FolderStore has, not {blobs!r}")
        if client_id is not None and checked_name("client_id", client_id).startswith(ANONYMOUS):
            raise InvalidValue(f"client_id must not begin with {ANONYMOUS!r}: clients without one are called so")
        queue_timeout_s = _checks.timeout("queue_timeout_s", queue_timeout_s)
        if queue_timeout_s > timeouts.result_ttl_s:
            raise InvalidValue(f"queue_timeout_s must not be more than result_ttl_s ({timeouts.result_ttl_s:g}), when jobs expire")
        return cls(
            url=redis_url(url),
            keyring=Keyring.from_environment(key),
            namespace=checked_name("namespace", namespace),
            client_id=client_id,
            max_waiting_jobs=_checks.positive_int("max_waiting_jobs", max_waiting_jobs),
            queue_timeout_s=queue_timeout_s,
            callback_threads=_checks.positive_int("callback_threads", callback_threads, at_most=_MAX_CALLBACK_THREADS),
            blobs=blobs,
            timeouts=timeouts,
        )
