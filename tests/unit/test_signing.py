"""Signed envelopes: only what was signed as this, here, with one of our keys is opened; and no key is ever shown."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobmanager.errors import InvalidValue
from jobmanager.remote import signing
from jobmanager.remote.signing import BadSignature, Keyring, Signer, SigningKey

SECRET = bytes(range(32))
OTHER = bytes(range(1, 33))
AT_MOST = 1000


@pytest.fixture
def signer() -> Signer:
    return Keyring([SigningKey("first", SECRET)]).signer("course")


def changed(envelope: str, **changes: Any) -> str:
    return json.dumps({**json.loads(envelope), **changes})


@pytest.mark.parametrize("text", ["", "{}", '{"a": 1}\n', "é", "\0", "x" * 500])
def test_the_exact_text_comes_back(signer: Signer, text: str) -> None:
    envelope = signer.sign("header", text)

    assert signer.open("header", envelope, AT_MOST) == text
    assert signer.open("header", envelope.encode(), AT_MOST) == text


def test_an_envelope_says_what_it_is_made_of(signer: Signer) -> None:
    fields = json.loads(signer.sign("header", "text"))

    assert fields.keys() == {"v", "kid", "alg", "text", "mac"}
    assert (fields["v"], fields["alg"], fields["text"]) == (1, "HS256", "text")


def test_what_was_signed_as_one_kind_is_refused_as_another(signer: Signer) -> None:
    with pytest.raises(BadSignature, match="signature is wrong"):
        signer.open("placement", signer.sign("header", "text"), AT_MOST)


def test_what_was_signed_in_one_namespace_is_refused_in_another(signer: Signer) -> None:
    other = Keyring([SigningKey("first", SECRET)]).signer("exam")

    with pytest.raises(BadSignature, match="signature is wrong"):
        other.open("header", signer.sign("header", "text"), AT_MOST)


def test_kind_namespace_and_text_cannot_be_cut_in_another_place() -> None:
    keys = Keyring([SigningKey("", SECRET)])
    mac = json.loads(keys.signer("ab").sign("c", "d"))["mac"]

    for kind, namespace, text in [("ca", "b", "d"), ("c", "a", "bd"), ("", "cab", "d"), ("cab", "d", ""), ("c", "abd", "")]:
        assert json.loads(keys.signer(namespace).sign(kind, text))["mac"] != mac


def test_a_changed_text_or_mac_is_refused(signer: Signer) -> None:
    envelope = signer.sign("header", "text")
    mac = json.loads(envelope)["mac"]
    flipped = [mac[:at] + ("0" if mac[at] != "0" else "1") + mac[at + 1 :] for at in (0, 31, 63)]

    for forged in [
        changed(envelope, text="texT"),
        changed(envelope, text="text "),
        *(changed(envelope, mac=other) for other in [*flipped, "", mac[:-1], mac + "0", mac.upper() + "A", "é" * 64]),
    ]:
        with pytest.raises(BadSignature, match="signature is wrong"):
            signer.open("header", forged, AT_MOST)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kid": "0" * 16}, "a key that we do not have"),
        ({"alg": "none"}, "in a way that is not known"),
        ({"alg": "HS256-CTR"}, "in a way that is not known"),
        ({"v": 2}, "of a version that is known"),
        ({"v": True}, "of a version that is known"),
        ({"v": 1.0}, "of a version that is known"),
        ({"text": None}, "no signed envelope"),
        ({"text": ["text"]}, "no signed envelope"),
        ({"mac": 7}, "signature is wrong"),
        ({"mac": True}, "no signed envelope"),
        ({"kid": {}}, "no signed envelope"),
        ({"more": "x"}, "no signed envelope"),
        ({"text": "\ud800"}, "no Unicode"),
    ],
)
def test_another_field_is_refused(signer: Signer, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadSignature, match=reason):
        signer.open("header", changed(signer.sign("header", "text"), **changes), AT_MOST)


@pytest.mark.parametrize("name", ["v", "kid", "alg", "text", "mac"])
def test_a_missing_field_is_refused(signer: Signer, name: str) -> None:
    fields = json.loads(signer.sign("header", "text"))
    del fields[name]

    with pytest.raises(BadSignature):
        signer.open("header", json.dumps(fields), AT_MOST)


def test_a_field_that_stands_there_twice_is_refused(signer: Signer) -> None:
    envelope = signer.sign("header", "text")

    with pytest.raises(BadSignature, match="no signed envelope"):
        signer.open("header", '{"text":"forged",' + envelope[1:], AT_MOST)


@pytest.mark.parametrize(
    "envelope",
    [
        "", "null", "7", "[]", '"text"', "{", "{}", "text", b"\xff\xfe", b"\x80\x04\x95", "NaN", "9" * 900,
        '{"v":' + "9" * 900 + "}", "[" * 999, '{"a":' * 199,
    ],
)  # fmt: skip
def test_what_is_no_envelope_is_refused(signer: Signer, envelope: str | bytes) -> None:
    with pytest.raises(BadSignature, match="no signed envelope"):
        signer.open("header", envelope, AT_MOST)


def test_deep_nesting_is_refused(signer: Signer) -> None:
    with pytest.raises(BadSignature, match="no signed envelope"):
        signer.open("header", '{"a":' * 1_000_000, 10_000_000)


def test_nothing_is_refused(signer: Signer) -> None:
    with pytest.raises(BadSignature, match="there is none"):
        signer.open("header", None, AT_MOST)


def test_one_byte_too_many_is_refused_before_it_is_read(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    envelope = signer.sign("header", "text")
    assert signer.open("header", envelope, len(envelope)) == "text"
    monkeypatch.setattr(signing.json, "loads", lambda *_, **__: pytest.fail("it was read"))

    with pytest.raises(BadSignature, match="longer than"):
        signer.open("header", envelope, len(envelope) - 1)


def test_the_macs_are_compared_in_constant_time(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr(signing.hmac, "compare_digest", lambda *macs: compared.append(macs) or True)
    forged = changed(signer.sign("header", "text"), mac="0" * 64)

    assert signer.open("header", forged, AT_MOST) == "text" and len(compared) == 1


# Rotation


def test_the_first_key_signs_and_all_are_accepted() -> None:
    old, new = SigningKey("old", SECRET), SigningKey("new", OTHER)
    before, between, after = (Keyring(keys).signer("course") for keys in ([old], [new, old], [new]))

    assert between.open("header", before.sign("header", "text"), AT_MOST) == "text"
    assert after.open("header", between.sign("header", "text"), AT_MOST) == "text"
    with pytest.raises(BadSignature, match="a key that we do not have"):
        before.open("header", between.sign("header", "text"), AT_MOST)
    with pytest.raises(BadSignature, match="a key that we do not have"):
        after.open("header", before.sign("header", "text"), AT_MOST)


def test_one_secret_is_one_key_whatever_it_is_called() -> None:
    plain, named = Keyring.parse(SECRET.hex()), Keyring.parse(f"2026:{SECRET.hex()}")

    assert plain.signer("course").open("header", named.signer("course").sign("header", "text"), AT_MOST) == "text"
    assert named.signer("course").open("header", plain.signer("course").sign("header", "text"), AT_MOST) == "text"


def test_a_kid_does_not_choose_another_key_of_ours() -> None:
    old, new = SigningKey("old", SECRET), SigningKey("new", OTHER)
    envelope = Keyring([old]).signer("course").sign("header", "text")

    with pytest.raises(BadSignature, match="signature is wrong"):
        Keyring([old, new]).signer("course").open("header", changed(envelope, kid=new.id), AT_MOST)


# Sealing


@pytest.mark.parametrize("data", [b"", b"x", b"p" * 31, b"p" * 32, b"p" * 33, bytes(range(256)) * 5])
def test_what_is_sealed_comes_back(signer: Signer, data: bytes) -> None:
    sealed = signer.seal("ssh", data, "client-1")

    assert signer.unseal("ssh", sealed, "client-1") == data
    assert signer.unseal("ssh", sealed.encode(), "client-1") == data


def test_what_is_sealed_cannot_be_read_and_never_looks_the_same(signer: Signer) -> None:
    first, second = (json.loads(signer.seal("ssh", b"a long password", "client-1")) for _ in range(2))

    assert first["nonce"] != second["nonce"] and first["data"] != second["data"] and first["mac"] != second["mac"]
    assert "password" not in json.dumps(first)


def test_the_stream_does_not_repeat_itself(signer: Signer) -> None:
    zeros = signer._crypt(signer._keyring.first, "ssh", "client-1", b"n" * 24, bytes(32 * 64))

    assert len({zeros[at : at + 32] for at in range(0, len(zeros), 32)}) == 64
    assert zeros != signer._crypt(signer._keyring.first, "ssh", "client-2", b"n" * 24, bytes(32 * 64))


@pytest.mark.parametrize(("kind", "namespace", "for_"), [("x", "course", "c"), ("ssh", "exam", "c"), ("ssh", "course", "d")])
def test_what_is_sealed_for_one_is_refused_for_another(signer: Signer, kind: str, namespace: str, for_: str) -> None:
    other = Keyring([SigningKey("", SECRET)]).signer(namespace)

    with pytest.raises(BadSignature, match="signature is wrong"):
        other.unseal(kind, signer.seal("ssh", b"secret", "c"), for_)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": "AAAA"}, {"data": "?"}, {"data": "é"}, {"nonce": "00"}, {"nonce": "xx"}, {"mac": "0" * 64}, {"alg": "HS256"},
        {"kid": "0" * 16}, {"data": None},
    ],
)  # fmt: skip
def test_changed_seals_are_refused(signer: Signer, changes: dict[str, Any]) -> None:
    with pytest.raises(BadSignature):
        signer.unseal("ssh", changed(signer.seal("ssh", b"secret", "c"), **changes), "c")


def test_a_signed_text_is_no_seal_and_a_seal_no_signed_text(signer: Signer) -> None:
    with pytest.raises(BadSignature):
        signer.unseal("ssh", signer.sign("ssh", "text"), "c")
    with pytest.raises(BadSignature):
        signer.open("ssh", signer.seal("ssh", b"text", "c"), AT_MOST)


def test_large_data_is_not_sealed(signer: Signer) -> None:
    assert len(signer.unseal("ssh", signer.seal("ssh", bytes(64 * 1024), "c"), "c")) == 64 * 1024
    with pytest.raises(InvalidValue, match="65536 bytes"):
        signer.seal("ssh", bytes(64 * 1024 + 1), "c")


# Where keys come from


def ids(keys: Keyring) -> list[str]:
    return re.findall(r"[0-9a-f]{16}", repr(keys))


def test_a_key_is_given_as_bytes_as_digits_as_a_keyring_or_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET.hex() + "\n")
    file.chmod(0o600)
    keyring = Keyring([SigningKey("", SECRET)])

    for keys in [
        Keyring.from_environment(keyring),
        Keyring.from_environment(SECRET),
        Keyring.from_environment(SECRET.hex()),
        Keyring.from_environment(SECRET.hex().upper()),
        Keyring.from_environment(key_file=file),
        Keyring.from_environment(environ={"JOBMANAGER_KEY": SECRET.hex()}),
        Keyring.from_environment(environ={"JOBMANAGER_KEY_FILE": str(file), "JOBMANAGER_KEY": ""}),
    ]:
        assert ids(keys) == [keyring.first.id]


def test_an_argument_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBMANAGER_KEY", OTHER.hex())
    monkeypatch.delenv("JOBMANAGER_KEY_FILE", raising=False)

    assert ids(Keyring.from_environment(SECRET)) == [SigningKey("", SECRET).id]
    assert ids(Keyring.from_environment()) == [SigningKey("", OTHER).id]


def test_a_key_file_holds_several_keys_with_names_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"# of the course\n2026-11:{OTHER.hex()}  # signs\n\n2025-10 : {SECRET.hex()}\n")
    file.chmod(0o600)

    keys = Keyring.from_environment(key_file=file)

    assert keys.first.name == "2026-11" and ids(keys) == [SigningKey("", OTHER).id, SigningKey("", SECRET).id]


def test_without_a_key_it_is_refused_with_a_line_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="nothing that is unsigned is ever taken") as refused:
        Keyring.from_environment(environ={})

    line = re.search(r"\(umask.*?jobmanager\.key\)", str(refused.value))
    assert line
    subprocess.run(["sh", "-c", line[0]], cwd=tmp_path, check=True, timeout=60)
    made = tmp_path / "jobmanager.key"
    assert Keyring.from_environment(key_file=made) and made.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "key",
    [b"", SECRET[:31], SECRET[:31].hex(), "", "\n#\n", "zz" * 32, "0x" + SECRET.hex(), "é" * 64, SECRET.hex()[:-1], 7,
     "na me:" + SECRET.hex(), "-n:" + SECRET.hex(), SECRET.hex() + "\n" + SECRET.hex(), bytearray(SECRET)],
)  # fmt: skip
def test_what_is_no_key_is_refused_and_not_shown(key: Any) -> None:
    with pytest.raises(InvalidValue) as refused:
        Keyring.from_environment(key)

    assert SECRET.hex()[:20] not in str(refused.value) and "zz" not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_two_places_with_a_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="take one"):
        Keyring.from_environment(SECRET, tmp_path / "key")
    with pytest.raises(InvalidValue, match="take one"):
        Keyring.from_environment(environ={"JOBMANAGER_KEY": SECRET.hex(), "JOBMANAGER_KEY_FILE": "key"})


def test_a_key_file_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, content in [("binary", b"\xff" * 99), ("large", b"#" * 70_000), ("empty", b""), ("wrong", b"ab:cd")]:
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)

    for name in ["binary", "large", "empty", "wrong", "pipe", "", "missing"]:
        with pytest.raises(InvalidValue, match="key file"):
            Keyring.from_environment(key_file=tmp_path / name)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, False), (0o644, True), (0o660, True)])
def test_a_key_file_that_others_can_read_or_change_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET.hex())
    file.chmod(mode)

    with caplog.at_level(logging.WARNING, "jobmanager"):
        Keyring.from_environment(key_file=file)

    assert [str(file) in record.getMessage() for record in caplog.records] == [True] * warned


# Never shown


def test_a_key_is_in_no_repr_and_no_text() -> None:
    keyring = Keyring([SigningKey("first", SECRET)])

    for value in [keyring, keyring.first, keyring.signer("course"), [keyring.first]]:
        for shown in (repr(value), str(value), f"{value}"):
            assert SECRET.hex()[:16] not in shown and repr(SECRET)[2:-1][:12] not in shown


def test_a_key_is_in_no_pickle() -> None:
    keyring = Keyring([SigningKey("first", SECRET)])

    for value in [keyring, keyring.first, keyring.signer("course")]:
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(value)


def test_a_child_of_ours_is_given_the_keys_as_text_on_purpose() -> None:
    keyring = Keyring([SigningKey("first", SECRET), SigningKey("", OTHER)])

    again = Keyring.parse(keyring.secret_text())

    assert repr(again) == repr(keyring)
    assert again.signer("course").sign("header", "text") == keyring.signer("course").sign("header", "text")
