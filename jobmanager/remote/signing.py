"""Who may write to Redis is not believed for that: everything that travels is signed with a key that Redis never sees.

An envelope is JSON: ``{"v": 1, "kid": ..., "alg": "HS256", "text": ..., "mac": ...}``. The MAC is HMAC-SHA256 over the
kind of the text, the namespace and the exact text, so that what was signed as one thing in one place cannot be shown as
another. It says who made a text, not when: whoever opens one holds it against what cannot come twice (a job's R, a
placement's token, a command's nonce).
"""

from __future__ import annotations

import base64
import hmac
import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from jobmanager.errors import InvalidValue, JobManagerError

_LOG = logging.getLogger(__name__)
_KEY = "JOBMANAGER_KEY"
_KEY_FILE = "JOBMANAGER_KEY_FILE"
_HOW = (
    "(umask 077; python3 -c 'import secrets; print(secrets.token_hex(32))' > jobmanager.key), then give this file to every"
    f" client and worker: {_KEY_FILE}=/path/to/jobmanager.key"
)
_MIN_SECRET_BYTES = 32
_MAX_FILE_BYTES = 64 * 1024
_OTHERS = 0o027  # read or written by everybody, or written by the group
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MAC = re.compile(r"[0-9a-f]{64}")
_VERSION = 1
_SIGNED = "HS256"
_SEALED = "HS256-CTR"
_NONCE_BYTES = 24
_DIGEST_BYTES = 32
_MAX_SEALED_BYTES = 64 * 1024


class BadSignature(JobManagerError):
    """A text from Redis that nobody with our key has written, or not as this, or not here. The text says which."""


@dataclass(frozen=True, slots=True, eq=False)
class SigningKey:
    """One secret, which clients and workers share and Redis never sees.

    Raises:
        InvalidValue: the secret has fewer than 32 bytes, or the name cannot stand in a key file.
    """

    name: str  # for people, and no part of what is signed: the same secret may have another name elsewhere
    secret: bytes = field(repr=False)
    id: str = field(init=False)  # made from the secret: what an envelope names it by

    def __post_init__(self) -> None:
        if not isinstance(self.secret, bytes) or len(self.secret) < _MIN_SECRET_BYTES:
            raise InvalidValue(f"a key must have at least {_MIN_SECRET_BYTES} random bytes. Make one: {_HOW}")
        object.__setattr__(self, "id", self.derive("id").hex()[:16])
        if not isinstance(self.name, str) or (self.name and not _NAME.fullmatch(self.name)):
            raise InvalidValue("a key's name must be 1 to 64 letters, digits, '_', '-' or '.', or empty")

    def derive(self, *purpose: str) -> bytes:
        """A secret for one purpose: what is made with it tells nothing about the others."""
        return hmac.digest(self.secret, _framed("jobmanager", *purpose), "sha256")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled")


