"""Many machines: the same client over Redis and RQ (``docs/many-machines.md``). Needs the extra ``rq``."""

from __future__ import annotations

from jobmanager.remote.blobs import FolderStore
from jobmanager.remote.client import RemoteClient
from jobmanager.remote.signing import Keyring, SigningKey
from jobmanager.remote.timeouts import ClusterTimeouts

__all__ = ["ClusterTimeouts", "FolderStore", "Keyring", "RemoteClient", "SigningKey"]
