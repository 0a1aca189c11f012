"""`jobmanager nodes` and `jobmanager queue`, on what a cluster has left in Redis: no node, client or dispatcher need live."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest

from jobmanager import cli
from jobmanager.remote.options import ClusterAddress
from jobmanager.remote.records import JobHeader, Needs, NodeReport, Placement
from jobmanager.remote.signing import Keyring
from jobmanager.remote.store import Accepted, ClusterStore, NewJob
from jobmanager.remote.timeouts import ClusterTimeouts
from tests.conftest import eventually
from tests.support.redis_server import RedisServer

KEY = secrets.token_hex(32)
NAMESPACE = "exam"
REPORT = NodeReport(
    name="",
    incarnation="i1",
    version="1.2.3",
    oldest_schema=1,
    newest_schema=1,
    state="up",
    slots=4,
    used=0,
    memory_mib=4096,
    free_memory_mib=1024,
    cores=2,
    environments=("python3", "c"),
    images=(),
    machine="m1",
    pid=7,
)


class Written:
    """A cluster that consists of what stands in Redis."""

    def __init__(self, store: ClusterStore, address: ClusterAddress) -> None:
        self.store = store
        self.signer = address.signer

    def node(self, name: str, key: str = KEY, **report: object) -> None:
        """A sign of life of a node."""
        said = replace(REPORT, name=name, **report)
        signer = Keyring.from_environment(key).signer(NAMESPACE)
        self.store.beat(name, said.incarnation, signer.sign(NodeReport.kind_of_signature, said.to_json()), [])

    def job(self, environment: str = "python3") -> str:
        """A job that waits; its R."""
        r = secrets.token_hex(16)
        needs = Needs(environment=environment, memory_mib=64, cpus=1.0, wall_s=10.0)
        header = JobHeader(
            schema=1,
            r=r,
            job_id=f"id-{r}",
            client="web",
            launcher="ada",
            priority=0,
            title="",
            job_class="",
            needs=needs,
            retries=0,
            supersede_key=None,
            queue_timeout_s=100.0,
            not_after_s=2e9,
            body="0" * 64,
        )
        signed = self.signer.sign(JobHeader.kind_of_signature, header.to_json())
        job = NewJob(r=r, job_id=header.job_id, client="web", title="", header=signed, body="x")
        assert self.store.accept(job, max_waiting=100) == Accepted()
        return r

    def place(self, r: str, node: str, *, start: bool = False) -> str:
        """Its token."""
        token = secrets.token_hex(16)
        placement = Placement(r=r, node=node, incarnation="i1", token=token)
        signed = self.signer.sign(Placement.kind_of_signature, placement.to_json())
        assert self.store.place_all(self.store.lead("d1"), [(r, node, "i1", token, signed, "")]) == ["placed"]
        if start:
            assert self.store.start(r, node=node, incarnation="i1", token=token) == "run"
        return token


@pytest.fixture
def written(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    monkeypatch.setenv("JOBMANAGER_REDIS_URL", redis_server.url)
    monkeypatch.setenv("JOBMANAGER_KEY", KEY)
    address = ClusterAddress(
        url=redis_server.url, namespace=NAMESPACE, keyring=Keyring.from_environment(KEY), timeouts=ClusterTimeouts()
    )
    with address.open() as store:
        yield Written(store, address)


def run(*arguments: str) -> int:
    return cli.run([*arguments, "--namespace", NAMESPACE])


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    code = run(*arguments, "--json")
    return code, json.loads(capsys.readouterr().out)


# ---- nodes


def test_each_node_is_shown_with_what_it_says_of_itself(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    written.node("n1")
    written.place(written.job(), "n1")

    code = run("nodes")

    said = capsys.readouterr().out
    assert code == 0
    for word in ("n1", "up", "4", "1", "1024 of 4096 MiB", "python3, c", "1.2.3", "0 s ago"):
        assert word in said


def test_the_json_of_nodes_has_each_field(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    written.node("n1", state="paused", reason="its disk is full")

    code, said = as_json(capsys, "nodes")

    (node,) = said["nodes"]
    assert (code, said["exit_code"]) == (0, 0)
    assert 0 <= node.pop("seen_s") < 60
    report = asdict(REPORT) | {"environments": ["python3", "c"]}
    assert node == report | {
        "name": "n1",
        "images": [],
        "state": "paused",
        "reason": "its disk is full",
        "want": "up",
        "jobs": 0,
    }


def test_a_node_without_a_sign_of_life_is_down_and_so_says_the_exit_code(
    written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    written.node("n1")
    written.node("n2")
    written.store.release_node("n1", "i1")

    code, said = as_json(capsys, "nodes")

    assert (code, [(node["state"], node["reason"]) for node in said["nodes"]]) == (1, [("down", "no sign of life"), ("up", "")])
    assert as_json(capsys, "nodes", "list", "n2")[0] == 0


@pytest.mark.parametrize("forgery", ["another key", "another node's"])
def test_a_report_that_is_not_the_node_s_own_is_not_believed(
    written: Written, capsys: pytest.CaptureFixture[str], forgery: str
) -> None:
    if forgery == "another key":
        written.node("n1", key=secrets.token_hex(32), slots=1000)
    else:
        other = replace(REPORT, name="n2", slots=1000)
        written.store.beat("n1", "i1", written.signer.sign(NodeReport.kind_of_signature, other.to_json()), [])

    code, said = as_json(capsys, "nodes")

    assert (code, "slots" in said["nodes"][0]) == (1, False)
    assert said["nodes"][0]["reason"].startswith("its report is not believed: ")


@pytest.mark.parametrize(("action", "want"), [("drain", "drain"), ("pause", "pause"), ("resume", "up")])
def test_what_is_asked_of_a_node_is_kept_in_redis(
    written: Written, capsys: pytest.CaptureFixture[str], action: str, want: str
) -> None:
    for name in ("n1", "n2"):
        written.node(name)
    assert run("nodes", "pause", "n1") == 0  # so that `resume` changes something

    assert run("nodes", action, "n1") == 0

    assert [(node.name, node.want) for node in written.store.nodes()] == [("n1", want), ("n2", "up")]
    assert (f"asked to {action}" in capsys.readouterr().out.splitlines()[-2]) == (want != "up")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["drain"], "jobmanager: nodes drain: which ones?\n"),
        (["pause", "n3", "n1", "n[4]"], "jobmanager: no node is named n3, n[4]. There are: n1\n"),
        (["stop", "n1"], None),
    ],
)
def test_a_node_that_is_not_there_is_bad_input(
    written: Written, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str | None
) -> None:
    written.node("n1")

    assert run("nodes", *arguments) == 2

    assert written.store.nodes()[0].want == "up"
    assert said is None or capsys.readouterr().err == said


def test_until_empty_waits_for_the_last_job(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    written.node("n1")
    r = written.job()
    token = written.place(r, "n1")
    codes: list[int] = []
    waits = threading.Thread(target=lambda: codes.append(run("nodes", "drain", "n1", "--until-empty")))
    waits.start()
    eventually(lambda: written.store.nodes()[0].want == "drain")
    written.node("n1", state="draining")
    waits.join(1.0)
    assert waits.is_alive()

    assert written.store.back(r, token=token, reason="", exclude=False)

    waits.join(10.0)
    assert codes == [0]


def test_until_empty_gives_up_when_its_time_is_over(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    written.node("n1")
    written.place(written.job(), "n1")
    for name, state in (("n2", "draining"), ("n3", "up"), ("n4", "up")):
        written.node(name, state=state)
    written.store.release_node("n4", "i1")  # nobody is there who could say anything

    assert run("nodes", "drain", "n1", "n2", "n3", "n4", "--until-empty", "--timeout", "0.1") == 1

    assert capsys.readouterr().err == "jobmanager: not done after 0.1 s: n1 has 1 job; n3 does not know yet that it is to drain\n"


def test_until_empty_waits_until_the_node_itself_says_that_it_drains(written: Written) -> None:
    written.node("n1")
    codes: list[int] = []
    waits = threading.Thread(target=lambda: codes.append(run("nodes", "drain", "n1", "--until-empty")))
    waits.start()
    eventually(lambda: written.store.nodes()[0].want == "drain")
    waits.join(1.0)
    assert waits.is_alive()

    written.node("n1", state="draining")

    waits.join(10.0)
    assert codes == [0]


def test_until_a_node_takes_jobs_again_its_row_says_that_it_was_asked_to(
    written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    written.node("n1", state="draining")
    assert run("nodes", "resume", "n1") == 0
    before = capsys.readouterr().out
    written.node("n1")
    assert run("nodes", "resume", "n1") == 0

    assert "asked to resume" in before and "asked to" not in capsys.readouterr().out


# ---- nodes forget


def test_a_node_that_will_not_come_back_is_forgotten(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("n1", "n2"):
        written.node(name)
    written.store.set_want("n1", "drain")
    written.store.release_node("n1", "i1")

    code, said = as_json(capsys, "nodes", "forget", "n1")

    assert (code, [node["name"] for node in said["nodes"]]) == (0, ["n2"])
    written.node("n1")  # comes back all the same
    assert [(node.name, node.want) for node in written.store.nodes()] == [("n1", "up"), ("n2", "up")]


def test_a_node_that_lives_or_has_jobs_is_not_forgotten(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("n1", "n2", "n3"):
        written.node(name)
    written.place(written.job(), "n2")
    for name in ("n2", "n3"):
        written.store.release_node(name, "i1")

    codes = [run("nodes", "forget", "n3", name) for name in ("n1", "n2")] + [run("nodes", "forget")]

    assert codes == [2, 2, 2]
    assert capsys.readouterr().err.splitlines() == [
        "jobmanager: node n1 is not forgotten: a worker holds its name. Stop it first; one that was killed holds it for 15 s",
        "jobmanager: node n2 is not forgotten: the leader has not decided yet what becomes of the jobs there (1)."
        " It does so 60 s after the node's last sign of life",
        "jobmanager: nodes forget: which ones?",
    ]
    assert [node.name for node in written.store.nodes()] == ["n1", "n2", "n3"]


# ---- queue


def test_jobs_are_counted_by_environment_and_state(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    written.node("n1")
    written.node("n2", state="paused")
    jobs = [written.job(environment) for environment in ("python3", "python3", "python3", "python3", "rust")]
    written.place(jobs[0], "n1")
    written.place(jobs[1], "n1", start=True)

    code, said = as_json(capsys, "queue")

    oldest = {each["environment"]: each.pop("oldest_s") for each in said["environments"]}
    assert code == 0
    assert oldest.pop("c") is None and all(0 <= each < 60 for each in oldest.values())
    assert said["oldest_s"] == max(oldest.values())
    assert (said["waiting"], said["placed"], said["running"]) == (3, 1, 1)
    assert (said["slots"], said["free_slots"], said["leader"]) == (4, 2, "d1")
    assert said["environments"] == [
        {"environment": "c", "waiting": 0, "placed": 0, "running": 0, "nodes": 1},
        {"environment": "python3", "waiting": 2, "placed": 1, "running": 1, "nodes": 1},
        {"environment": "rust", "waiting": 1, "placed": 0, "running": 0, "nodes": 0},
    ]


def test_the_table_of_the_queue_says_that_nobody_places_jobs(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    written.job()

    assert run("queue") == 0

    said = capsys.readouterr().out
    assert "1 waiting, the oldest for 0 s; 0 placed; 0 running; 0 of 0 slots free" in said
    assert "no dispatcher leads" in said


def test_a_job_that_is_not_signed_with_our_key_is_counted_as_such(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    job = NewJob(r=secrets.token_hex(16), job_id="a", client="web", title="", header="forged", body="")
    written.store.accept(job, max_waiting=10)

    _, said = as_json(capsys, "queue")

    assert [(each["environment"], each["waiting"]) for each in said["environments"]] == [("?", 1)]


# ---- Redis


@pytest.mark.parametrize("command", ["nodes", "queue"])
def test_a_redis_that_is_away_is_told_in_a_line(
    written: Written, redis_server: RedisServer, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    redis_server.stop()

    assert run(command) == 3

    assert capsys.readouterr().err.startswith(f"jobmanager: Redis at {redis_server.url.replace('//', '')} cannot be reached")


def test_a_password_among_the_arguments_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("queue", "--redis", "redis://:s3cret@localhost:1/0") == 2

    said = capsys.readouterr().err
    assert "--redis-url-file" in said and "s3cret" not in said


def test_without_a_key_a_command_says_how_to_make_one(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOBMANAGER_KEY", raising=False)
    monkeypatch.delenv("JOBMANAGER_KEY_FILE", raising=False)

    assert run("queue", "--redis", redis_server.url) == 2

    assert "secrets.token_hex(32)" in capsys.readouterr().err


def test_the_other_commands_need_no_redis() -> None:
    without = (
        "import sys; sys.modules['redis'] = sys.modules['rq'] = None; from jobmanager.cli import run; sys.exit(run(sys.argv[1:]))"
    )

    def said(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-c", without, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ, check=False)
        return done.returncode, done.stderr

    assert said("doctor", "--help") == said("--help") == (0, "")
    code, error = said("nodes")
    assert code == 2
    assert error.startswith("jobmanager: nodes needs the extra `rq`: there is no redis here; ") and error.endswith("'.[rq]'\n")
