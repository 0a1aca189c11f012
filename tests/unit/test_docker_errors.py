"""Docker's errors are translated in one place, and all of them are: no caller ever sees another exception than an EngineError."""

from __future__ import annotations

import gc
import inspect
import re
import socket
import ssl
from types import SimpleNamespace

import docker.errors
import pytest
import requests.exceptions
import urllib3.exceptions

from jobmanager import Limits
from jobmanager.engine import protocol
from jobmanager.engine.docker import streams
from jobmanager.engine.docker.adapter import DockerEngine, _innermost, _seconds, _translated
from jobmanager.engine.protocol import (
    BeingRemoved,
    EngineError,
    EngineFailed,
    ImageMissing,
    NameTaken,
    NoSuchContainer,
    NotRunning,
    Refused,
    Unreachable,
)  # fmt: skip
from jobmanager.model.container import ContainerSpec, ImageDefaults
from jobmanager.model.host import Address

OS_ERRORS = [OSError, ConnectionRefusedError, ConnectionResetError, BrokenPipeError, TimeoutError, FileNotFoundError,
             PermissionError, InterruptedError, socket.gaierror, ssl.SSLError, ssl.SSLCertVerificationError]  # fmt: skip


def _exceptions_of(module):
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Exception) and not issubclass(value, Warning)
        and value.__module__.split(".")[0] == module.__name__.split(".")[0]
    ]  # fmt: skip


_ASK_FOR_MORE = {
    "IncompleteRead": (1, 2),
    "InvalidChunkLength": (SimpleNamespace(tell=lambda: 0, length_remaining=None), b"x"),
    "JSONDecodeError": ("no JSON", "{", 1),
    "ContainerError": (SimpleNamespace(name="c"), 1, "command", "image", b"stderr"),
}


def _made(cls):
    """One of them, whatever its constructor asks for."""
    if cls.__name__ in _ASK_FOR_MORE:
        return cls(*_ASK_FOR_MORE[cls.__name__])
    parameters = inspect.signature(cls.__init__).parameters.values()
    needed = [each for each in parameters if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]
    return cls(*["a word"] * max(1, len(needed) - 1))


EVERY_EXCEPTION = [
    *_exceptions_of(docker.errors), *_exceptions_of(requests.exceptions), *_exceptions_of(urllib3.exceptions), *OS_ERRORS,
]  # fmt: skip


def test_the_list_of_exceptions_is_not_empty():
    names = {cls.__name__ for cls in EVERY_EXCEPTION}

    assert len(EVERY_EXCEPTION) > 70
    assert names >= {
        "APIError",
        "NotFound",
        "ImageNotFound",
        "ContainerError",
        "StreamParseError",
        "TLSParameterError",
        "ReadTimeout",
    }
    assert names >= {
        "ChunkedEncodingError",
        "JSONDecodeError",
        "ProtocolError",
        "MaxRetryError",
        "IncompleteRead",
        "LocationParseError",
    }


@pytest.mark.parametrize("cls", EVERY_EXCEPTION, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_every_exception_of_docker_requests_urllib3_and_the_system_comes_out_as_ours(cls):
    with pytest.raises(EngineError) as translated, _translated():
        raise _made(cls)

    assert translated.value.__cause__ is not None
    assert isinstance(str(translated.value), str)


def test_whatever_else_docker_raises_is_nonsense_of_the_engines():
    for error in (KeyError("message"), TypeError("null"), AttributeError("list"), RecursionError("deep"), ValueError()):
        with pytest.raises(Unreachable, match="its answer makes no sense") as translated, _translated():
            raise error
        assert translated.value.__cause__ is error


def test_a_bug_in_what_we_ask_for_is_not_taken_for_the_engines(monkeypatch):
    def broken(spec, defaults):
        raise KeyError("ours")

    monkeypatch.setattr("jobmanager.engine.docker.adapter.container_config", broken)
    with pytest.raises(KeyError, match="ours"):
        CALLS["create"](engine_that(None))


def _api_error(status, words="said"):
    response = SimpleNamespace(status_code=status, reason="r", url="u")
    return docker.errors.APIError("message", response=response, explanation=words)


@pytest.mark.parametrize(
    ("status", "ours"),
    [(400, Refused), (401, Refused), (403, Refused), (404, NoSuchContainer), (409, Refused), (413, Refused), (500, EngineFailed),
     (502, EngineFailed), (503, EngineFailed)],
)  # fmt: skip
def test_a_status_has_its_meaning_and_the_engines_words_are_kept(status, ours):
    with pytest.raises(ours, match="no space left") as translated, _translated():
        raise _api_error(status, "no space left")

    assert type(translated.value) is ours


def test_what_404_and_409_mean_depends_on_the_call():
    for error, ours in ((_api_error(404), ImageMissing), (_api_error(409), NameTaken), (docker.errors.NotFound("x"), Refused)):
        with pytest.raises(ours), _translated(missing=ImageMissing, conflict=NameTaken):
            raise error


def test_an_engine_error_goes_through_as_it_is():
    with pytest.raises(ImageMissing, match="mine"), _translated():
        raise ImageMissing("mine")


def test_the_reason_that_a_person_can_use_is_dug_out():
    refused = ConnectionRefusedError(111, "Connection refused")
    retried = urllib3.exceptions.MaxRetryError(None, "/info", refused)
    wrapped = requests.exceptions.ConnectionError(retried)

    assert _innermost(wrapped) == "[Errno 111] Connection refused (nobody listens there: is Docker running?)"
    assert _innermost(requests.exceptions.ReadTimeout("read timed out")) == "read timed out"
    assert "broken" in _innermost(urllib3.exceptions.ProtocolError("broken", refused)) or "refused" in _innermost(
        urllib3.exceptions.ProtocolError("broken", refused)
    )


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("unix:///nowhere/docker.sock", "[Errno 2] No such file or directory (no socket there: is Docker running?)"),
        ("tcp://127.0.0.1:1", "[Errno 111] Connection refused (nobody listens there: is Docker running?)"),
        ("unix:///etc/passwd", "/etc/passwd is no socket"),
        ("unix:///etc", "/etc is no socket"),
    ],
)
def test_an_engine_that_is_not_there_is_asked_for_in_plain_words(url, says):
    engine = DockerEngine(Address(host="h", url=url), timeout_s=1.0)
    try:
        with pytest.raises(Unreachable, match=f"^{re.escape(says)}$"):
            engine.info()
    finally:
        engine.close()
        gc.collect()  # as below


