"""Many machines: the same client over Redis and RQ (``docs/many-machines.md``). Needs the extra ``rq``."""

from __future__ import annotations

from jobmanager.model._extras import needs_extra

try:
    from jobmanager.remote.blobs import FolderStore
    from jobmanager.remote.client import RemoteClient
    from jobmanager.remote.signing import Keyring, SigningKey
    from jobmanager.remote.timeouts import ClusterTimeouts
except ModuleNotFoundError as missing:
    if missing.name not in ("redis", "rq"):
        raise
    raise ModuleNotFoundError(needs_extra("jobmanager.remote", "rq", missing.name), name=missing.name) from None

__all__ = ["ClusterTimeouts", "FolderStore", "Keyring", "RemoteClient", "SigningKey"]