class Keyring:
    """The keys of a cluster. The first one signs; all are accepted, so that a key can be replaced while jobs run."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        """Raises InvalidValue: no key, or one of them twice."""
        self._keys = {key.id: key for key in keys}
        if not keys or len(self._keys) < len(keys):
            raise InvalidValue("a keyring needs at least one key, and each of them once")

    @classmethod
    def from_environment(
        cls,
        key: Keyring | bytes | str | None = None,
        key_file: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Keyring:
        """The keys that an argument names, or else the environment.

        Args:
            key: a keyring, the bytes of one key, or its hexadecimal digits; None: what ``JOBMANAGER_KEY`` holds.
            key_file: a file as ``parse`` reads it; None: the one that ``JOBMANAGER_KEY_FILE`` names.
            environ: None: ``os.environ``.

        Raises:
            InvalidValue: no key, two places with one, or none that can be used; the message says how to make one.
        """
        if key is None and key_file is None:
            environ = os.environ if environ is None else environ
            key, key_file = environ.get(_KEY) or None, environ.get(_KEY_FILE) or None
        if key is not None and key_file is not None:
            raise InvalidValue(f"a key and a key file are given: take one ({_KEY} or {_KEY_FILE}, key= or key_file=)")
        if key_file is not None:
            return cls.parse(_read_key_file(os.fspath(key_file)), "the key file")
        if key is None:
            raise InvalidValue(f"a cluster needs a key, since nothing that is unsigned is ever taken. Make one: {_HOW}")
        if isinstance(key, Keyring):
            return key
        if isinstance(key, str):
            return cls.parse(key, "the key")
        return cls([SigningKey("", key)])

    @classmethod
    def parse(cls, text: str, what: str = "the text") -> Keyring:
        """Read keys: one a line, as hexadecimal digits, with ``NAME:`` before them or not; ``#`` begins a comment.

        Raises:
            InvalidValue: a line is no key; the message has its number, and nothing of the line.
        """
        keys = []
        for number, line in enumerate(text.splitlines(), 1):
            name, _, digits = line.partition("#")[0].strip().rpartition(":")
            if not digits and not name:
                continue
            try:
                keys.append(SigningKey(name.strip(), bytes.fromhex(digits)))
            except ValueError:  # InvalidValue is one too
                raise InvalidValue(
                    f"{what}, line {number}: a key must be at least {2 * _MIN_SECRET_BYTES} hexadecimal digits, with or without"
                    f" NAME: before them. Make one: {_HOW}"
                ) from None
        if not keys:
            raise InvalidValue(f"{what} holds no key. Make one: {_HOW}")
        return cls(keys)

    def secret_text(self) -> str:
        """The keys themselves, as ``parse`` reads them. For a child process of ours, and for nothing that is kept or shown."""
        return "".join(f"{key.name}:{key.secret.hex()}\n" for key in self._keys.values())

    @property
    def first(self) -> SigningKey:
        """The key that signs."""
        return next(iter(self._keys.values()))

    def get(self, key_id: str) -> SigningKey | None:
        """The key of this id."""
        return self._keys.get(key_id)

    def signer(self, namespace: str) -> Signer:
        """What signs and checks in one namespace."""
        return Signer(self, namespace)

    def __repr__(self) -> str:
        shown = (f"{key.name} ({key.id})" if key.name else key.id for key in self._keys.values())
        return f"Keyring({', '.join(shown)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys are not pickled")


class Signer:
    """Signs and checks what travels in one namespace.

    ``kind`` says what a text is (``header``, ``placement``, ...): one that was signed as another kind is refused.
    """

    __slots__ = ("_keyring", "namespace")

    def __init__(self, keyring: Keyring, namespace: str) -> None:
        self._keyring = keyring
        self.namespace = namespace

    def sign(self, kind: str, text: str) -> str:
        """Put a text into a signed envelope."""
        key = self._keyring.first
        return _envelope(key, _SIGNED, text=text, mac=self._mac(key, kind, text))

    def open(self, kind: str, envelope: str | bytes | None, at_most: int) -> str:
        """The exact text that was signed as this kind, in this namespace, with one of our keys.

        Args:
            kind: what it was signed as.
            envelope: whatever stands in Redis; None: nothing.
            at_most: bytes that an envelope of this kind may have.

        Raises:
            BadSignature: it is none, or too long.
        """
        fields = _fields(envelope, at_most, _SIGNED, {"text"})
        key = self._key(fields)
        try:
            expected = self._mac(key, kind, fields["text"])
        except UnicodeEncodeError:
            raise BadSignature("its text is no Unicode") from None
        _compare(expected, fields["mac"])
        return fields["text"]

    def seal(self, kind: str, data: bytes, for_: str) -> str:
        """Encrypt and sign a few bytes that only holders of our key may read, as an SSH password on its way to its client.

        A fresh nonce and a key for this kind and receiver give HMAC-SHA256 over a counter, the key stream; the MAC is over
        the result. It hides a short secret from those who can read Redis. It is not meant for large data.

        Raises:
            InvalidValue: more than 64 KiB.
        """
        if len(data) > _MAX_SEALED_BYTES:
            raise InvalidValue(f"at most {_MAX_SEALED_BYTES} bytes can be sealed, not {len(data)}")
        key, nonce = self._keyring.first, secrets.token_bytes(_NONCE_BYTES)
        sealed = self._crypt(key, kind, for_, nonce, data)
        return _envelope(
            key,
            _SEALED,
            nonce=nonce.hex(),
            data=base64.b64encode(sealed).decode(),
            mac=self._seal_mac(key, kind, for_, nonce, sealed),
        )

    def unseal(self, kind: str, sealed: str | bytes | None, for_: str) -> bytes:
        """The bytes that were sealed as this kind for this receiver.

        Raises:
            BadSignature: they were not.
        """
        fields = _fields(sealed, 2 * _MAX_SEALED_BYTES, _SEALED, {"nonce", "data"})
        key = self._key(fields)
        try:
            nonce, data = bytes.fromhex(fields["nonce"]), base64.b64decode(fields["data"], validate=True)
        except ValueError:
            raise BadSignature("its nonce or data is malformed") from None
        _compare(self._seal_mac(key, kind, for_, nonce, data), fields["mac"])
        return self._crypt(key, kind, for_, nonce, data)

    def _key(self, fields: Mapping[str, str]) -> SigningKey:
        key = self._keyring.get(fields["kid"])
        if key is None:
            raise BadSignature("it is signed with a key that we do not have: compare the keys of all clients and workers")
        return key

    def _mac(self, key: SigningKey, kind: str, text: str) -> str:
        return hmac.digest(key.derive("sign"), _framed(kind, self.namespace, text), "sha256").hex()

    def _seal_mac(self, key: SigningKey, kind: str, for_: str, nonce: bytes, data: bytes) -> str:
        return hmac.digest(key.derive("seal"), _framed(kind, self.namespace, for_, nonce, data), "sha256").hex()

    def _crypt(self, key: SigningKey, kind: str, for_: str, nonce: bytes, data: bytes) -> bytes:
        stream_key = key.derive("encrypt", kind, self.namespace, for_)
        blocks = range(-(-len(data) // _DIGEST_BYTES))
        stream = b"".join(hmac.digest(stream_key, _framed(nonce, number.to_bytes(8, "big")), "sha256") for number in blocks)
        return bytes(left ^ right for left, right in zip(data, stream, strict=False))

    def __repr__(self) -> str:
        return f"Signer({self._keyring!r}, namespace={self.namespace!r})"


def _framed(*parts: str | bytes) -> bytes:
    """The parts with their lengths: other parts never give the same bytes."""
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join(len(part).to_bytes(8, "big") + part for part in encoded)


def _envelope(key: SigningKey, algorithm: str, **fields: str) -> str:
    return json.dumps({"v": _VERSION, "kid": key.id, "alg": algorithm, **fields}, separators=(",", ":"))


def _fields(envelope: str | bytes | None, at_most: int, algorithm: str, own: set[str]) -> dict[str, str]:
    if envelope is None:
        raise BadSignature("there is none")
    if len(envelope) > at_most:
        raise BadSignature(f"it is longer than {at_most} bytes")
    try:
        fields = json.loads(envelope, object_pairs_hook=_once, parse_int=_small, parse_float=_small, parse_constant=_small)
    except (ValueError, RecursionError):
        raise BadSignature("it is no signed envelope") from None
    if not isinstance(fields, dict) or fields.pop("v", None) != str(_VERSION):
        raise BadSignature("it is no signed envelope of a version that is known here")
    if fields.keys() != {"kid", "alg", "mac", *own} or not all(isinstance(value, str) for value in fields.values()):
        raise BadSignature("it is no signed envelope")
    if fields.pop("alg") != algorithm:
        raise BadSignature("it is signed in a way that is not known here")
    return fields


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name stands there twice")
    return fields


def _small(number: str) -> str:
    """Numbers stay text: none is long enough to take time."""
    return number


def _compare(expected: str, given: str) -> None:
    if not _MAC.fullmatch(given) or not hmac.compare_digest(expected, given):
        raise BadSignature("its signature is wrong")


def _open_now(path: str, flags: int) -> int:
    """Open without waiting for the writer of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _read_key_file(path: str) -> str:
    try:
        with open(path, "rb", opener=_open_now) as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_FILE_BYTES + 1) if stat.S_ISREG(mode) else b""
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidValue(f"the key file {path} is no text. Make one: {_HOW}") from None
    except OSError as error:
        raise InvalidValue(f"the key file {path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode) or len(content) > _MAX_FILE_BYTES:
        raise InvalidValue(f"the key file {path} must be a regular file of at most {_MAX_FILE_BYTES} bytes")
    if stat.S_IMODE(mode) & _OTHERS:
        _LOG.warning("the key file %s can be read or changed by other users: chmod 600 %s", path, path)
    return text
