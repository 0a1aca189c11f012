"""What ``JobManager`` refuses at the call: nothing is started by any of it."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from jobmanager import DockerHost, HookManager, JobInput, JobManager, Limits, Match, Task, errors
from jobmanager.control.request import job_request
from jobmanager.model.phase import Phase
from jobmanager.model.pipeline import Pipeline
from tests.conftest import children, our_threads

TASK = Task("x", command="true", problems={"m": Match("a")})
LOCAL = Task("x", problems={"m": Match("a")})

BAD_MANAGERS = [
    ({"hosts": []}, errors.InvalidHost, "hosts is empty: give at least one DockerHost"),
    ({"hosts": ["nonsense"]}, errors.InvalidHost, "host url 'nonsense' makes no sense"),
    ({"hosts": [5]}, errors.InvalidHost, "hosts must be DockerHosts or urls, not 5"),
    ({"hosts": ["unix:///a", "unix:///a"]}, errors.InvalidHost, "the same host twice: 'unix:///a'"),
    (
        {"hosts": [DockerHost("unix:///a", name="n"), DockerHost("unix:///b", name="n")]},
        errors.InvalidHost,
        "two hosts have one name: 'n'",
    ),
    (
        {"hosts": [DockerHost("tcp://a:1", name="n"), DockerHost("tcp://a:1/", name="m")]},
        errors.InvalidHost,
        "the same host twice: 'tcp://a:1/', as 'n' and as 'm'",
    ),
    ({"hosts": 5}, errors.InvalidHost, "hosts must be"),
    ({"environments": ["a"]}, errors.InvalidValue, "environments must map names to images, not list"),
    ({"environments": {1: "a"}}, errors.InvalidValue, "an environment's name must be a string"),
    ({"environments": {"a": None}}, errors.InvalidValue, "the image of environment 'a' must be a string"),
    ({"environments": {"a": ""}}, errors.InvalidValue, "the image of environment 'a' is empty"),
    ({"hook_manager": print}, errors.InvalidValue, "hook_manager must be a HookManager"),
    ({"max_waiting_jobs": 0}, errors.InvalidValue, "max_waiting_jobs must be a whole number above zero"),
    ({"queue_timeout_s": -1}, errors.InvalidValue, "queue_timeout_s must be a number above zero"),
    ({"callback_threads": 0}, errors.InvalidValue, "callback_threads must be a whole number above zero"),
    ({"pool_size": 0}, errors.InvalidValue, "pool_size must be a whole number above zero"),
    ({"host_lost_timeout_s": 0}, errors.InvalidValue, "host_lost_timeout_s must be a number above zero"),
    ({"engine_timeout_s": float("nan")}, errors.InvalidValue, "engine_timeout_s must be a number above zero"),
    ({"ssh_timeout_s": 0}, errors.InvalidValue, "ssh_timeout_s must be a number above zero"),
    ({"engine_timeout_s": 10**400}, errors.InvalidValue, "engine_timeout_s must be a number above zero, not a number of 1329 bits"),
    ({"engine_timeout_s": 1e9}, errors.InvalidValue, "engine_timeout_s must be at most a year, not 1000000000.0 seconds"),
    ({"queue_timeout_s": 1e9}, errors.InvalidValue, "queue_timeout_s must be at most a year"),
    ({"host_lost_timeout_s": 1e300}, errors.InvalidValue, "host_lost_timeout_s must be at most a year"),
    ({"callback_threads": 1001}, errors.InvalidValue, "callback_threads must be at most 1000, not 1001"),
    ({"pool_size": 10**30}, errors.InvalidValue, "pool_size must be at most 1000, not 1000000000000000000000000000000"),
]

BAD_JOBS = [
    ({"task": "python3"}, errors.InvalidTask, "task must be a Task or a Pipeline, not 'python3'"),
    ({"task": None}, errors.InvalidTask, "task must be a Task"),
    ({"inputdata": ["a"]}, errors.InvalidInput, "inputdata must be a JobInput or a mapping of answers, not list"),
    ({"inputdata": {1: "a"}}, errors.InvalidInput, "answers must have strings for keys"),
    ({"inputdata": {"z": "a"}}, errors.InvalidInput, "no such problem"),
    ({"inputdata": JobInput(files={"f": bytes(2**27)})}, errors.InvalidInput, "raise workspace_mib"),
    ({"supersede_key": ""}, errors.InvalidInput, "supersede_key is empty"),
    ({"supersede_key": 7}, errors.InvalidInput, "supersede_key must"),
    ({"supersede_key": "k" * 1001}, errors.InvalidInput, "supersede_key must be at most 1000 characters long"),
    ({"priority": "high"}, errors.InvalidInput, "priority must be a whole number"),
    ({"priority": 1.5}, errors.InvalidInput, "priority must be a whole number"),
    ({"priority": True}, errors.InvalidInput, "priority must be a whole number"),
    ({"launcher_name": 5}, errors.InvalidInput, "launcher_name must be a string"),
    ({"debug": "yes"}, errors.InvalidInput, 'debug must be True, False or "ssh"'),
    ({"debug": 1}, errors.InvalidInput, 'debug must be True, False or "ssh"'),
    ({"debug": "ssh", "task": LOCAL}, errors.InvalidInput, 'debug="ssh" needs a task that runs in a container'),
    ({"debug": "ssh", "task": Task("x", user="1000")}, errors.InvalidInput, 'debug="ssh" cannot be had with user or privileged'),
    ({"debug": "ssh", "task": Task("x", privileged=True)}, errors.InvalidInput, "cannot be had with user or privileged"),
    ({"task": Task("x", collect=["a", "/volumes/work/*"])}, errors.InvalidTask, "collect has '/volumes/work/*', and a task alone"),
    ({"job_id": ""}, errors.InvalidInput, "job_id is empty"),
    ({"job_id": 5}, errors.InvalidInput, "job_id must be a string"),
    ({"job_id": "a\nb"}, errors.InvalidInput, "job_id must be printable"),
]


@pytest.mark.parametrize(
    ("given", "error", "says"), BAD_MANAGERS, ids=lambda value: repr(value)[:50] if isinstance(value, dict) else None
)
def test_a_manager_that_makes_no_sense_is_refused_when_it_is_made(given, error, says):
    with pytest.raises(error) as refused:
        JobManager(**{"hosts": "unix:///nowhere", **given})

    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("given", "error", "says"), BAD_JOBS, ids=lambda value: repr(value)[:50] if isinstance(value, dict) else None
)
def test_a_job_that_makes_no_sense_is_refused_and_the_message_says_why(given, error, says):
    options = dict(given)
    task, inputdata = options.pop("task", TASK), options.pop("inputdata", {"m": "a"})

    with pytest.raises(error) as refused:
        job_request(task, inputdata, None, options, ssh_timeout_s=1.0)

    assert says in str(refused.value)


def test_a_callback_that_is_not_callable_is_refused_and_nothing_is_accepted():
    manager, accepted = JobManager("unix:///nowhere"), []
    ledger = SimpleNamespace(accept=lambda *job: accepted.append(job), wait_for_room=None)
    manager._lifetime._running = SimpleNamespace(pid=os.getpid(), ledger=ledger, change=lambda change: change())

    for bad in ("print", 5, ["print"]):
        with pytest.raises(errors.InvalidInput, match="callback must be callable, not "):
            manager.new_job(TASK, {"m": "a"}, bad)
    with pytest.raises(errors.InvalidInput, match="ssh_callback must be callable"):
        manager.new_job(TASK, {"m": "a"}, debug="ssh", ssh_callback=5)
    for alone in ({"debug": "ssh"}, {"ssh_callback": print}, {"debug": True, "ssh_callback": print}):
        with pytest.raises(errors.InvalidInput, match='debug="ssh" and ssh_callback go together'):
            manager.new_job(TASK, {"m": "a"}, **alone)
    assert accepted == []

    manager.new_job(TASK, {"m": "a"}, print)
    manager.new_job(TASK, {"m": "a"}, print, debug="ssh", ssh_callback=max)
    assert [callbacks for _, *callbacks in accepted] == [[print, None], [print, max]]


def test_secrets_that_are_somewhere_else_are_only_named():
    pipeline = Pipeline([Phase("report", Task("x", command="true"), secrets=["token"])])

    with pytest.raises(errors.InvalidTask, match="wants the secret 'token'"):
        job_request(pipeline, None, None, {}, ssh_timeout_s=1.0)
    assert job_request(pipeline, None, None, {}, ssh_timeout_s=1.0, secrets=None).task is pipeline


def test_a_pipeline_whose_secret_the_manager_does_not_have_is_refused_and_nothing_is_accepted():
    secrets, accepted = {}, []
    manager = JobManager("unix:///nowhere", secrets=secrets)
    ledger = SimpleNamespace(accept=lambda *job: accepted.append(job), wait_for_room=None)
    manager._lifetime._running = SimpleNamespace(pid=os.getpid(), ledger=ledger, change=lambda change: change())
    pipeline = Pipeline([Phase("report", Task("x", command="true"), secrets=["token"])])

    with pytest.raises(errors.InvalidTask, match=r"JobManager\(secrets=\{'token': \.\.\.\}\)"):
        manager.new_job(pipeline)
    assert accepted == []

    secrets["token"] = "x"
    manager.new_job(pipeline)
    assert [request.task for request, *_ in accepted] == [pipeline]


def test_making_a_manager_starts_nothing():
    before = set(children())

    JobManager(["unix:///nowhere", "ssh://nobody@nowhere"], environments={"a": "b"}, hook_manager=HookManager())

    assert our_threads() == []
    assert set(children()) <= before


@pytest.mark.parametrize("option", ["engine_timeout_s", "pool_size"])
def test_a_number_that_python_itself_will_not_write_out_is_refused_all_the_same(option):
    with pytest.raises(errors.InvalidValue, match=f"{option} must be .*not a number of 16610 bits"):
        JobManager("unix:///nowhere", **{option: 10**5000})


@pytest.mark.parametrize("drain_timeout_s", [-1, True, "20", float("nan"), float("inf"), 10**400, 1e9])
def test_closing_with_a_drain_time_that_makes_no_sense_closes_nothing(drain_timeout_s):
    manager = JobManager("unix:///nowhere")

    with pytest.raises(errors.InvalidValue, match="drain_timeout_s must be "):
        manager.close(drain_timeout_s=drain_timeout_s)

    with pytest.raises(errors.NotStarted):  # and not Closed
        manager.hosts()


@pytest.mark.parametrize("kill", [None, 1, "yes"])
def test_closing_with_a_kill_that_is_no_bool_closes_nothing(kill):
    manager = JobManager("unix:///nowhere")

    with pytest.raises(errors.InvalidValue, match="kill must be True or False, not "):
        manager.close(kill=kill)

    with pytest.raises(errors.NotStarted):
        manager.hosts()


def test_the_longest_and_the_shortest_times_are_taken():
    year_s = 366 * 24 * 3600
    manager = JobManager("unix:///nowhere", queue_timeout_s=year_s, host_lost_timeout_s=year_s, engine_timeout_s=year_s)

    manager.close(drain_timeout_s=year_s)
    manager.close(drain_timeout_s=0)


@pytest.mark.parametrize("job_id", [[], 5, None, b"j"])
def test_a_job_id_that_is_no_string_is_refused_where_a_job_is_asked_for(job_id):
    manager = JobManager("unix:///nowhere")

    for call in (manager.kill_job, manager.get_job_queue_info):
        with pytest.raises(errors.InvalidInput) as refused:
            call(job_id)
        assert str(refused.value) == f"job_id must be a string, not {job_id!r}"


def test_before_start_every_call_says_what_to_do():
    manager = JobManager("unix:///nowhere")

    for call in (
        lambda: manager.new_job(TASK),
        lambda: manager.submit(TASK),
        lambda: manager.kill_job("j"),
        lambda: manager.get_job_queue_info("j"),
        manager.get_job_queue_snapshot,
        manager.get_available_environments,
        manager.hosts,
    ):
        with pytest.raises(errors.NotStarted, match=r"call start\(\), or use it in a with statement"):
            call()


def test_after_close_every_call_says_so():
    manager = JobManager("unix:///nowhere")
    manager.close()
    manager.close()

    for call in (lambda: manager.new_job(TASK), manager.start, manager.hosts):
        with pytest.raises(errors.Closed):
            call()


def test_an_id_that_was_not_chosen_is_made_and_differs():
    made = {job_request(TASK, {"m": "a"}, None, {}, ssh_timeout_s=1.0).job_id for _ in range(100)}

    assert len(made) == 100


def test_a_job_holds_everything_that_it_was_given():
    task = Task("x", command="true", files={"a": b"1"}, limits=Limits(memory_mib=16))

    options = {"priority": -5, "launcher_name": "ann", "debug": True, "job_id": "mine"}
    request = job_request(task, JobInput(files={"b": b"2"}, stdin=b"in"), None, options, ssh_timeout_s=1.0)

    assert (request.job_id, request.task, request.priority, request.launcher_name, request.debug) == ("mine", task, -5, "ann", True)
    assert [(run.phase, run.files) for run in request.runs] == [(None, {"a": b"1", "b": b"2"})]
    assert request.runs[0].inputs is request.inputs
    assert request.inputs.stdin == b"in"