def test_an_engine_that_takes_the_call_and_says_nothing_is_told_with_the_time_it_had():
    with socket.create_server(("127.0.0.1", 0)) as mute:
        engine = DockerEngine(Address(host="h", url=f"tcp://127.0.0.1:{mute.getsockname()[1]}"), timeout_s=0.5)
        try:
            with pytest.raises(Unreachable, match=r"^no answer within 0\.5 s$"):
                engine.info()
        finally:
            engine.close()
            gc.collect()  # as below


# ---- every call of the protocol

SPEC = ContainerSpec(name="n", image="i", labels={}, limits=Limits())
CALLS = {
    "info": lambda engine: engine.info(),
    "about": lambda engine: engine.about(),
    "images": lambda engine: engine.images(),
    "networks": lambda engine: engine.networks(),
    "image_defaults": lambda engine: engine.image_defaults("image never asked for"),
    "pull": lambda engine: engine.pull("i"),
    "create": lambda engine: engine.create(SPEC, ImageDefaults(command=(), volumes=())),
    "create_carrier": lambda engine: engine.create_carrier("n", "i", {}, ()),
    "start": lambda engine: engine.start("c"),
    "open_channel": lambda engine: engine.open_channel("c"),
    "inspect": lambda engine: engine.inspect("c"),
    "list": lambda engine: engine.list({"a": None}),
    "make_fifos": lambda engine: engine.make_fifos("c", ["/pipes/a", "/pipes/b"]),
    "write_file": lambda engine: engine.write_file("c", "/etc/passwd", b"x"),
    "kill": lambda engine: engine.kill("c"),
    "set_limits": lambda engine: engine.set_limits("c", Limits()),
    "usage": lambda engine: engine.usage("c"),
    "archive": lambda engine: list(engine.archive("c", "/job")),
    "wait_until_ended": lambda engine: engine.wait_until_ended("c", 1.0),
    "remove": lambda engine: engine.remove("c"),
    "volumes": lambda engine: engine.volumes({"a": None}),
    "remove_volume": lambda engine: engine.remove_volume("v"),
}


class FailingClient:
    """docker's client on a bad day."""

    def __init__(self, error):
        self._error = error

    def __getattr__(self, name):
        def call(*args, **kwargs):
            raise self._error

        return call


def engine_that(error):
    engine = DockerEngine(Address(host="h", url="unix:///nowhere"), timeout_s=1.0)
    engine._open_client = FailingClient(error)
    return engine


def test_every_call_of_the_protocol_is_tried_here():
    methods = {name for name, value in vars(protocol.Engine).items() if inspect.isfunction(value) and not name.startswith("_")}

    assert methods - {"close"} == {name.split(" ")[0] for name in CALLS}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_call_lets_another_exception_through(call):
    for error in [_made(cls) for cls in EVERY_EXCEPTION] + [_api_error(status) for status in (400, 404, 409, 500)]:
        if call in (CALLS["remove"], CALLS["remove_volume"]) and getattr(error, "status_code", None) == 404:
            continue  # nothing of that name is fine
        with pytest.raises(EngineError):
            call(engine_that(error))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_engine_that_is_not_there_is_unreachable(call, monkeypatch):
    monkeypatch.setattr(DockerEngine, "_api_versions", {})
    engine = DockerEngine(Address(host="h", url="unix:///nowhere/docker.sock"), timeout_s=1.0)
    try:
        with pytest.raises(Unreachable, match="No such file"):
            call(engine)
    finally:
        engine.close()
        gc.collect()  # urllib3's exceptions and frames refer to each other, with the socket that failed to connect


