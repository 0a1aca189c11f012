"""The redis-server of the tests does what its tests rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis

from tests.conftest import eventually
from tests.support.daemons import make_certificates
from tests.support.redis_server import RedisServer

TOP = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("appendonly", [True, False])
def test_its_data_outlives_sigkill_where_it_is_kept_and_only_there(
    start_redis: Callable[..., RedisServer], appendonly: bool
) -> None:
    server = start_redis(appendonly=appendonly)
    with server.client() as client:
        client.set("a", "1")
        url, process = server.url, server.pid
        server.restart(kill=True)
        assert (client.get("a"), server.url, server.pid == process) == ("1" if appendonly else None, url, False)


def test_a_restart_without_its_data_has_lost_everything(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.set("a", "1")
        redis_server.restart(keep_data=False)
        assert client.keys() == []


def test_connections_are_cut_and_taken_again(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url, single_connection_client=True) as client:
        client.ping()
        before = client.client_id()
        assert redis_server.cut_connections() == 1
        with pytest.raises(redis.ConnectionError):
            client.connection.read_response()
        assert client.client_id() != before


def test_a_paused_one_answers_nobody_until_it_goes_on(redis_server: RedisServer) -> None:
    with redis_server.client(socket_timeout=0.2) as client:
        redis_server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        redis_server.resume()
        assert client.ping()


def test_with_a_password_it_takes_no_other(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(password="secret", tcp=True)
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
    with pytest.raises(redis.AuthenticationError), redis.Redis.from_url(server.url_of(password="wrong")) as client:
        client.ping()


def test_a_user_has_the_rights_of_its_line_only(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(users=["user default off", "user reader on >secret ~* +get"])
    with redis.Redis.from_url(server.url_of("reader", "secret")) as client:
        assert client.get("a") is None
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.set("a", "1")


def test_with_tls_it_is_reached_by_who_trusts_its_authority(start_redis: Callable[..., RedisServer], tmp_path: Path) -> None:
    server = start_redis(tls=make_certificates(tmp_path))
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
    with pytest.raises(redis.ConnectionError), redis.Redis.from_url(server.url_of(with_certificate=False)) as client:
        client.ping()


def test_a_full_one_says_so(start_redis: Callable[..., RedisServer]) -> None:
    with start_redis(max_memory="2mb").client() as client, pytest.raises(redis.exceptions.OutOfMemoryError):
        for number in range(100):
            client.set(f"{number}", "x" * 100_000)


def test_it_ends_with_a_killed_test_process() -> None:
    program = (
        "import threading\n"
        "from tests.support.redis_server import RedisServer\n"
        "server = RedisServer()\n"
        "thread = threading.Thread(target=server.start)\n"  # whose end is not the test's
        "thread.start()\n"
        "thread.join()\n"
        "print(server.pid, server.client().ping(), flush=True)\n"
        "import time; time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=TOP, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid, answered = process.stdout.readline().split()
        assert answered == "True" and psutil.pid_exists(int(pid))
        os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: not _runs(int(pid)), what="the redis-server has ended")


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
