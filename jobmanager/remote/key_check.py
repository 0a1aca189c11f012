"""Whether a process has the key of its cluster. The leader keeps a signed word in Redis: who cannot verify it has another key.

Without this a dispatcher with another key could be elected. It would believe no job of the others.
"""

from __future__ import annotations

from jobmanager.errors import InvalidValue
from jobmanager.remote.signing import BadSignature, Signer
from jobmanager.remote.store import ClusterStore

_KIND = "key"
_WORD = "the key of this cluster"
_MAX_BYTES = 4096
_TTL_S = 3600  # after which all keys may be other ones, when there was no leader meanwhile


def check_key(store: ClusterStore, signer: Signer) -> None:
    """Compare keys with the last leader's, if there was one within an hour.

    Raises:
        InvalidValue: they differ.
    """
    said = store.key_check()
    try:
        if said:
            signer.open(_KIND, said, _MAX_BYTES)
    except BadSignature as error:
        raise InvalidValue(
            f"the key is not the one of namespace {signer.namespace!r}: {error}. Compare the key files of all clients and workers."
            f" If all keys were changed at once, delete {store.keys.key_check} in Redis, or wait an hour"
        ) from None


def say_key(store: ClusterStore, signer: Signer) -> None:
    """The leader's word, with the key that it signs with."""
    store.say_key_check(signer.sign(_KIND, _WORD), for_s=_TTL_S)
