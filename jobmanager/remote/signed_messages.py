"""Records in signed envelopes, and back."""

from __future__ import annotations

from typing import TypeVar

from jobmanager.remote.records import Message
from jobmanager.remote.signing import Signer

_M = TypeVar("_M", bound=Message)


def signed(signer: Signer, message: Message) -> str:
    """The envelope of a record."""
    return signer.sign(message.kind_of_signature, message.to_json())


def opened(signer: Signer, kind: type[_M], envelope: str, at_most: int = 64 * 1024) -> _M:
    """The record in an envelope of at most so many bytes.

    Raises:
        BadSignature: nobody with our key has signed it, as this.
        BadMessage: it is not this record.
    """
    return kind.from_json(signer.open(kind.kind_of_signature, envelope, at_most))
