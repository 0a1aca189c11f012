"""``Grader``, and a task that has one: what could not be run is refused when it is made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobmanager import Code, Grader, JobInput, Limits, Match, Network, Task
from jobmanager.control.workspace import workspace_files
from jobmanager.errors import InvalidInput, InvalidTask, UnknownEnvironment, Unsatisfiable
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


TESTS = {"test_it.py": "def test_it(submission): pass\n"}
BAD_TESTS = [
    ({"submission": "solution.c"}, "submission must be a file of Python"),
    ({"submission": "../solution.py"}, "must be relative"),
    ({"tests": ""}, "tests is empty"),
    ({"tests": "tests/*.py"}, "without folders"),
    ({"cpu_time_s": 0}, "cpu_time_s must be a number above zero"),
    ({"wall_time_s": -1}, "wall_time_s must be a number above zero"),
    ({"one_process": 1}, "one_process must be True or False"),
    ({"student_memory_mib": 0}, "student_memory_mib must be"),
]


@pytest.mark.parametrize(("arguments", "reason"), BAD_TESTS, ids=lambda value: str(value)[:40])
def test_a_grader_of_tests_that_makes_no_sense_is_refused(arguments: dict[str, object], reason: str) -> None:
    for made in (Grader.pytest, Grader.unittest):
        with pytest.raises(InvalidTask, match=reason):
            made(**arguments)  # type: ignore[arg-type]


def test_a_grader_of_tests_is_one_like_any_other() -> None:
    grader = Grader.pytest("main.py", cpu_time_s=1.5, wall_time_s=4, one_process=True, student_cpu_time_s=9)
    words = grader.run
    assert isinstance(words, tuple)
    assert words[2:] == ("pytest", "main.py", "test_*.py", "--cpu-time-s=1.5", "--wall-time-s=4", "--one-process")
    assert Grader.from_dict(grader.to_dict()) == grader and grader.runs_tests
    assert Grader.unittest("student/main.py") == Grader.unittest("main.py")
    assert not Grader("true").runs_tests and not Grader(words[:2]).runs_tests


def test_a_task_whose_tests_could_never_judge_a_submission_is_refused() -> None:
    def task(grader: Grader | None = None, **arguments: object) -> Task:
        return Task("x", grader=grader or Grader.pytest(), **{"files": TESTS, **arguments})  # type: ignore[arg-type]

    assert task(problems={"q": Code("student/solution.py")}).needs_container
    assert task(Grader.pytest("main.py"), problems={"q": Code("student/part.py")}, files={**TESTS, "student/main.py": ""})
    with pytest.raises(InvalidTask, match=r"hold no tests: none is named test_\*\.py"):
        task(files={"student/test_it.py": "", "run.py": ""})
    with pytest.raises(InvalidTask, match=r"would become 'solution.py', beside the tests: name it 'student/solution.py'"):
        task(problems={"q": Code("solution.py")})
    with pytest.raises(InvalidTask, match=r"no answer becomes 'student/solution.py'"):
        task(problems={"q": Code("student/main.py")})
    for name, least in (("output_kib", 256), ("processes", 8), ("memory_mib", 48)):
        assert task(limits=Limits(**{name: least}))
        with pytest.raises(InvalidTask, match=f"{name} must be at least {least}, not {least - 1}"):
            task(limits=Limits(**{name: least - 1}))


def test_a_file_of_a_job_never_comes_beside_the_tests() -> None:
    task = Task("x", grader=Grader.pytest(), files=TESTS)
    with pytest.raises(InvalidInput, match=r"would become 'conftest.py', beside the tests: put it below student/"):
        workspace_files(task, JobInput(files={"conftest.py": "", "student/solution.py": ""}))
    assert "student/solution.py" in workspace_files(task, JobInput(files={"student/solution.py": ""}))
