"""A Redis that cannot be used is refused with a line that says what to do; and no line has its password."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis

from jobmanager.errors import RedisUnavailable
from jobmanager.remote import redis_checks
from jobmanager.remote.connect import open_redis
from jobmanager.remote.redis_checks import check_memory, check_redis
from jobmanager.remote.timeouts import ClusterTimeouts
from tests.support.daemons import Certificates, make_certificates
from tests.support.redis_server import RedisServer

QUICK = ClusterTimeouts(redis_s=2.0)
SECRET = "s3cret-of-redis"
Start = Callable[..., RedisServer]


def complaint(url: str, caplog: pytest.LogCaptureFixture, timeouts: ClusterTimeouts = QUICK) -> str:
    """What is said at the start of a client or worker. Nobody says the password."""
    with open_redis(url, timeouts) as client, pytest.raises(RedisUnavailable) as raised:
        check_redis(client, url)
    shown = [repr(client), repr(client.connection_pool), str(raised.value), repr(raised.value), caplog.text]
    assert SECRET not in "".join(shown)
    return str(raised.value)


def accepted(url: str) -> None:
    with open_redis(url, QUICK) as client:
        check_redis(client, url)


# Who may not


def test_a_wrong_password_and_none(start_redis: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = start_redis(password=SECRET)
    accepted(server.url)

    for url in (server.url_of(), server.url_of(password=f"{SECRET}-wrong"), server.url_of("nobody", SECRET)):
        assert "refuses the user or the password" in complaint(url, caplog)
        assert "JOBMANAGER_REDIS_URL" in complaint(url, caplog)


def test_a_user_without_a_right(start_redis: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = start_redis(users=["user default off", f"user other on >{SECRET} ~* +get"])

    assert "examples/cluster/users.acl" in complaint(server.url_of("other", SECRET), caplog)


def test_a_user_who_may_not_ask_is_told_what_was_not_looked_at(start_redis: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = start_redis(users=["user default off", f"user other on >{SECRET} ~* +get +ping"], policy="allkeys-lru")
    url = server.url_of("other", SECRET)

    with caplog.at_level(logging.WARNING, "jobmanager"):
        accepted(url)
        with open_redis(url, QUICK) as client:
            check_memory(client, url)

    (record,) = caplog.records
    assert "were not looked at" in record.getMessage() and "+info" in record.getMessage() and SECRET not in record.getMessage()


# What it is


def test_memory_that_is_evicted(start_redis: Start, caplog: pytest.LogCaptureFixture) -> None:
    for policy in ("allkeys-lru", "volatile-ttl"):
        server = start_redis(policy=policy)
        assert f"maxmemory-policy {policy}" in (said := complaint(server.url, caplog)) and "noeviction" in said


def test_memory_that_is_nearly_full_takes_no_new_job_until_there_is_room(start_redis: Start) -> None:
    server = start_redis(max_memory="40mb")
    with open_redis(server.url, QUICK) as client:
        check_memory(client, server.url)
        for number in range(34):
            client.set(f"large{number}", "x" * 1_000_000)
        with pytest.raises(RedisUnavailable, match=r"nearly full \(\d\d % of 40 MiB\).*maxmemory"):
            check_memory(client, server.url)
        client.set("result", "x" * 1000)

        client.delete(*(f"large{number}" for number in range(34)))
        check_memory(client, server.url)


def test_a_redis_that_forgets_is_warned_of(start_redis: Start, caplog: pytest.LogCaptureFixture) -> None:
    keeps, forgets = start_redis(), start_redis(appendonly=False)

    with caplog.at_level(logging.WARNING, "jobmanager"):
        accepted(keeps.url)
        assert caplog.records == []
        accepted(forgets.url)

    assert ["appendonly yes" in record.getMessage() for record in caplog.records] == [True]


def test_a_replica(start_redis: Start, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        server = start_redis(settings=[f"replicaof 127.0.0.1 {nobody.getsockname()[1]}"])

        assert "is a replica" in complaint(server.url, caplog)


def test_a_cluster(start_redis: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = start_redis(settings=["cluster-enabled yes"])

    assert "is a Redis Cluster" in complaint(server.url, caplog)


@pytest.mark.parametrize(("version", "refused"), [("5.0.14", True), ("6.0.16", True), ("6.2.0", False), ("10.1", False)])
def test_one_that_is_too_old(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, version: str, refused: bool) -> None:
    """The one thing that no real server here can be."""
    asked = redis_checks._facts
    monkeypatch.setattr(redis_checks, "_facts", lambda *a: {**asked(*a), "redis_version": version})

    if refused:
        with pytest.raises(RedisUnavailable, match=rf"too old \({version}\): 6.2 or newer"):
            accepted(redis_server.url)
    else:
        accepted(redis_server.url)


# Where it is


def test_nobody_there(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    said = complaint(f"redis://user:{SECRET}@127.0.0.1:{port}/0", caplog)

    assert f"Redis at redis://127.0.0.1:{port}/0 cannot be reached" in said and "Does it run there" in said
    assert "not there" in complaint(f"unix://user:{SECRET}@/nowhere/redis.sock", caplog)


def test_one_that_stands_still(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    redis_server.pause()

    assert "does not answer" in complaint(redis_server.url, caplog, ClusterTimeouts(redis_s=0.2))


@pytest.fixture
def web_server() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def test_something_that_is_no_redis(web_server: int, caplog: pytest.LogCaptureFixture) -> None:
    assert "is it Redis" in complaint(f"redis://:{SECRET}@127.0.0.1:{web_server}/0", caplog)


class OneLine:
    """A server that greets, as those for mail do."""

    def __enter__(self) -> int:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._greet)
        self._thread.start()
        return int(self._server.getsockname()[1])

    def _greet(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"220 mail.example ESMTP\r\n")
                connection.settimeout(1.0)
                try:
                    while connection.recv(1000):
                        pass
                except OSError:
                    pass

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


def test_something_that_speaks_another_language(caplog: pytest.LogCaptureFixture) -> None:
    with OneLine() as port:
        said = complaint(f"redis://127.0.0.1:{port}/0", caplog)

    assert "as no Redis does" in said


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_with_tls_all_is_well(start_redis: Start, certificates: Certificates) -> None:
    server = start_redis(tls=certificates, password=SECRET)

    accepted(server.url)
    with open_redis(server.url, QUICK) as client:
        assert type(client.connection_pool.get_connection()).__name__ == "SSLConnection"


def test_a_certificate_of_an_unknown_authority(start_redis: Start, certificates: Certificates, caplog: Any) -> None:
    server = start_redis(tls=certificates)

    assert "ssl_ca_certs" in complaint(server.url_of("user", SECRET, with_certificate=False), caplog)


def test_an_expired_certificate(start_redis: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = start_redis(tls=make_certificates(tmp_path, server_days=-1))

    assert "has an expired certificate: renew it" in complaint(server.url_of("user", SECRET), caplog)


def test_a_certificate_of_another_machine(start_redis: Start, certificates: Certificates, caplog: Any) -> None:
    server = start_redis(tls=certificates, settings=["bind 127.0.0.1 127.0.0.2"])

    assert "cannot be trusted" in complaint(server.url.replace("127.0.0.1", "127.0.0.2"), caplog)


def test_a_server_that_wants_the_clients_certificate(start_redis: Start, certificates: Certificates, caplog: Any) -> None:
    server = start_redis(tls=certificates, settings=["tls-auth-clients yes"])
    accepted(server.url)
    only_ca = server.url_of(with_certificate=False) + f"?ssl_ca_certs={certificates.ca}"

    assert "ssl_certfile" in complaint(only_ca, caplog)


def test_tls_on_one_side_only(start_redis: Start, certificates: Certificates, caplog: Any) -> None:
    plain, tls = start_redis(tcp=True), start_redis(tls=certificates)

    assert "redis://" in complaint(plain.url.replace("redis://", "rediss://"), caplog)
    assert "rediss://" in complaint(tls.url_of(with_certificate=False).replace("rediss://", "redis://"), caplog)


def test_a_certificate_file_that_is_not_there(start_redis: Start, certificates: Certificates, caplog: Any) -> None:
    server = start_redis(tls=certificates)

    assert "not there" in complaint(server.url.replace("ca.pem", "no.pem"), caplog)


# A client of redis-py shows no password


def test_a_client_shows_no_password_in_any_repr() -> None:
    for url in (f"redis://user:{SECRET}@host:1/0", f"rediss://user:{SECRET}@host:1/0", f"unix://user:{SECRET}@/a?db=0",
                f"redis://host:1/0?password={SECRET}"):  # fmt: skip
        with open_redis(url, QUICK) as client:
            assert SECRET not in repr(client) + repr(client.connection_pool) + repr(client.connection_pool.make_connection())
            assert isinstance(client, redis.Redis)
