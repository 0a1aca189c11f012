"""Each call of an engine has one bound of time and of bytes, and whatever the engine answers is an engine's error."""

from __future__ import annotations

import gc
import gzip
import itertools
import json
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from jobmanager.engine.docker import adapter, call_limits
from jobmanager.engine.docker.adapter import DockerEngine
from jobmanager.engine.docker.call_limits import MIN_BYTES_PER_S, AnswerTooLarge, CallLimits
from jobmanager.engine.protocol import EngineError, Unreachable
from jobmanager.model.host import TLS, Address
from tests.conftest import eventually
from tests.support.daemons import make_certificates
from tests.support.engine_of_words import OK, EngineOfWords, whole
from tests.unit.test_docker_errors import CALLS

pytestmark = pytest.mark.case(51)

TIMEOUT_S = 0.4
VERSION = whole(json.dumps({"ApiVersion": "1.41", "Version": "20.10"}).encode())
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ANSWERED_BY_ONE_BODY = ["info", "images", "image_defaults", "create", "inspect", "list", "usage", "volumes"]
STREAMS = {"open_channel", "archive", "pull"}


@contextmanager
def engine_that(answers: EngineOfWords) -> Iterator[DockerEngine]:
    DockerEngine._api_versions.clear()
    with answers:
        engine = DockerEngine(Address(host="h", url=answers.url), timeout_s=TIMEOUT_S)
        try:
            yield engine
        finally:
            engine.close()
            gc.collect()  # urllib3's exceptions and frames refer to each other, with the socket


def answering(*pieces: bytes, tcp: bool = False) -> EngineOfWords:
    """The version as it should be, and then this."""
    return EngineOfWords(lambda line: [VERSION] if "/version" in line else pieces, tcp=tcp)


def trickling(data: bytes, at_once: bytes = b"", *, tcp: bool = False) -> EngineOfWords:
    engine: EngineOfWords

    def answer(line: str) -> Iterable[bytes]:
        return [VERSION] if "/version" in line else itertools.chain([at_once], engine.slowly(data, 0.1))

    engine = EngineOfWords(answer, tcp=tcp)
    return engine


# ---- time


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
@pytest.mark.parametrize("call", sorted(CALLS.keys() - {"pull"}))
def test_an_engine_that_trickles_its_headers_has_not_answered(call: str, tcp: bool) -> None:
    trickle = trickling(OK + b"X: " + b"y" * 10_000, tcp=tcp)
    with engine_that(trickle) as engine, pytest.raises(Unreachable, match="no answer within"):
        CALLS[call](engine)


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
@pytest.mark.parametrize("call", ANSWERED_BY_ONE_BODY)
def test_an_engine_that_trickles_a_body_has_not_answered(call: str, tcp: bool) -> None:
    trickle = trickling(b" " * 10_000, OK + b"Content-Length: 10000\r\n\r\n", tcp=tcp)
    with engine_that(trickle) as engine, pytest.raises(Unreachable):
        CALLS[call](engine)


def test_an_engine_that_trickles_the_version_has_not_answered() -> None:
    engine: EngineOfWords
    engine = EngineOfWords(lambda line: engine.slowly(VERSION * 100, 0.1))
    with engine_that(engine) as asked, pytest.raises(Unreachable):
        asked.info()


def test_an_engine_that_trickles_the_chunks_of_an_archive_has_not_answered() -> None:
    stat = b"X-Docker-Container-Path-Stat: e30=\r\n"
    head = OK + stat + b"Transfer-Encoding: chunked\r\n\r\n"
    with engine_that(trickling(b"1\r\nx\r\n" * 10_000, head)) as engine, pytest.raises(Unreachable):
        list(engine.archive("c", "/job"))


def test_an_archive_that_is_read_by_and_by_leaves_other_calls_their_own_time() -> None:
    head = OK + b"X-Docker-Container-Path-Stat: e30=\r\nTransfer-Encoding: chunked\r\n\r\n"
    with engine_that(answering(head + b"1\r\nx\r\n" * 10 + b"0\r\n\r\n")) as engine:
        pieces = engine.archive("c", "/job")
        assert next(pieces)
        assert call_limits._limits() is None
        assert b"".join(pieces)


