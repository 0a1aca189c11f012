"""The documents say what the code says: tables, names, defaults, and links that lead somewhere."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pytest

from dev import case_tests
from jobmanager import (
    CallbackInfo,
    ClientBuffer,
    ClientFuture,
    ClientSync,
    DockerHost,
    Grader,
    HostInfo,
    JobInput,
    JobManager,
    JobResult,
    Limits,
    Outcome,
    Step,
    Task,
    cli,
    errors,
    events,
)
from jobmanager.batch import BatchComparison, ComparedResult
from jobmanager.command_line import run
from jobmanager.command_line.printing import BAD, FINE, INTERRUPTED, UNREACHABLE, USAGE
from jobmanager.doctor import probes, runner_check
from jobmanager.doctor.advice import TRIED
from jobmanager.engine.docker import container_config
from jobmanager.engine.protocol import Engine
from jobmanager.errors import InvalidValue
from jobmanager.model.container import ContainerSpec, ImageDefaults
from jobmanager.model.container_states import (
    CONTAINER_TRANSITIONS,
    ContainerAction,
    ContainerEvent,
    ContainerState,
)
from jobmanager.model.job import Request, RunRequest
from jobmanager.model.result import KilledBy, LimitName
from jobmanager.remote import RemoteClient
from jobmanager.remote.keys import Keys
from jobmanager.remote.timeouts import ClusterTimeouts
from jobmanager.results.facts import CapturedOutput, HostGivenUp, Limit, LimitHit, ProgramEnd, RunFacts
from jobmanager.results.merge import merged_result
from jobmanager.results.verdict import KillReason, judge
from jobmanager.scheduling.job_states import TRANSITIONS, JobAction, JobEvent, JobState
from jobmanager.testing import Faults, ProgramStep
from jobmanager.testing.fake.commands import COMMANDS
from jobmanager.watching import run_order
from jobmanager.watching.ending import Observations, ending_of

TOP = Path(__file__).resolve().parents[2]
CONTAINER = TOP / "jobmanager/grading/container"
DOCUMENTS = [TOP / "README.md", TOP / "CHANGELOG.md", *sorted((TOP / "docs").glob("*.md"))]
MARKS = {  # how a block is run: its language
    "web": "python",
    "readme": "python",
    "engine": "python",
    "alone": "python",
    "shell": "sh",
    "worker": "sh",
    "cluster": "python",
}
JUDGES = ("results/verdict.py", "results/merge.py", "scheduling/jobs.py", "scheduling/run_sequence.py")


def text_of(name: str) -> str:
    return (TOP / name).read_text()


def without_code(text: str) -> str:
    return re.sub(r"(?ms)^```.*?^```$", "", text)


def table(text: str, *header: str) -> list[list[str]]:
    """The rows of the one table whose header begins so."""
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if cells(line)[: len(header)] == list(header)]
    assert len(starts) == 1, f"there is one table that begins with {header}"
    rows = []
    for line in lines[starts[0] + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(cells(line))
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def anchors(document: Path) -> set[str]:
    """What the headings of a document are linked by, as GitHub makes it of their text."""
    headings = re.findall(r"(?m)^#+ (.+)$", without_code(document.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# ---- links and blocks


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_between_documents_leads_somewhere(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(document.read_text())):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        aim = (document.parent / path).resolve() if path else document
        if not aim.exists() or (anchor and anchor not in anchors(aim)):
            broken.append(target)
    assert broken == []


def test_the_readme_links_every_document() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+)", text_of("README.md")))
    assert linked == {f"docs/{path.name}" for path in (TOP / "docs").glob("*.md")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_python_block_is_python(document: Path) -> None:
    for block in re.findall(r"(?ms)^```python\n(.*?)^```$", document.read_text()):
        ast.parse(block)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_mark_of_a_block_that_runs_stands_before_one(document: Path) -> None:
    text = document.read_text()
    for mark, language in re.findall(r"<!-- runs: (\w+) -->\n(?:```(\w+)\n)?", text):
        assert MARKS[mark] == language
    assert len(re.findall(r"<!-- runs", text)) == len(re.findall(r"(?m)^<!-- runs: \w+ -->\n```", text))


@pytest.mark.parametrize("name", ["README.md", "docs/tasks.md"])
def test_beside_the_first_example_that_takes_a_submission_stands_that_it_decides_its_own_result(name: str) -> None:
    first_example = re.search(r"(?ms)^```python\n.*?^```$.*?^```text\n.*?^```$\n\n(.*)", text_of(name))
    assert first_example is not None
    warning = "**Without a grader a submission decides its own result. A submission that only calls `os._exit(0)` is a `success`"
    assert first_example[1].startswith(warning)


def test_the_readmes_program_has_thirty_lines_at_most() -> None:
    block = re.search(r"(?ms)^<!-- runs: readme -->\n```python\n(.*?)^```$", text_of("README.md"))
    assert block is not None
    assert len(block[1].splitlines()) <= 30


# ---- tables


LIVES = {
    "job": (JobState, JobEvent, JobAction, TRANSITIONS),
    "container": (ContainerState, ContainerEvent, ContainerAction, CONTAINER_TRANSITIONS),
}


@pytest.mark.parametrize("whose", LIVES)
def test_the_life_of_a_job_or_container_is_that_of_the_code(whose: str) -> None:
    states, events, _, transitions = LIVES[whose]
    rows = table(text_of("docs/how-it-works.md"), "event", *(state.name for state in states))
    assert rows == [[f"`{event.name}`", *(shown(transitions[event].get(state)) for state in states)] for event in events]


def shown(transition: Any) -> str:
    """A cell: the next state, and what is done."""
    if transition is None:
        return "-"
    actions = ", ".join(action.name for action in transition.actions)
    return f"{transition.to.name}: {actions}" if actions else transition.to.name


def test_every_part_of_the_library_has_its_line_and_every_file_that_is_named_exists() -> None:
    text = text_of("docs/how-it-works.md")
    (places,) = re.findall(r"(?ms)^## Where things are$(.*?)^## ", text)
    named = {name for name in quoted(places) if re.fullmatch(r"[a-z_/]+(/|\.py)", name)} - {"jobmanager/"}
    assert [name for name in named if not (TOP / "jobmanager" / name).exists()] == []
    parts = {path.name + "/" * path.is_dir() for path in (TOP / "jobmanager").iterdir() if path.suffix in (".py", "")}
    assert parts - named <= {"__init__.py", "_version.py", "__pycache__/"}


def test_the_fields_of_every_event_are_named() -> None:
    told = {}
    for names, fields in table(text_of("docs/tasks.md"), "event with fields", "fields"):
        told.update({name: [field for field in quoted(fields) if field.islower()] for name in quoted(names)})
    kinds = [getattr(events, name) for name in events.__all__]
    known = {kind.__name__: [field.name for field in dataclasses.fields(kind)[1:]] for kind in kinds if kind is not events.Event}
    assert told == known


@pytest.mark.parametrize("whose", LIVES)
def test_every_state_event_and_action_is_explained(whose: str) -> None:
    states, events, actions, _ = LIVES[whose]
    text = text_of("docs/how-it-works.md")
    assert [row[0] for row in table(text, f"state of a {whose}", "meaning")] == [state.name for state in states]
    assert [row[0] for row in table(text, f"event of a {whose}", "meaning")] == [f"`{event.name}`" for event in events]
    assert {row[0] for row in table(text, f"action for a {whose}", "meaning")} == {action.name for action in actions}


def test_the_glossary_has_every_state_and_every_outcome() -> None:
    text = text_of("docs/glossary.md")
    assert {state.name for state in [*JobState, *ContainerState]} <= set(re.findall(r"(?m)^\| ([A-Z]+) \|", text))
    (outcome,) = re.findall(r"(?m)^\| outcome \| (.+)$", text)
    assert set(quoted(outcome)) == {outcome.value for outcome in Outcome}


def test_the_table_of_outcomes_names_every_outcome_and_no_other() -> None:
    rows = table(text_of("docs/outcomes.md"), "", "outcome", "when")
    assert {outcome for row in rows for outcome in quoted(row[1])} == {outcome.value for outcome in Outcome}


# By the evidence of a line: what is seen of a run that it fits. Any two of them can be true of one run
FITTING: dict[str, dict[str, object]] = {
    "requested_by": {},
    "wall_time_s": {"limit_hit": LimitHit(limit=Limit.WALL, measured=1e6)},
    "cpu_time_s": {"cpu_time_s": 1e6},
    "output_bytes": {"output": CapturedOutput(stdout_bytes=2**40)},
    "protocol_error": {"protocol_error": "what"},
    "not_started": {"refusal": "no tar"},
    "host_lost": {"cause": HostGivenUp()},
    "oom_kills": {"end": ProgramEnd(exit_code=1, oom_kills=1)},
    "fork_refusals": {"end": ProgramEnd(exit_code=1, fork_refusals=1)},
    "workspace_full": {"end": ProgramEnd(exit_code=1, workspace_full=True)},
    "result_file": {"result_file": b"{"},
    "exit_code": {},
    "signal": {"end": ProgramEnd(signal="SIGSEGV")},
}
Lines = list[tuple[list[str], list[str]]]  # outcomes and deciding evidence


def lines_of_outcomes() -> Lines:
    rows = table(text_of("docs/outcomes.md"), "", "outcome", "when")
    assert [row[0] for row in rows] == [str(number + 1) for number in range(len(rows))]
    return [(quoted(row[1]), [kind for kind in quoted(row[3]) if kind in FITTING]) for row in rows]


def judged(upper: str, lower: str) -> JobResult:
    """The result of a run that two lines fit."""
    seen: dict[str, Any] = {"end": ProgramEnd(exit_code=0), "report_complete": True, **FITTING[lower], **FITTING[upper]}
    figures = {name: seen.pop(name) for name in ("cpu_time_s", "output") if name in seen}
    facts = RunFacts(ending=ending_of(Observations(**seen)), **figures)
    task = Task("x", command="x")
    runs = (RunRequest(task=task),)
    request = Request(job_id="j", task=task, inputs=JobInput(), runs=runs, priority=0, launcher_name="x", debug=False)
    killed = KillReason.KILL_JOB if "requested_by" in (upper, lower) else None
    return merged_result(request, judge(facts, task.limits, killed), facts, host="h", timings={}, steps=())


def contradictions(lines: Lines) -> list[str]:
    """Neighbouring lines that both fit a run, of which the upper one does not decide."""
    return [
        f"{upper} above {lower}"
        for (outcomes, uppers), (_, lowers) in itertools.pairwise(lines)
        for upper, lower in itertools.product(uppers, lowers)
        if not decides(judged(upper, lower), outcomes, upper)
    ]


def decides(result: JobResult, outcomes: list[str], kind: str) -> bool:
    proof = result.evidence[-1 if kind == "result_file" else 0].kind
    return result.outcome.value in outcomes and proof == kind


def test_the_lines_of_the_table_of_outcomes_stand_in_the_order_in_which_they_decide() -> None:
    lines = lines_of_outcomes()
    assert all(kinds for _, kinds in lines)
    assert sorted(kind for _, kinds in lines for kind in kinds) == sorted(FITTING)
    assert contradictions(lines) == []


@pytest.mark.parametrize("at", range(len(lines_of_outcomes())))
@pytest.mark.parametrize("to", range(len(lines_of_outcomes())))
def test_a_line_of_the_table_of_outcomes_that_stood_elsewhere_would_be_noticed(at: int, to: int) -> None:
    moved = lines_of_outcomes()
    moved.insert(to, moved.pop(at))
    assert (contradictions(moved) == []) == (at == to)


def test_the_table_of_evidence_names_every_kind_and_no_other() -> None:
    rows = table(text_of("docs/outcomes.md"), "kind", "value", "source")
    assert {kind for row in rows for kind in quoted(row[0])} == evidence_kinds() - crash_kinds()


def test_every_kind_of_crash_is_explained() -> None:
    rows = table(text_of("docs/outcomes.md"), "kind", "what happened")
    assert {kind for row in rows for kind in quoted(row[0])} == crash_kinds()


def calls() -> Iterator[ast.Call]:
    for name in JUDGES:
        for node in ast.walk(ast.parse(text_of(f"jobmanager/{name}"))):
            if isinstance(node, ast.Call):
                yield node


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def literal(arguments: list[ast.expr], place: int) -> set[str]:
    found = arguments[place] if len(arguments) > place else None
    return {found.value} if isinstance(found, ast.Constant) and isinstance(found.value, str) else set()


def crash_kinds() -> set[str]:
    kinds: set[str] = set()
    for call in calls():
        if name_of(call) in ("crash_verdict", "set_crash"):
            kinds |= literal(call.args, 0)
    return kinds


def evidence_kinds() -> set[str]:
    kinds = crash_kinds() | {limit.value for limit in Limit}
    for call in calls():
        if name_of(call) == "Evidence":
            kinds |= literal([keyword.value for keyword in call.keywords if keyword.arg == "kind"], 0)
        elif name_of(call) == "_overflow_verdict":
            kinds |= literal(call.args, 1)
    return kinds


def test_the_words_for_limits_and_killers_are_those_of_the_code() -> None:
    text = text_of("docs/outcomes.md")
    assert [row[0] for row in table(text, "`limit`", "of")] == [f"`{name}`" for name in get_args(LimitName)]
    killers = [row[0] for row in table(text, "`killed_by`", "who ended the program", "`exit_code`", "`signal`")]
    assert set(killers) == {"`None`", *(f"`{name}`" for name in get_args(KilledBy))}


def test_the_limits_and_their_defaults_are_those_of_the_code() -> None:
    rows = table(text_of("docs/tasks.md"), "limit", "default")
    assert [(row[0], row[1]) for row in rows] == [(f"`{field.name}`", str(field.default)) for field in dataclasses.fields(Limits)]


def test_the_smallest_limits_are_those_of_the_code() -> None:
    found = re.findall(r"`(\w+)`(?: must be)? at least ([\d.]+)", text_of("docs/tasks.md"))
    assert len(found) == 3
    for name, smallest in found:
        least = float(smallest) if "." in smallest else int(smallest)
        Limits(**{name: least})
        with pytest.raises(InvalidValue):
            Limits(**{name: least * 0.9 if isinstance(least, float) else least - 1})


def test_the_engines_that_were_tried_are_those_that_the_doctor_knows() -> None:
    rows = table(text_of("docs/hosts.md"), "engine", "of Debian")
    assert tuple(row[0].rpartition(".")[0] for row in rows) == TRIED
    assert ", ".join(TRIED[:-1]) + f" and {TRIED[-1]} on Linux" in text_of("README.md")


def test_figures_beside_the_limits_are_those_of_the_code() -> None:
    text = text_of("docs/tasks.md")
    assert Limits(cpu_time_s=10).wall_s == 30
    assert Limits(workspace_mib=2).workspace_inodes - Limits(workspace_mib=1).workspace_inodes == 64
    assert f"stands {run_order._CPU_BACKSTOP_S} s behind it" in text
    assert f"It is user {container_config.USER.partition(':')[0]}," in text


def test_every_argument_of_a_grader_is_explained() -> None:
    rows = table(text_of("docs/grading.md"), "argument of `Grader`", "meaning")
    assert [row[0] for row in rows] == [f"`{field.name}`" for field in dataclasses.fields(Grader)]


def test_every_argument_of_a_task_is_explained() -> None:
    rows = table(text_of("docs/tasks.md"), "argument", "meaning")
    assert [row[0] for row in rows] == [f"`{field.name}`" for field in dataclasses.fields(Task)]


def test_every_argument_of_a_jobs_input_is_explained_with_its_default() -> None:
    rows = table(text_of("docs/tasks.md"), "argument of `JobInput`", "default")
    told = [(quoted(row[0])[0], ast.literal_eval(quoted(row[1])[0])) for row in rows]
    assert told == [(field.name, field.default) for field in dataclasses.fields(JobInput)]


def test_every_field_of_a_hosts_record_is_explained() -> None:
    rows = table(text_of("docs/hosts.md"), "field of `HostInfo`", "meaning")
    assert [row[0] for row in rows] == [f"`{field.name}`" for field in dataclasses.fields(HostInfo)]


FIELDS_OF = {"docs/batches.md": [BatchComparison, ComparedResult], "docs/queue.md": [CallbackInfo], "docs/debugging.md": [Step]}


@pytest.mark.parametrize(("document", "record"), [(name, record) for name, records in FIELDS_OF.items() for record in records])
def test_every_field_of_the_smaller_records_is_explained(document: str, record: Any) -> None:
    rows = table(text_of(document), f"field of `{record.__name__}`", "meaning")
    names = getattr(record, "_fields", None) or [field.name for field in dataclasses.fields(record)]
    assert [name for row in rows for name in quoted(row[0])] == [*names]


def test_every_exception_is_in_the_tree_and_in_the_table() -> None:
    text = text_of("docs/tasks.md")
    rows = table(text, "exception", "raised by, and when")
    assert "\n".join(["```text", "JobManagerError", *tree_below(errors.JobManagerError), "```"]) in text
    assert [quoted(row[0])[0] for row in rows] == re.findall(r"(?m)^class (\w+)", text_of("jobmanager/errors.py"))


def tree_below(error: type[Exception], indent: str = "") -> Iterator[str]:
    below = [each for each in error.__subclasses__() if each.__module__ == errors.__name__]  # others reach no caller
    for each in below:
        corner, line = ("└── ", "    ") if each is below[-1] else ("├── ", "│   ")
        too = each.__bases__[1:] and each.__bases__[1].__name__
        yield f"{indent}{corner}{each.__name__}" + (f" (also a {too})" if too else "")
        yield from tree_below(each, indent + line)


def test_the_table_of_keywords_is_that_of_the_signatures() -> None:
    calls: list[list[Any]] = [
        [JobManager.new_job, RemoteClient.new_job],
        [JobManager.submit, RemoteClient.submit, ClientFuture.new_job],
        [ClientBuffer.new_job],
        [ClientSync.new_job],
        [JobManager.map, JobManager.amap, RemoteClient.map, ClientFuture.amap],
    ]
    rows = table(text_of("docs/tasks.md"), "keyword", "`new_job` of `JobManager`, `RemoteClient`")
    told = {name: [cell == "yes" for cell in row[1:]] for row in rows for name in quoted(row[0])}
    for place, methods in enumerate(calls):
        has = {name for name, where in told.items() if where[place]}
        for method in methods:
            takes = set(inspect.signature(method).parameters) - {"self", "task", "inputdata", "inputs"}
            assert takes & {*told} == has, method
            assert takes <= {*told} or place == len(calls) - 1


def test_every_field_of_a_result_is_explained() -> None:
    rows = table(text_of("docs/tasks.md"), "field", "meaning")
    told = {name for row in rows for name in quoted(row[0])}
    assert told == {field.name for field in dataclasses.fields(JobResult)}


def test_every_event_is_named() -> None:
    text = text_of("docs/tasks.md")
    assert [name for name in events.__all__ if not re.search(rf"\b{name}\b", text)] == []


def test_every_label_is_named() -> None:
    rows = table(text_of("docs/hosts.md"), "label", "value")
    sources = [text_of("jobmanager/engine/labels.py"), text_of("jobmanager/engine/docker/container_config.py")]
    assert {quoted(row[0])[0] for row in rows} == set(re.findall(r'_LABEL = "([^"]+)"', "\n".join(sources)))


def test_every_argument_of_a_docker_host_is_explained() -> None:
    rows = table(text_of("docs/hosts.md"), "argument of `DockerHost`")
    assert [row[0] for row in rows] == [f"`{field.name}`" for field in dataclasses.fields(DockerHost)]


def test_the_defaults_of_a_job_manager_are_those_of_the_code() -> None:
    rows = table(text_of("docs/hosts.md"), "argument of `JobManager`")
    parameters = inspect.signature(JobManager).parameters
    explained_elsewhere = {"hosts", "environments", "hook_manager"}
    assert {quoted(row[0])[0] for row in rows} == set(parameters) - explained_elsewhere
    for row in rows:
        default = parameters[quoted(row[0])[0]].default
        if default is not None:
            assert float(row[1].replace(",", "")) == default, row[0]


def test_every_probe_of_the_doctor_is_explained_in_its_order() -> None:
    rows = table(text_of("docs/command-line.md"), "probe")
    of_jobs = [probes._TRIAL.name, *(probe.name for probe in probes._PROBES), "clean-up"]
    assert [quoted(row[0])[0] for row in rows] == [*runner_check.NAMES, *of_jobs]


def test_every_option_and_exit_code_of_the_command_line_is_told() -> None:
    text = text_of("docs/command-line.md")
    names = cli.commands.list_commands(click.Context(cli.commands))
    commands = [cli.commands.get_command(click.Context(cli.commands), name) for name in names]
    options = {name for command in commands if command is not None for option in command.params for name in option.opts}
    assert [name for name in names if not re.search(rf"(?m)^## .*\b{name}\b", text)] == []
    assert [name for name in options if name.startswith("--") and f"`{name}" not in text] == []
    codes = [row[0] for row in table(text, "exit code")]
    assert codes == [str(code) for code in (FINE, BAD, USAGE, UNREACHABLE, INTERRUPTED)]


def test_every_exit_code_of_a_program_that_is_run_from_the_shell_is_told() -> None:
    rows = {row[0]: row[1] for row in table(text_of("docs/command-line.md"), "`run` exits with", "when")}
    assert {outcome: code for outcome, code in run.CODES.items() if f"`{outcome}`" in rows[str(code)]} == {
        outcome: code for outcome, code in run.CODES.items() if outcome is not Outcome.KILLED
    }
    ours = {FINE, BAD, run.OWN_CODE_IS_TAKEN, *run.CODES.values(), run.NOT_RUN, run.BY_SIGNAL + signal.SIGPIPE}
    assert {int(code) for code in rows if code.isdigit()} == ours


# ---- many machines


def test_every_timeout_of_a_cluster_is_told_with_its_default() -> None:
    rows = {quoted(row[0])[0]: row[1] for row in table(text_of("docs/many-machines.md"), "field", "default, in seconds")}
    assert rows == {field.name: f"{field.default:g}" for field in dataclasses.fields(ClusterTimeouts)}


def test_every_key_of_a_cluster_is_told() -> None:
    keys = Keys("NAMESPACE")
    told = {name for row in table(text_of("docs/many-machines.md"), "key", "type") for name in quoted(row[0])}
    single = {value.removeprefix(keys.prefix) for value in vars(keys).values() if value.startswith(keys.prefix)} - {""}
    parts = {key("N" if key == keys.node else "C", part) for key in (keys.node, keys.client) for part in quoted_parts(key)}
    named = {keys.job("R"), keys.client("C"), keys.node("N"), keys.blob("SHA256"), keys.job_blobs("R"), keys.output("R")} | parts
    of_scripts = {"epochs"}
    assert told == single | {key.removeprefix(keys.prefix) for key in named} | of_scripts


def quoted_parts(key: Callable[..., str]) -> list[str]:
    """The parts of a record that its docstring names."""
    return re.findall(r"``(\w+)``", key.__doc__ or "")


def test_every_fault_and_every_call_of_the_fake_engine_is_named() -> None:
    text = text_of("docs/testing-your-app.md")
    for name in (name for name in vars(Faults) if not name.startswith("_")):
        assert re.search(rf"\b{name}\(", text), name
    for name in (name for name in vars(Engine) if not name.startswith("_") and name != "close"):
        assert f"`{name}`" in text, name


def test_every_step_and_every_command_of_the_fake_engine_is_named() -> None:
    text = text_of("docs/testing-your-app.md")
    for step in get_args(ProgramStep):
        assert f"`{step.__name__}(" in text, step
    for name in set(COMMANDS) - {":"}:
        assert re.search(rf"`{name}[` ]", text), name


# ---- graders


def graders_of_the_page() -> tuple[str, str, str]:
    """The two graders that the page on graders shows, and their template: shell, template, Python."""
    shown = re.findall(r"(?ms)^<!-- a grader: (\w+) -->\n```\w+\n(.*?)^```$", text_of("docs/graders.md"))
    assert [name for name, _ in shown] == ["shell", "template", "Python"]
    shell, template, python = (code for _, code in shown)
    return shell, template, python


def test_every_command_of_a_grader_is_told_with_its_options() -> None:
    rows = {quoted(row[0])[0]: row[1] for row in table(text_of("docs/graders.md"), "command", "options and arguments")}
    declared = options_of_commands()
    assert set(rows) == set(declared) == {path.name for path in (CONTAINER / "bin").iterdir()}
    for name, options in declared.items():
        assert [option for option in options if not re.search(rf"`{option}\b", rows[name])] == [], name


def options_of_commands() -> dict[str, set[str]]:
    """Each command's options, as its parser has them."""
    tree = ast.parse((CONTAINER / "lib/jobmanager_grading/commands.py").read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    (commands,) = (node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict))
    found = {}
    for key, value in zip(commands.keys, commands.values, strict=True):
        assert isinstance(key, ast.Constant) and isinstance(value, ast.Tuple)
        found[str(key.value)] = options_declared(functions, getattr(value.elts[0], "id", ""))
    return found


