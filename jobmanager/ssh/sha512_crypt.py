"""SHA512-crypt, the hash that ``/etc/passwd`` takes for a password (``$6$``), as Python has none of its own since 3.13.

Written after Ulrich Drepper's "Unix crypt using SHA-256 and SHA-512", whose steps the comments number.
"""

from __future__ import annotations

import hashlib

_ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LONGEST_SALT = 16
_SIZE = 64  # of a SHA-512 digest, in bytes


def sha512_crypt(password: str, salt: str, *, rounds: int) -> str:
    """The hash in the format of a password file. At least 1000 rounds: the format allows no fewer."""
    secret, salted = password.encode(), salt.encode()[:_LONGEST_SALT]
    digest = _first_digest(secret, salted)
    block = _cut(hashlib.sha512(secret * len(secret)).digest(), len(secret))  # 13 to 16
    salt_block = _cut(hashlib.sha512(salted * (16 + digest[0])).digest(), len(salted))  # 17 to 20
    for number in range(rounds):  # 21
        odd = number % 2
        parts = [block if odd else digest]
        if number % 3:
            parts.append(salt_block)
        if number % 7:
            parts.append(block)
        parts.append(digest if odd else block)
        digest = hashlib.sha512(b"".join(parts)).digest()
    return f"$6$rounds={rounds}${salted.decode()}${_encoded(digest)}"


def _first_digest(secret: bytes, salted: bytes) -> bytes:
    """Steps 1 to 12."""
    alternate = hashlib.sha512(secret + salted + secret).digest()
    parts = [secret, salted, _cut(alternate, len(secret))]
    length = len(secret)
    while length:
        parts.append(alternate if length % 2 else secret)
        length //= 2
    return hashlib.sha512(b"".join(parts)).digest()


def _cut(digest: bytes, length: int) -> bytes:
    """The digest, repeated to this length."""
    return (digest * (length // _SIZE + 1))[:length]


def _encoded(digest: bytes) -> str:
    """Step 22: three bytes at a time, in an order of its own, make four letters."""
    text = ""
    for number in range(21):
        one, two, three = number, number + 21, number + 42
        order = ((one, two, three), (two, three, one), (three, one, two))[number % 3]
        text += _letters(digest[order[0]] << 16 | digest[order[1]] << 8 | digest[order[2]], 4)
    return text + _letters(digest[_SIZE - 1], 2)


def _letters(value: int, count: int) -> str:
    return "".join(_ALPHABET[value >> 6 * place & 63] for place in range(count))