def test_with_tls_a_trickling_engine_has_not_answered_either(tmp_path: object) -> None:
    """``openssl s_server`` takes the request and says nothing: reads over TLS go by the same limits."""
    files = make_certificates(tmp_path)  # type: ignore[arg-type]
    command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", files.server_cert, "-key", files.server_key, "-quiet"]
    server = subprocess.Popen([*command, "-naccept", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        port = _port_of(server.pid)
        tls = TLS(ca_cert=files.ca, client_cert=files.client_cert, client_key=files.client_key)
        engine = DockerEngine(Address(host="h", url=f"tcp://127.0.0.1:{port}", tls=tls), timeout_s=TIMEOUT_S)
        engine._api_versions[engine._address] = "1.41"
        assert server.stdin is not None
        server.stdin.write(b"HTTP/1.1 200 OK\r\n")
        server.stdin.flush()
        with pytest.raises(Unreachable, match="no answer within"):
            engine.info()
        engine.close()
        gc.collect()
    finally:
        server.kill()
        server.communicate()


def _port_of(pid: int) -> int:
    """The port on which a child listens, once it does."""
    process = psutil.Process(pid)
    (port,) = eventually(lambda: [each.laddr.port for each in process.net_connections("tcp") if each.status == "LISTEN"])
    return int(port)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_comes_may_take_longer_for_as_long_as_it_comes_at_a_pace_that_makes_sense() -> None:
    clock = Clock()
    limits = CallLimits(timeout_s=10, clock=clock)
    assert limits.left_s() == 10
    limits.count_bytes(8 * MIN_BYTES_PER_S)
    clock.now = 15
    assert limits.left_s() == 3
    limits.count_bytes(1000 * MIN_BYTES_PER_S)
    assert limits.left_s() == 25, "four times its timeout, whatever comes"
    clock.now = 40
    with pytest.raises(TimeoutError, match="no answer within 40 s"):
        limits.left_s()


def test_an_archive_may_take_as_long_as_its_bytes_need_and_a_stream_as_long_as_it_likes() -> None:
    clock = Clock()
    archive = CallLimits(timeout_s=10, max_bytes=float("inf"), clock=clock)
    archive.count_bytes(1000 * MIN_BYTES_PER_S)
    stream = CallLimits(timeout_s=10, max_bytes=float("inf"), is_stream=True, clock=clock)
    clock.now = 9
    assert (archive.left_s(), stream.left_s()) == (1001, 1)
    clock.now = 1e6
    assert stream.left_s(has_headers=True) == 10


# ---- bytes


def test_a_body_has_a_bound() -> None:
    limits = CallLimits(timeout_s=1)
    limits.count_bytes(16 * 2**20)
    with pytest.raises(AnswerTooLarge, match="an answer of more than 16 MiB makes no sense"):
        limits.count_bytes(1)


ENDLESS = {
    "length": [OK + b"Content-Length: 1000000000\r\n\r\n", *[b" " * 2**20] * 40],
    "chunks": [CHUNKED, *[b"100000\r\n" + b" " * 2**20 + b"\r\n"] * 40],
    "one chunk": [CHUNKED, b"7fffffff\r\n", *[b" " * 2**20] * 40],
    "no length": [OK + b"Connection: close\r\n\r\n", *[b" " * 2**20] * 40],
    "chunk's length": [CHUNKED, *[b"0" * 2**20] * 40],
    "header": [b"HTTP/1.1 200 OK\r\nX: ", *[b"y" * 2**20] * 40],
    "headers": [b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n" * 2**18] * 40],
}


@pytest.mark.parametrize("pieces", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("call", ["info", "images", "pull"])
def test_an_endless_answer_is_none(call: str, pieces: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_MAX_PULL_BYTES", 2**24)
    with engine_that(answering(*pieces)) as engine, pytest.raises(Unreachable):
        engine._timeout_s = 20.0  # it is the bytes that end it
        CALLS[call](engine)


def test_the_length_of_a_chunk_has_a_bound_where_the_body_has_none() -> None:
    head = OK + b"X-Docker-Container-Path-Stat: e30=\r\nTransfer-Encoding: chunked\r\n\r\n"
    with engine_that(answering(head, *[b"0" * 2**20] * 40)) as engine:
        engine._timeout_s = 20.0
        with pytest.raises(Unreachable):
            list(engine.archive("c", "/job"))


def test_what_comes_with_the_header_of_a_channel_is_read_first() -> None:
    upgraded = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    frame = b"\1\0\0\0\0\0\0\3"
    with engine_that(answering(upgraded + frame + b"one" + frame + b"t", b"wo")) as engine:
        channel = engine.open_channel("c")
        found = b""
        while len(found) < 6 and (content := channel.read(20.0)):
            found += content
        channel.close()
    assert found == b"onetwo"


def test_a_packed_body_is_not_unpacked() -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    with engine_that(answering(whole(bomb, OK + b"Content-Encoding: gzip\r\n"))) as engine, pytest.raises(Unreachable):
        engine.images()


def test_an_engine_cannot_send_us_elsewhere() -> None:
    with EngineOfWords(lambda line: [whole(b"[]")]) as elsewhere:
        away = b"HTTP/1.1 301 Moved\r\nLocation: %s/x\r\n" % elsewhere.url.replace("unix", "http").encode()
        with engine_that(answering(whole(b"", away))) as engine, pytest.raises(Unreachable):
            engine.images()
        assert elsewhere.asked == []


def test_of_an_engines_words_no_more_is_kept_than_a_person_reads() -> None:
    long = whole(json.dumps({"message": "x" * 10**6}).encode(), b"HTTP/1.1 500 Oops\r\n")
    with engine_that(answering(long)) as engine, pytest.raises(EngineError) as told:
        engine.images()
    assert len(str(told.value)) <= 1000


# ---- sense

NONSENSE = {
    "dict": b"{}", "list": b"[]", "null": b"null", "number": b"42", "text": b'"x"', "nothing": b"", "half": b'{"a": [1,',
    "html": b"<h1>", "deep": b"[" * 200_000, "deep dict": b'{"a":' * 200_000, "list of lists": b"[[]]", "list of null": b"[null]",
    "null state": b'{"State": null, "Id": null, "Config": null}', "huge number": b"9" * 10_000, "bytes": b"\xff\xfe\0",
    "wrong fields": b'{"ServerVersion": "1", "NCPU": "many", "MemTotal": []}', "NaN": b"NaN",
}  # fmt: skip
SENSIBLE = {
    "images": ["list"],
    "list": ["list"],
    "image_defaults": ["dict", "null state", "wrong fields"],
    "about": ["dict", "null state", "wrong fields"],
}


@pytest.mark.parametrize("call", [*ANSWERED_BY_ONE_BODY, "about", "remove"])
def test_an_answer_that_makes_no_sense_is_none(call: str) -> None:
    body = b""
    with engine_that(EngineOfWords(lambda line: [VERSION if "/version" in line else whole(body)])) as engine:
        for name, body in NONSENSE.items():  # noqa: B007 - the engine's next answer
            if name not in SENSIBLE.get(call, ()):
                with pytest.raises(Unreachable):
                    CALLS[call](engine)


@pytest.mark.parametrize("status", [b"400 Bad", b"403 Forbidden", b"404 Not Found", b"409 Conflict", b"500 Oops"])
@pytest.mark.parametrize("call", sorted(CALLS))
def test_a_refusal_without_sense_is_an_engines_error(call: str, status: bytes) -> None:
    body = b""
    head = b"HTTP/1.1 " + status + b"\r\n"
    with engine_that(EngineOfWords(lambda line: [VERSION if "/version" in line else whole(body, head)])) as engine:
        for body in NONSENSE.values():  # noqa: B007 - the engine's next answer
            gone_is_fine = call == "remove_volume" and status.startswith(b"404")
            with suppress(EngineError) if gone_is_fine else pytest.raises(EngineError):
                CALLS[call](engine)


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_a_version_that_makes_no_sense_is_no_answer_and_is_not_remembered(body: bytes) -> None:
    with engine_that(EngineOfWords(lambda line: [whole(body)])) as engine:
        with pytest.raises(Unreachable):
            engine.info()
        assert DockerEngine._api_versions == {}


# ---- Docker's own configuration, of use for fetching images only


@pytest.mark.parametrize(
    "configuration",
    ["[]", "42", '"x"', "{", "", '{"auths": 3}', '{"auths": {"x": 3}}', '{"auths": {"x": {"auth": 3}}}', '{"proxies": []}',
     '{"HttpHeaders": 3}', '{"HttpHeaders": {"X": 3}}', '{"credsStore": {}}', '{"credHelpers": 3}'],
)  # fmt: skip
def test_a_configuration_file_that_makes_no_sense_costs_no_host(
    configuration: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(configuration)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    answers = {"/version": VERSION, "/images/create": whole(b'{"status": "done"}')}
    said = EngineOfWords(lambda line: [next((answer for path, answer in answers.items() if path in line), whole(b"[]"))])
    with engine_that(said) as engine:
        assert engine.images() == []
        engine.pull("i")


@pytest.mark.parametrize("words", ["client version 1.44 is too new. Maximum supported API version is 1.41",
                                   "client version 1.44 is too old. Minimum supported API version is 1.45"])
def test_an_engine_of_another_release_in_its_place_is_asked_what_it_speaks_and_is_no_refusal(words):
    speaks = "1.44"

    def answer(line):
        if "/version" in line:
            return [whole(json.dumps({"ApiVersion": speaks, "Version": "1"}).encode())]
        if f"/v{speaks}/" in line:
            return [whole(b"[]")]
        return [whole(json.dumps({"message": words}).encode(), OK.replace(b"200 OK", b"400 Bad Request"))]

    with engine_that(EngineOfWords(answer)) as engine:
        assert engine.list({}) == []
        speaks = "1.41"
        with pytest.raises(Unreachable, match="client version"):
            engine.list({})
        assert engine.list({}) == []
