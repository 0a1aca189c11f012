"""``Pipeline``, ``Phase``, ``Volume``, ``Secret``: what does not fit together is refused when it is made, with the place."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from jobmanager import Code, File, Grader, Limits, Match, MultipleChoice, Task
from jobmanager.errors import InvalidTask
from jobmanager.model.phase import Phase, Secret
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.volume import Volume, mount_path, volume_of

TASK = Task("x", command="true")


def limited(**limits):
    return Task("x", command="true", limits=Limits(**limits))


def phase(name="build", task=TASK, **options):
    return Phase(name, task, **options)


# ---- a phase

BAD_NAMES = ["", " ", "a b", "a/b", "..", ".a", "-a", "é", "a\n", "a\0", "x" * 65, 5, None, b"a"]
A_NAME = "must be 1 to 64 letters, digits, '_', '-' or '.'"

BAD_PHASES = [
    ({"task": "make"}, "task must be a Task, not 'make'"),
    ({"task": None}, "task must be a Task"),
    ({"task": Task("x", problems={"q": Match("a")})}, "only problems that are answered without a container"),
    ({"reads": "work"}, "reads must be a list of volumes, not 'work'"),
    ({"reads": None}, "reads must be a list of volumes"),
    ({"writes": "work"}, "writes must be a list of volumes, not 'work'"),
    ({"writes": {"work": Volume()}}, "writes must be a list of volumes"),
    ({"writes": ["work", "work"]}, "writes has 'work' twice"),
    ({"reads": ["work", "work"]}, "reads has 'work' twice"),
    ({"writes": [f"v{number}" for number in range(17)]}, "writes must have at most 16 items, not 17"),
    ({"reads": ["a", "work"], "writes": ["work"]}, "volume 'work' is in reads and in writes: name it in writes alone"),
    ({"wipe": "work/*", "writes": ["work"]}, "wipe must be a list of patterns"),
    ({"wipe": [5], "writes": ["work"]}, "a pattern in wipe must be a string"),
    ({"wipe": [""], "writes": ["work"]}, "a pattern in wipe is empty"),
    ({"wipe": ["work/*"]}, "'work' is no volume that it writes: it writes none"),
    ({"wipe": ["work/*"], "reads": ["work"]}, "'work' is no volume that it writes"),
    ({"wipe": ["other/*"], "writes": ["work"]}, "'other' is no volume that it writes: work"),
    ({"wipe": ["w*/a"], "writes": ["work"]}, "'w*' is no volume that it writes"),
    ({"wipe": ["work"], "writes": ["work"]}, "say what in the volume; 'work/*'"),
    ({"wipe": ["/volumes/work/*"], "writes": ["work"]}, "write VOLUME/PATTERN, without empty parts"),
    ({"wipe": ["/etc/*"], "writes": ["work"]}, "write VOLUME/PATTERN"),
    ({"wipe": ["work/../other/*"], "writes": ["work"]}, "write VOLUME/PATTERN"),
    ({"wipe": ["../work/*"], "writes": ["work"]}, "write VOLUME/PATTERN"),
    ({"wipe": ["work//a"], "writes": ["work"]}, "write VOLUME/PATTERN"),
    ({"wipe": ["work/./a"], "writes": ["work"]}, "write VOLUME/PATTERN"),
    ({"wipe": ["work/a/"], "writes": ["work"]}, "write VOLUME/PATTERN"),
    ({"wipe": ["work/a\nb"], "writes": ["work"]}, "control characters"),
    ({"wipe": ["work/a\0b"], "writes": ["work"]}, "NUL"),
    ({"wipe": ["work/" + "x" * 256], "writes": ["work"]}, "longer than 255 bytes a part"),
    ({"wipe": ["work/*"] * 65, "writes": ["work"]}, "wipe must have at most 64 items, not 65"),
    ({"tests": "report.xml"}, "tests must be a list of patterns"),
    ({"tests": [None]}, "a pattern in tests must be a string"),
    ({"tests": ["../report.xml"]}, "without '..'"),
    ({"tests": ["/tmp/report.xml"]}, "must be relative to the workspace"),
    ({"tests": [".jobmanager/result.json"]}, "the library's own"),
    ({"tests": ["/volumes/work"]}, "write /volumes/NAME/PATTERN"),
    ({"tests": ["/volumes/work/*.xml"]}, "is in the volume 'work', which it does not have: name it in reads or in writes"),
    ({"tests": ["a"] * 65}, "tests must have at most 64 items, not 65"),
    ({"task": Task("x", collect=["/volumes/work/*"]), "writes": ["other"]}, "is in the volume 'work', which it does not have"),
    ({"secrets": "token"}, "secrets must be a list of names or Secrets"),
    ({"secrets": [5]}, "secrets must be names or Secrets, not 5"),
    ({"secrets": ["a b"]}, f"a secret's name {A_NAME}"),
    ({"secrets": ["token", Secret("token", variable="TOKEN")]}, "secrets has 'token' twice"),
    ({"secrets": [Secret("a", variable="TOKEN"), Secret("b", variable="TOKEN")]}, "secrets has 'TOKEN' twice"),
    ({"secrets": [Secret("a", variable="A")], "task": Task("x", env={"A": "1"})}, "variable A is set by a secret and by"),
    ({"secrets": [f"s{number}" for number in range(33)]}, "secrets must have at most 32 items, not 33"),
    ({"inputs": 1}, "inputs must be True or False"),
    ({"allow_failure": None}, "allow_failure must be True or False"),
    ({"when": "never"}, "when must be 'on_success', 'on_failure' or 'always', not 'never'"),
    ({"when": None}, "when must be"),
    ({"blame": "me"}, "blame must be 'submitter' or 'course', not 'me'"),
]


@pytest.mark.parametrize(("given", "says"), BAD_PHASES, ids=lambda value: None if isinstance(value, str) else repr(value)[:60])
def test_a_phase_that_makes_no_sense_is_refused_and_the_message_names_it(given, says):
    with pytest.raises(InvalidTask) as refused:
        phase(**given)

    assert str(refused.value).startswith("phase 'build': ") and says in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_name_with_odd_characters_is_refused_everywhere(name):
    uses = {
        "a phase's name": lambda: phase(name),
        "a volume's name": lambda: phase(writes=[name]),
        "a secret's name": lambda: Secret(name),
    }
    for what, use in uses.items():
        with pytest.raises(InvalidTask) as refused:
            use()
        assert f"{what} {A_NAME}" in str(refused.value)


def test_names_of_every_kind_of_character_are_taken():
    for name in ("a", "0", "_", "Unit-tests_2.1", "x" * 64):
        assert phase(name, writes=[name], secrets=[name]).secrets == (Secret(name),)


def test_a_secret_for_a_variable_that_cannot_be_is_refused():
    for variable in ("A-B", "1A", "", "A=B", "PPID"):
        with pytest.raises(InvalidTask, match="variable"):
            Secret("token", variable=variable)


def test_a_phase_keeps_what_it_was_given():
    made = phase(
        reads=["source"],
        writes=["work"],
        wipe=["work/reports/*.json", "work/.*"],
        inputs=True,
        secrets=["token", Secret("key", variable="KEY")],
        when="always",
        allow_failure=True,
        blame="course",
        tests=["/volumes/work//reports/*.xml", "./report.json", "/volumes/source/a"],
    )

    assert made.volumes == ("source", "work")
    assert made.wipe == ("work/reports/*.json", "work/.*")
    assert made.secrets == (Secret("token"), Secret("key", variable="KEY"))
    assert made.tests == ("/volumes/work/reports/*.xml", "report.json", "/volumes/source/a")
    assert [volume_of(pattern) for pattern in made.tests] == ["work", None, "source"]
    assert mount_path("work") == "/volumes/work"


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "64", None, 2**20 + 1])
def test_a_volume_of_no_size_is_refused(size):
    with pytest.raises(InvalidTask, match="size_mib must be"):
        Volume(size)


# ---- a pipeline

BUILD = phase(writes=["work"])
TEST = phase("test", reads=["work"])

BAD_PIPELINES = [
    ({"phases": []}, "a pipeline needs at least one phase"),
    ({"phases": BUILD}, "phases must be a list of Phases"),
    ({"phases": None}, "phases must be a list of Phases"),
    ({"phases": "build"}, "phases must be a list of Phases"),
    ({"phases": [TASK]}, "phases must be Phases, not Task("),
    ({"phases": ["build"]}, "phases must be Phases, not 'build'"),
    ({"phases": [phase(str(number)) for number in range(33)]}, "phases must have at most 32 items, not 33"),
    ({"phases": [BUILD, phase("build")]}, "phases has 'build' twice"),
    ({"phases": [TEST, BUILD]}, "phase 'test' reads the volume 'work', which no phase before it writes"),
    ({"phases": [TEST]}, "phase 'test' reads the volume 'work', which no phase before it writes"),
    ({"phases": [phase(when="always")]}, "phase 'build' is the first, and no phase before it can fail: leave out when='always'"),
    ({"phases": [phase(when="on_failure"), TEST]}, "leave out when='on_failure'"),
    ({"volumes": ["work"]}, "volumes must map names to Volumes, not list"),
    ({"volumes": {"work": 64}}, "volume 'work' must be a Volume, not 64"),
    ({"volumes": {"work": Volume}}, "volume 'work' must be a Volume"),
    ({"volumes": {"a b": Volume()}}, f"a volume's name {A_NAME}"),
    ({"volumes": {5: Volume()}}, f"a volume's name {A_NAME}"),
    ({"volumes": {"other": Volume()}}, "volume 'other' is used by no phase"),
    ({"phases": [phase(str(number), writes=[f"{number}.{each}" for each in range(11)]) for number in range(3)]},
     "at most 32 volumes, not 33"),
    ({"wall_time_s": 0}, "wall_time_s must be a number above zero"),
    ({"wall_time_s": "60"}, "wall_time_s must be a number above zero"),
    ({"wall_time_s": float("nan")}, "wall_time_s must be a number above zero"),
    ({"wall_time_s": 1e9}, "wall_time_s must be at most a year"),
    ({"name": None}, "name must be a string"),
    ({"phases": [BUILD, phase("ask", Task("x", problems={"p": Code("p")}))]},
     "phase 'ask' gets no input, and problem 'p' needs an answer: give it inputs=True"),
    ({"phases": [BUILD, phase("ask", Task("x", problems={"f": File("f", optional=True)}))]}, "problem 'f' needs an answer"),
    ({"phases": [BUILD, phase("ask", Task("x", random_inputs=2))]}, "phase 'ask' gets no input, and random_inputs are part of"),
    ({"phases": [phase(task=Task("x", problems={"p": Code("a")})), phase("b", Task("x", problems={"p": Code("b")}), inputs=True)]},
     "phase 'b': problem 'p' is another one in a phase before"),
    ({"phases": [phase(task=Task("x", random_inputs=1)), phase("b", Task("x", random_inputs=2), inputs=True)]},
     "the phases want [1, 2] random_inputs"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "says"), BAD_PIPELINES, ids=lambda value: None if isinstance(value, str) else repr(value)[:60])
def test_phases_that_do_not_fit_together_are_refused_and_the_message_says_why(given, says):
    with pytest.raises(InvalidTask) as refused:
        Pipeline(**{"phases": [BUILD, TEST], **given})

    assert says in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_a_deadline_that_the_phases_that_always_run_use_up_is_refused():
    phases = [
        phase("build", limited(wall_time_s=5)),
        phase("report", limited(wall_time_s=10), when="always"),
        phase("mail", limited(wall_time_s=2.5), when="always"),
    ]

    for wall_time_s in (1, 12.5):
        with pytest.raises(InvalidTask, match=r"the phases that always run keep 12\.5 s of it: nothing is left for the others"):
            Pipeline(phases, wall_time_s=wall_time_s)
    assert Pipeline(phases, wall_time_s=12.6).wall_s == 12.6


def test_a_phase_reads_what_it_or_one_before_it_wrote():
    pipeline = Pipeline([phase("a", writes=["v"]), phase("b", writes=["v", "w"]), phase("c", reads=["w", "v"])])

    assert pipeline.volumes == {"v": Volume(), "w": Volume()}


def test_a_volume_that_is_not_declared_has_the_default_size_and_one_that_is_its_own():
    volumes = {"work": Volume(size_mib=7)}
    pipeline = Pipeline([phase(writes=["source", "work"])], volumes=volumes)
    volumes.clear()

    assert pipeline.volumes == {"source": Volume(64), "work": Volume(7)}


def test_a_pipeline_asks_for_the_largest_phase_and_all_volumes():
    graded = Task("grader", grader=Grader("true", student_environments=["gcc"]), limits=Limits(memory_mib=32, workspace_mib=1))
    pipeline = Pipeline(
        [
            phase("clone", Task("git", limits=Limits(memory_mib=100, wall_time_s=1)), writes=["source"]),
            phase("build", Task("gcc", limits=Limits(cpus=2.5, wall_time_s=2)), writes=["work"]),
            phase("grade", graded, when="on_failure"),
        ],
        volumes={"work": Volume(10)},
    )

    assert pipeline.needs_container
    assert pipeline.memory_mib == 256 + 64 + 10
    assert pipeline.cpus == 2.5
    assert pipeline.environments == {"git", "gcc", "grader"}
    assert pipeline.wall_s == 1 + 2 + 90
    assert (pipeline.title, Pipeline([BUILD], name="xv6").title) == ("clone, build, grade", "xv6")


def test_the_reserve_is_that_of_the_always_phases_that_are_still_to_come():
    pipeline = Pipeline(
        [
            phase("a", limited(wall_time_s=1)),
            phase("b", limited(wall_time_s=10), when="always"),
            phase("c", limited(wall_time_s=100)),
            phase("d", limited(wall_time_s=1000), when="always"),
            phase("e", limited(wall_time_s=10_000), when="on_failure"),
        ]
    )

    assert [pipeline.always_reserve_s(after) for after in range(-1, 5)] == [1010, 1010, 1000, 1000, 0, 0]


def test_the_sum_of_limits_is_no_longer_than_a_year():
    year = 366 * 24 * 3600.0

    assert Pipeline([phase(name, limited(wall_time_s=year)) for name in "ab"]).wall_s == year


def test_the_input_goes_to_the_first_phase_and_to_those_that_ask_for_it():
    pipeline = Pipeline([phase("a"), phase("b"), phase("c", inputs=True)])

    assert [pipeline.gets_inputs(index) for index in range(3)] == [True, False, True]


def test_the_problems_are_those_of_all_phases_and_one_that_is_in_several_is_one():
    program, choice = Code("p.py"), MultipleChoice("1")
    pipeline = Pipeline(
        [
            phase("a", Task("x", problems={"p": program, "m": Match("y")})),
            phase("b", Task("x", problems={"p": Code("p.py")}), inputs=True),
            phase("c", Task("x", command="true", problems={"c": choice})),
        ]
    )

    assert pipeline.problems == {"p": program, "m": Match("y"), "c": choice}


def test_a_pipeline_does_not_change():
    phases = [BUILD, TEST]
    pipeline = Pipeline(phases)
    phases.clear()

    assert pipeline.phases == (BUILD, TEST)
    with pytest.raises(FrozenInstanceError):
        pipeline.name = "other"
    with pytest.raises(FrozenInstanceError):
        BUILD.name = "other"


def test_a_phase_of_the_callers_own_class_becomes_the_librarys():
    class Mine(Phase):
        __slots__ = ()

    class MyVolume(Volume):
        __slots__ = ()

    class MySecret(Secret):
        __slots__ = ()

    pipeline = Pipeline([Mine("build", TASK, writes=["work"], secrets=[MySecret("a")])], volumes={"work": MyVolume(3)})

    assert type(pipeline.phases[0]) is Phase and type(pipeline.phases[0].secrets[0]) is Secret
    assert type(pipeline.volumes["work"]) is Volume and pipeline.volumes == {"work": Volume(3)}


def test_only_what_identifies_may_be_given_by_position():
    for make in (lambda: Phase("a", TASK, ["work"]), lambda: Pipeline([BUILD], {}), lambda: Secret("a", "A")):
        with pytest.raises(TypeError):
            make()