@pytest.mark.parametrize(
    ("name", "status", "ours"),
    [("create", 404, ImageMissing), ("create", 409, NameTaken), ("kill", 409, NotRunning), ("kill", 404, NoSuchContainer),
     ("open_channel", 409, Refused), ("inspect", 404, NoSuchContainer), ("image_defaults", 404, ImageMissing),
     ("start", 404, NoSuchContainer),
     ("pull", 404, ImageMissing), ("open_channel", 404, NoSuchContainer), ("archive", 404, NoSuchContainer)],
)  # fmt: skip
def test_what_a_call_can_meet_has_its_own_word(name, status, ours):
    with pytest.raises(ours) as translated:
        CALLS[name](engine_that(_api_error(status)))

    assert type(translated.value) is ours


def test_an_engines_words_hold_nothing_that_a_terminal_would_act_on():
    answer = requests.Response()
    answer.status_code = 400
    with pytest.raises(EngineError) as refused:
        CALLS["start"](engine_that(docker.errors.APIError("x", answer, explanation="red \x1b[31m\nturned \u202e é")))

    assert str(refused.value) == r"red \x1b[31m\nturned \u202e é"


def test_removing_what_is_not_there_is_fine_and_what_is_still_going_is_tried_again():
    gone = engine_that(None)
    gone._open_client = SimpleNamespace(
        remove_container=lambda *args, **kwargs: (_ for _ in ()).throw(_api_error(404)),
        inspect_container=lambda name: (_ for _ in ()).throw(_api_error(404)),
        volumes=lambda **filters: {"Volumes": None},
    )
    gone.remove("c")

    engine = engine_that(None)
    engine._open_client = SimpleNamespace(
        remove_container=lambda *args, **kwargs: (_ for _ in ()).throw(_api_error(409)),
        inspect_container=lambda name: {"Id": "1", "Name": "/c", "State": {"Status": "removing", "ExitCode": 0}, "Config": {}},
    )
    with pytest.raises(BeingRemoved, match="still under way"):
        engine.remove("c")


def test_the_tree_of_engine_errors_is_drawn_whole():
    classes = [value for value in vars(protocol).values() if inspect.isclass(value) and issubclass(value, EngineError)]

    for cls in classes:
        assert cls.__name__ in EngineError.__doc__
        assert cls is EngineError or issubclass(cls.__bases__[0], EngineError)


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01T00:00:10.5Z", 10.5),
        ("1970-01-01T00:00:10.123456789Z", 10.123456789),
        ("1970-01-01T01:00:10.123456789+01:00", 10.123456789),
        ("1970-01-01T00:00:10", 10.0),
        ("1970-13-01T00:00:10Z", 0.0),
        ("1970-01-01T01:00:10+01:00", 10.0),
        ("1969-12-31T22:30:10-01:30", 10.0),
        ("", 0.0),
        (None, 0.0),
        ("yesterday", 0.0),
    ],
)
def test_an_engines_time_is_read_whatever_its_form(stamp, seconds):
    assert _seconds(stamp) == pytest.approx(seconds)


def test_output_is_taken_apart_wherever_it_is_cut():
    frames = [(1, b"out"), (2, b"err"), (1, b""), (2, b"x" * 70_000), (1, b"\0\0\0\0\0\0\0\5")]
    data = b"".join(bytes([stream, 0, 0, 0]) + len(content).to_bytes(4, "big") + content for stream, content in frames)
    expected = [b"".join(content for stream, content in frames if stream == wanted) for wanted in (1, 2)]

    for size in (1, 3, 8, 11, 65536, len(data)):
        parser = streams.FrameParser()
        found = [piece for at in range(0, len(data), size) for piece in parser.feed(data[at : at + size])]
        assert [b"".join(content for is_stderr, content in found if is_stderr is stderr) for stderr in (False, True)] == expected


def test_what_has_come_of_a_frame_is_not_held_back():
    parser = streams.FrameParser()
    assert parser.feed(b"\1\0\0\0\0\0\0\5ab") == [(False, b"ab")]
    assert parser.feed(b"cde") == [(False, b"cde")]


@pytest.mark.parametrize(
    "stray",
    [b"HTTP/1.1 504 x\r\n\r\n", b"\3\0\0\0\0\0\0\1x", b"\1\0\1\0\0\0\0\1x", b"\1\0\0\0\xff\xff\xff\xffx"],
    ids=["an error page", "an unknown stream", "padding", "a length of 4 GiB"],
)
def test_output_is_corrupt_from_the_first_bytes_on_that_are_no_frame(stray):
    frame = b"\2\0\0\0\0\0\0\3err"
    data = frame + stray + frame * 3

    for size in (1, 5, 64, len(data)):
        parser = streams.FrameParser()
        found = [piece for at in range(0, len(data), size) for piece in parser.feed(data[at : at + size])]
        assert b"".join(content for _, content in found) == b"err"
        assert parser.is_corrupt


def test_importing_the_adapter_is_the_only_way_to_docker():
    import subprocess
    import sys

    modules = "jobmanager.manager, jobmanager.control.loop, jobmanager.watching.monitor"
    code = f"import {modules}, sys; assert 'docker' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
