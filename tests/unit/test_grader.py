"""``Grader``, and a task that has one: what could not be run is refused when it is made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobmanager import Code, Grader, Limits, Match, Network, Task
from jobmanager.errors import InvalidTask, UnknownEnvironment, Unsatisfiable
from jobmanager.model.container import EngineInfo, Image
from jobmanager.scheduling.hosts import HostConfig, HostTable
from jobmanager.scheduling.waiting_queue import Requirements

BAD_GRADERS = [
    ({"run": ""}, "run is empty"),
    ({"run": []}, "run must be a string or a list of words"),
    ({"run": ["a", 1]}, "a word of the run must be a string"),
    ({"run": "a\0b"}, "NUL"),
    ({"student_cpu_time_s": 0}, "student_cpu_time_s must be a number above zero"),
    ({"student_memory_mib": 1.5}, "student_memory_mib must be a whole number above zero"),
    ({"student_network": "host"}, "network 'host' is not for jobs"),
    ({"student_network": "container:x"}, "is not for jobs"),
    ({"student_environments": "python3"}, "must be a list of environments"),
    ({"student_environments": [""]}, "a student environment is empty"),
    ({"most_students": 0}, "most_students must be a whole number above zero"),
    ({"most_students": 101}, "most_students must be at most 100"),
    ({"merge_local": "no"}, "merge_local must be True or False"),
]


@pytest.mark.parametrize(("arguments", "reason"), BAD_GRADERS, ids=lambda value: str(value)[:40])
def test_a_grader_that_makes_no_sense_is_refused(arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidTask, match=reason):
        Grader(**arguments)  # type: ignore[arg-type]


def test_a_grader_holds_no_list_of_its_caller() -> None:
    words, environments = ["sh", "x"], ["a"]
    grader = Grader(words, student_environments=environments)
    words.append("y")
    environments.append("b")
    assert (grader.run, grader.student_environments) == (("sh", "x"), ("a",))


@pytest.mark.parametrize("script", ["run", "run.py", "run.sh"])
def test_a_tasks_script_is_its_grader(script: str) -> None:
    assert Task("x", grader=Grader(), files={script: "true"}).needs_container


def test_a_task_without_a_script_is_refused_with_the_names_that_were_looked_for() -> None:
    with pytest.raises(InvalidTask, match=r"run, run\.py or run\.sh; or give Grader\(run=\.\.\.\)"):
        Task("x", grader=Grader(), files={"supervisor": "true", "bin/run": "true"})
    assert Task("x", grader=Grader("true")).needs_container


def test_a_task_whose_problems_are_answered_here_needs_a_container_for_its_grader() -> None:
    assert Task("x", grader=Grader("true"), problems={"q": Match("42")}).needs_container


def test_a_grader_and_a_command_exclude_each_other() -> None:
    with pytest.raises(InvalidTask, match="a command or a grader, not both"):
        Task("x", command="true", grader=Grader("true"))
    with pytest.raises(InvalidTask, match="grader must be a Grader"):
        Task("x", grader="run")  # type: ignore[arg-type]


def test_an_answer_cannot_take_the_graders_place() -> None:
    with pytest.raises(InvalidTask, match=r"would become the file 'run\.py', the grader's"):
        Task("x", grader=Grader(), files={"run": "true"}, problems={"q": Code("run.py")})


def test_a_graders_words_must_be_such_as_a_program_can_be_started_with() -> None:
    with pytest.raises(InvalidTask, match="no program can be started"):
        Task("x", grader=Grader("x" * 2**18))


def test_student_containers_have_a_budget_beside_the_tasks_limits() -> None:
    task = Task("x", grader=Grader("true"), limits=Limits(memory_mib=100, cpu_time_s=7, workspace_mib=5))
    assert (task.memory_mib, Task("x", command="true", limits=task.limits).memory_mib) == (205, 100)  # 5: the shared folder
    assert Grader("true").students_cpu_time_s(task.limits) == 7
    bounded = Grader("true", student_memory_mib=30, student_cpu_time_s=2)
    assert replace(task, grader=bounded).memory_mib == 135
    assert bounded.students_cpu_time_s(task.limits) == 2


def test_a_grading_job_goes_where_its_students_environments_are_too() -> None:
    hosts = HostTable([HostConfig(name="a"), HostConfig(name="b")], {})
    info = EngineInfo(version="20.10", cores=4, memory_mib=4096, now_s=0.0, cgroup="1")
    hosts["a"].answered(info, [image("grader")], 0.0)
    hosts["b"].answered(info, [image("grader"), image("student")], 0.0)
    requirements = Requirements(environment="grader", memory_mib=10, cpus=1, other_environments=frozenset({"student"}))

    chosen = [hosts.choose(requirements) for _ in range(3)]

    assert [host.name for host in chosen if host is not None] == ["b", "b", "b"]
    assert isinstance(hosts.refusal(replace(requirements, memory_mib=9999)), Unsatisfiable)
    refusal = hosts.refusal(replace(requirements, other_environments=frozenset({"other"})))
    assert isinstance(refusal, UnknownEnvironment) and "'grader' together with 'other'" in str(refusal)


def test_a_students_network_may_be_given_as_text() -> None:
    assert Grader(student_network="loopback").student_network is Network.LOOPBACK


def image(name: str) -> Image:
    return Image(id=f"sha256:{name}", references=(f"{name}:latest",), labels={}, created_at_s=1.0)
