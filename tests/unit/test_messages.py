"""What is said to people who give something that is nearly right: the message says what was meant."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobmanager import Case, ClientBuffer, ClientFuture, ClientSync, Code, DockerHost, Grader, JobInput, JobManager, Task
from jobmanager.control.request import job_request
from jobmanager.errors import InvalidHost, InvalidInput, InvalidTask, InvalidValue
from jobmanager.model._checks import names_a_file
from jobmanager.testing import FakeEngineServer
from tests.unit.stub_client import StubClient

# ---- hosts


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("/var/run/docker.sock", "unix:///var/run/docker.sock"),
        ("http://host:2375", "tcp://host:2375"),
        ("https://host:2376/", "tcp://host:2376"),
        ("grader.example.org:2376", "tcp://grader.example.org:2376"),
        ("10.0.0.1:2376", "tcp://10.0.0.1:2376"),
        ("me@grader", "ssh://me@grader"),
        ("ssh:me@grader.example.org", "ssh://me@grader.example.org"),
        ("me@grader:2222", "ssh://me@grader:2222"),
        ("localhost", "unix:///var/run/docker.sock"),
        ("docker:2375", "tcp://docker:2375"),
    ],
)
def test_a_url_without_its_kind_or_with_another_clients_is_asked_about(url: str, meant: str) -> None:
    with pytest.raises(InvalidHost, match=f": did you mean {meant}\\?$"):
        DockerHost(url)
    assert DockerHost(meant).url == meant


@pytest.mark.parametrize("url", ["tcp:2375", "ssh:22"])
def test_a_url_that_names_no_host_gets_no_wrong_guess(url: str) -> None:
    with pytest.raises(InvalidHost, match=r"names no host: give unix:///var/run/docker\.sock, tcp"):
        DockerHost(url)


@pytest.mark.parametrize("url", ["", "docker", "/", "npipe:////./pipe/docker_engine", "host:port", "http://"])
def test_a_url_that_may_mean_anything_gets_examples(url: str) -> None:
    with pytest.raises(InvalidHost, match=r"makes no sense: give unix:///var/run/docker.sock, tcp"):
        DockerHost(url)


# ---- texts that name files


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "main.py").write_text("print(42)\n")
    (tmp_path / "plain").write_text("x")
    (tmp_path / "folder.d").mkdir()
    (tmp_path / "folder.d" / "plain").write_text("x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


BY_MISTAKE: list[Callable[[str], object]] = [
    lambda text: Task("x", files={"main.py": text}),
    lambda text: Case(text),
    lambda text: Case(b"", expected=text),
    lambda text: Case(files={"a": text}),
]


@pytest.mark.parametrize("give", BY_MISTAKE)
def test_a_text_that_names_a_file_is_refused_with_both_ways_out(here: Path, give: Callable[[str], object]) -> None:
    for text in ("main.py", str(here / "main.py"), "folder.d/plain"):
        with pytest.raises(InvalidTask) as raised:
            give(text)
        assert f"is the text {text!r}, and there is a file of that name: give Path({text!r}) for" in str(raised.value)
        assert f"or b{text!r} for the text" in str(raised.value)


@pytest.mark.parametrize("give", BY_MISTAKE)
def test_the_ways_out_and_texts_that_only_look_like_it_are_taken(here: Path, give: Callable[[Any], object]) -> None:
    for text in (
        Path("main.py"),
        b"main.py",
        "main.py\n",
        "other.py",
        "plain",
        "folder.d",
        "",
        "a/b",
        "x" * 5000 + ".py",
        "a\0.py",
    ):
        give(text)


def test_a_submitters_text_that_names_a_file_is_no_error_and_only_a_warning(here: Path) -> None:
    with pytest.warns(UserWarning, match=r"JobInput: file 'a' is the text 'main.py', .* Path\('main.py'\)$") as told:
        assert JobInput(files={"a": "main.py"}).files == {"a": b"main.py"}
    assert [Path(each.filename).name for each in told] == ["test_messages.py"]
    with pytest.warns(UserWarning, match=r"stdin is the text 'main.py', .* Path\('main.py'\)$"):
        assert JobInput(stdin="main.py").stdin == b"main.py"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        JobInput({"a": "main.py"}, files={"a": "print(1)"}, stdin="1 2 3")


@pytest.mark.parametrize("given", [None, 5, b"main.py", "\ud800/x"])
def test_what_is_no_name_names_no_file(here: Path, given: object) -> None:
    assert not names_a_file(given)


# ---- files that nothing reads


def accepted(task: Task, inputs: JobInput | dict[str, Any] | None = None) -> object:
    return job_request(task, inputs, None, {}, ssh_timeout_s=1.0)


@pytest.mark.parametrize(
    ("task", "inputs"),
    [
        (Task("quiet", files={"main.py": "x\n"}), None),
        (Task("quiet2", problems={"q": Code("main.py")}), {"q": "x"}),
        (Task("quiet3"), JobInput(files={"main.py": "x\n"})),
    ],
)
def test_files_without_a_command_or_a_grader_are_warned_about(task: Task, inputs: Any) -> None:
    with pytest.warns(UserWarning, match=f"a job for '{task.environment}' has files, and its task neither a command nor a grader"):
        accepted(task, inputs)


def test_a_job_that_its_command_its_grader_or_the_image_sees_to_is_not_warned_about() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        accepted(Task("x", command="true", files={"a": "x\n"}))
        accepted(Task("x", grader=Grader(), files={"run": "x\n"}))
        accepted(Task("x"))


# ---- callers


@pytest.mark.parametrize("way_in", [ClientSync, ClientBuffer, ClientFuture])
@pytest.mark.parametrize(
    "given", [3, None, "unix:///var/run/docker.sock", DockerHost("unix:///x"), JobManager, [StubClient]], ids=repr
)
def test_a_way_in_refuses_what_is_no_client(way_in: Any, given: object) -> None:
    with pytest.raises(InvalidValue, match=r"^client must be a JobManager, a RemoteClient or another Client, not "):
        way_in(given)
    way_in(StubClient())
    way_in(JobManager("unix:///nowhere"))


@pytest.mark.parametrize("way_in", [ClientSync, ClientBuffer, ClientFuture])
def test_a_double_needs_only_what_the_way_in_calls(way_in: Any) -> None:
    class Double:
        def new_job(self) -> None: ...
        def kill_job(self) -> None: ...

    way_in(Double())


def test_a_large_value_in_a_message_is_cut() -> None:
    with pytest.raises(InvalidInput) as raised:
        job_request(Task("x"), None, None, {"job_id": b"x" * 10**6}, ssh_timeout_s=1.0)  # type: ignore[typeddict-item]
    assert str(raised.value).endswith("'... (1000000 bytes)") and len(str(raised.value)) < 400


# ---- extras


def test_without_redis_the_remote_module_says_which_extra_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("jobmanager.remote")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"^jobmanager.remote needs the extra `rq`: there is no redis here; .*'\.\[rq\]'$"
    ):
        import jobmanager.remote  # noqa: F401


# ---- the number of waiting jobs


def test_the_queue_has_a_length_that_costs_little_to_ask_for() -> None:
    with FakeEngineServer() as fake, JobManager(DockerHost(fake.url, max_concurrent_jobs=1)) as manager:
        assert manager.queue_length() == 0
        first = manager.submit(Task("busybox", command="sleep 60"))
        others = [manager.submit(Task("busybox", command="true")) for _ in range(3)]
        assert manager.queue_length() >= 3
        manager.kill_job(others[0].job_id)
        others[0].result(20)
        first.cancel()
        for job in others[1:]:
            job.result(20)
        assert manager.queue_length() == 0