def options_declared(functions: dict[str, ast.FunctionDef], name: str) -> set[str]:
    words = {node.value for node in ast.walk(functions[name]) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    called = {node.func.id for node in ast.walk(functions[name]) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    options = {word for word in words if re.fullmatch(r"--?[a-z-]+", word)}
    return options.union(*(options_declared(functions, callee) for callee in called & set(functions)))


def test_every_function_for_graders_is_told_with_its_arguments() -> None:
    parts = [parsed_module(f"jobmanager_grading/{name}.py") for name in ("answer", "inputs", "__init__")]
    defined = {node.name: arguments(node) for part in parts for node in part.body if isinstance(node, ast.FunctionDef)}
    rows = table(text_of("docs/graders.md"), "function", "does")
    told = [node for row in rows for name in quoted(row[0]) for node in ast.parse(f"def {name}: pass").body]
    shown = {node.name: arguments(node) for node in told if isinstance(node, ast.FunctionDef)}
    assert shown == {name: defined[name] for name in public_names(parts[-1]) if name in defined}


def test_every_module_for_old_graders_is_told_with_its_functions() -> None:
    (modules,) = re.findall(r"(?ms)^<!-- modules -->\n(.*?)\n\n", text_of("docs/graders.md"))
    for module, functions in re.findall(r"(?m)^- `(\w+)`: (.+)$", modules):
        parsed = parsed_module(f"inginious_container_api/{module}.py")
        defined = {node.name: arguments(node) for node in parsed.body if isinstance(node, ast.FunctionDef)}
        told = [node for name in quoted(functions) for node in ast.parse(f"def {name}: pass").body]
        shown = {node.name: arguments(node) for node in told if isinstance(node, ast.FunctionDef)}
        assert public_names(parsed) - set(shown) <= {"load_feedback", "set_result"}, module
        assert [name for name in shown if defined.get(name, shown[name]) != shown[name]] == [], module


def parsed_module(name: str) -> ast.Module:
    return ast.parse((CONTAINER / "lib" / name).read_text())


def public_names(module: ast.Module) -> set[str]:
    """What ``__all__`` holds."""
    assigned = {ast.unparse(node.targets[0]): node.value for node in module.body if isinstance(node, ast.Assign)}
    return set(ast.literal_eval(assigned["__all__"]))


def arguments(function: ast.FunctionDef) -> str:
    """A function's arguments and their defaults, without their types."""
    given = function.args
    for argument in [*given.args, *filter(None, (given.vararg, given.kwarg))]:
        argument.annotation = None
    return ast.unparse(given)


# ---- reliability and security


def test_every_case_is_listed_and_has_tests() -> None:
    rows = table(text_of("docs/reliability.md"), "case", "what is done")
    cases = [int(row[0]) for row in rows]
    assert cases == [*range(1, 42), *range(44, 58)]  # 42 and 43 are attacks: docs/security.md
    assert cases == sorted(case_tests.marked_tests())


def test_the_tests_of_each_case_are_those_that_are_marked() -> None:
    """If not: ``python -m dev.case_tests``."""
    assert case_tests.page_with_tests(text_of("docs/reliability.md")) == text_of("docs/reliability.md")


def named_in(cell: str) -> list[str]:
    """The tests of a table's cell; one that begins with ``::`` is in the file of the one before."""
    found: list[str] = []
    for name in quoted(cell):
        found.append(found[-1].partition("::")[0] + name if name.startswith("::") else name)
    return found


def test_every_attack_names_tests_that_there_are() -> None:
    text = text_of("docs/security.md")
    tests = numbered_tests(text, "### Tests of the attacks")
    assert [row[0] for row in table(text, "", "attack", "defence")] == list(tests) == numbers_to(len(tests))
    assert all(tests.values())
    assert [name for names in tests.values() for name in names if not is_test(name)] == []


def numbers_to(last: int) -> list[str]:
    return [str(number + 1) for number in range(last)]


def numbered_tests(text: str, heading: str) -> dict[str, list[str]]:
    """The tests that a numbered list below a heading names, by the number of their row."""
    (below,) = re.findall(rf"(?ms)^{re.escape(heading)}\n(.*?)(?=^#|\Z)", text)
    return {number: named_in(line) for number, line in re.findall(r"(?m)^(\d+)\. (.*)$", below)}


def is_test(name: str) -> bool:
    """Whether ``file::function`` is one of our tests; files without a folder are of the integration tests."""
    file, _, function = name.partition("::")
    path = TOP / "tests" / (file if "/" in file else f"integration/{file}")
    return path.exists() and f"\ndef {function}(" in path.read_text()


def test_every_test_of_an_attack_stands_in_the_table_of_attacks() -> None:
    named = {name for names in numbered_tests(text_of("docs/security.md"), "### Tests of the attacks").values() for name in names}
    ours = re.findall(r"(?m)^def (test_\w+)", text_of("tests/integration/test_attacks.py"))
    of_the_tests_themselves = {"test_the_probe_tries_every_kind", "test_ordinary_sockets_and_threads_work"}
    assert {f"test_attacks.py::{name}" for name in ours if name not in of_the_tests_themselves} - named == set()


def test_every_setting_of_a_container_is_explained() -> None:
    spec = ContainerSpec(name="n", image="i", labels={}, limits=Limits())
    made = container_config.container_config(spec, ImageDefaults(command=(), volumes=()))
    rows = table(text_of("docs/security.md"), "setting", "value")
    assert {name for row in rows for name in quoted(row[0])} == {*made, *made["HostConfig"]}
    (ulimits,) = (row[1] for row in rows if row[0] == "`Ulimits`")
    assert {limit["Name"] for limit in made["HostConfig"]["Ulimits"]} <= set(quoted(ulimits))


# ---- coming from INGInious

SEEDED = """
    Backend handle_agent_hello handle_agent_job_done handle_agent_job_ssh_debug handle_agent_job_started handle_agent_message
    handle_client_get_queue handle_client_hello handle_client_kill_job handle_client_message handle_client_new_job
    handle_client_ping run send_container_update_to_client update_queue agent_addr client_addr client_addrs context
    AbstractClient Client BetterParanoidPirateClient backend_addr queue_update close get_available_environments
    get_job_queue_info get_job_queue_snapshot kill_job new_job start jobs_running jobs_waiting job_id is_current_client_job
    agent_name info launcher started_at max_time priority task inputdata callback launcher_name debug ssh_callback
    ClientBuffer get_result is_done is_waiting bjobid ClientSync AgentHello AgentJobDone AgentJobSSHDebug AgentJobStarted
    ClientGetQueue ClientHello ClientKillJob ClientNewJob Ping result grade problems tests custom archive
    backend.job_managers.abstract backend.job_managers.local backend.job_managers.remote_docker
    backend.job_managers.remote_manual_agent HookManager helpers.job_manager_sync helpers.job_manager_buffer
    backend.job_manager backend.job_manager_sync backend.job_manager_buffer backend._submitter backend._waiter
    backend._callback_manager
"""  # what the documents name that the project began with
NOTHING = "nothing to test: "
TESTS_OF_LINES = "## Tests of each line"


def mapped() -> list[list[str]]:
    """The rows of all tables that map something of INGInious's to something of ours."""
    rows: list[list[str]] = []
    within = False
    for line in without_code(text_of("docs/coming-from-inginious.md")).splitlines():
        found = cells(line)
        if found and not within:
            assert found == ["", "INGInious", "here"]
        elif found and set("".join(found)) != {"-"}:
            rows.append(found)
        within = bool(found)
    return rows


def test_every_row_for_who_comes_from_inginious_is_full_and_names_tests_that_there_are() -> None:
    rows = mapped()
    text = text_of("docs/coming-from-inginious.md")
    tests = numbered_tests(text, TESTS_OF_LINES)
    assert [row for row in rows if len(row) != 3 or not all(row)] == []
    assert [row[0] for row in rows] == list(tests) == numbers_to(len(rows))
    untested = {number for number, line in re.findall(r"(?m)^(\d+)\. (.*)$", text) if line.startswith(NOTHING)}
    assert {row[0] for row in rows if row[0] in untested and not row[2].startswith("dropped")} == set()
    assert [number for number, names in tests.items() if not names and number not in untested] == []
    assert [name for number in tests.keys() - untested for name in tests[number] if not is_test(name)] == []


def test_every_old_name_has_a_row() -> None:
    told = " ".join(row[1] for row in mapped())
    assert [name for name in SEEDED.split() if not re.search(rf"\b{re.escape(name)}\b", told)] == []


def test_every_case_of_inginious_that_is_recreated_is_in_the_table() -> None:
    tests = numbered_tests(text_of("docs/coming-from-inginious.md"), TESTS_OF_LINES)
    named = {name for names in tests.values() for name in names}
    ours = re.findall(r"(?m)^def (test_\w+)", text_of("tests/integration/test_inginious_cases.py"))
    assert [name for name in ours if f"test_inginious_cases.py::{name}" not in named] == []
