"""What goes into a job and what comes out of it is the same, byte for byte, however odd it is."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from docker.models.containers import Container

from jobmanager import ClientSync, Code, File, JobFuture, JobInput, JobManager, JobResult, Limits, Outcome, Task
from jobmanager.errors import InvalidInput
from tests.conftest import BUSYBOX
from tests.integration.conftest import PATIENCE_S, PYTHON, Run, Submit, proof

pytestmark = pytest.mark.engine

ALL_BYTES = bytes(range(256))
ODD_NAMES = [
    "plain",
    "with space",
    "größe ☃.txt",
    "-n",
    "new\nline",
    "quo'te\"s",
    "$HOME *?[a]\\",
    "deep/er/than/most",
    ".hidden",
    "x" * 200,
]
ODD_WORDS = [
    "",
    " ",
    "a b",
    "'",
    '"',
    "$HOME",
    "`id`",
    "*",
    "\\",
    "\n",
    "é☃",
    "-e",
    "--",
    ";",
    "}",
    "#",
    "!",
    "~",
    "a=b",
    "\x01\x7f",
]


def unpacked(result: JobResult) -> dict[str, bytes]:
    """The collected files."""
    assert result.archive is not None, result
    with tarfile.open(fileobj=io.BytesIO(result.archive)) as tar:
        assert all(member.isreg() for member in tar.getmembers())
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


# ---- output


@pytest.mark.case(37)
def test_every_byte_comes_back_on_both_streams(run: Run, shell: str) -> None:
    result = run("tee /dev/stderr", JobInput(stdin=ALL_BYTES * 50), image=shell)
    assert (result.stdout, result.stderr) == (ALL_BYTES * 50, ALL_BYTES * 50)


@pytest.mark.parametrize(
    ("program", "stdout", "stderr"),
    [
        ("true", b"", b""),
        ("printf out", b"out", b""),
        ("printf err >&2", b"", b"err"),
        ("printf out; printf err >&2", b"out", b"err"),
        ("echo out; printf 'no end'; echo err >&2; printf 'no end' >&2", b"out\nno end", b"err\nno end"),
        (r"printf '\036'; printf '\036' >&2", b"\x1e", b"\x1e"),
        (r"printf '\036abc end 0\n\n'", b"\x1eabc end 0\n\n", b""),
        (r"printf '\n\n\0'", b"\n\n\0", b""),
    ],
)
def test_output_is_what_was_printed_and_nothing_else(run: Run, shell: str, program: str, stdout: bytes, stderr: bytes) -> None:
    result = run(program, image=shell)
    assert (result.stdout, result.stderr) == (stdout, stderr)
    assert (result.stdout_bytes, result.stderr_bytes, result.output_cut) == (len(stdout), len(stderr), False)


@pytest.mark.case(37)
def test_output_of_a_program_that_crashed_afterwards_is_kept(run: Run, shell: str) -> None:
    result = run("printf out; printf err >&2; kill -SEGV $$", image=shell)
    assert (result.signal, result.stdout, result.stderr) == ("SIGSEGV", b"out", b"err")


def test_what_children_print_after_the_programs_end_is_not_waited_for(run: Run, shell: str) -> None:
    result = run("(sleep 60; echo late) & echo out", image=shell)
    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"out\n")


@pytest.mark.case(37)
def test_a_line_of_50_mb_is_cut_where_the_limit_is(run: Run) -> None:
    result = run("head -c 50000000 /dev/zero", limits=Limits(output_kib=2048))
    assert (result.outcome, result.stdout) == (Outcome.OVERFLOW, bytes(2**21))


def test_a_line_of_8_mb_comes_back_whole(run: Run, shell: str) -> None:
    line = ALL_BYTES.replace(b"\n", b"") * 31_000
    result = run(["cat"], JobInput(stdin=line), image=shell, limits=Limits(output_kib=8192))
    assert result.outcome is Outcome.SUCCESS
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(line).digest()


def test_text_that_is_not_utf_8_is_shown_with_replacements(run: Run) -> None:
    result = run(r"printf 'a\377b'; printf '\303\251' >&2")
    assert (result.stdout_text, result.stderr_text) == ("a\N{REPLACEMENT CHARACTER}b", "é")


# ---- standard input


def test_standard_input_arrives_whole(run: Run, shell: str) -> None:
    data = ALL_BYTES * 20_000
    result = run(["sha256sum"], JobInput(stdin=data), image=shell)
    assert result.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_standard_input_that_nobody_reads_holds_nothing_up(run: Run, shell: str) -> None:
    assert run("echo done", JobInput(stdin=ALL_BYTES * 20_000), image=shell).stdout == b"done\n"


# ---- files in


def test_files_with_odd_names_arrive(run: Run, shell: str) -> None:
    files = {name: f"<{name}>\n" for name in ODD_NAMES}
    result = run(["cat", *(f"./{name}" for name in ODD_NAMES)], image=shell, files=files)
    assert result.outcome is Outcome.SUCCESS, result
    assert result.stdout.decode() == "".join(files.values())


def test_no_file_arrives_that_nobody_gave(run: Run) -> None:
    program = (
        "import json, os\n"
        "found = [os.path.join(folder, name)[2:] for folder, _, names in os.walk('.') for name in names]\n"
        "print(json.dumps(sorted(name for name in found if not name.startswith('.jobmanager/'))))"
    )
    result = run(["python3", "-c", program], image=PYTHON, files=dict.fromkeys(ODD_NAMES, b""))
    assert json.loads(result.stdout) == sorted(ODD_NAMES)


def test_files_arrive_with_every_byte(run: Run, shell: str) -> None:
    files = {"bytes": ALL_BYTES, "empty": b"", "text": "é\r\n"}
    result = run("cat bytes empty text", image=shell, files=files)
    assert result.stdout == ALL_BYTES + "é\r\n".encode()


def test_scripts_can_be_run_and_other_files_cannot(run: Run, shell: str) -> None:
    files = {"bin/script": '#!/bin/sh\necho "$# $1"; exit 9\n', "data": "echo"}
    result = run(["bin/script", "a b"], image=shell, files=files)
    assert (result.stdout, result.exit_code) == (b"1 a b\n", 9)
    assert run("[ -x bin/script ] && [ ! -x data ]", image=shell, files=files).outcome is Outcome.SUCCESS


def test_files_and_folders_belong_to_the_program(run: Run, shell: str) -> None:
    program = "echo more >> a/file && rm a/file && touch a/new && rmdir b && mv a c"
    assert run(f"mkdir b; {program}", image=shell, files={"a/file": "1"}).outcome is Outcome.SUCCESS


def test_a_jobs_files_replace_the_tasks(run: Run) -> None:
    result = run("cat a b c", JobInput(files={"b": "job", "c": "job"}), files={"a": "task ", "b": "task "})
    assert result.stdout == b"task jobjob"


def test_a_folder_of_the_tasks_files_arrives(run: Run, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_bytes(ALL_BYTES)
    (tmp_path / "link").symlink_to("/etc/hostname")
    result = run("cat inner/file; ls", directory=tmp_path)
    assert result.stdout == ALL_BYTES + b"inner\n"


def test_answers_to_code_and_file_problems_become_files(run: Run) -> None:
    problems = {"code": Code("main.py"), "upload": File("data/input.bin")}
    answers = JobInput({"code": "print('é')\r\n", "upload": ALL_BYTES})
    result = run("cat main.py data/input.bin", answers, problems=problems, files={"main.py": "the task's"})
    assert result.stdout == "print('é')\r\n".encode() + ALL_BYTES


def test_the_largest_input_that_is_accepted_arrives(run: Run, shell: str) -> None:
    limits = Limits(workspace_mib=2, memory_mib=64)
    size = 2 * 2**20
    accepted = None
    while accepted is None:
        try:
            accepted = run("wc -c < big", JobInput(files={"big": bytes(size)}, stdin=b"x"), image=shell, limits=limits)
        except InvalidInput:
            size -= 1024
    assert (accepted.outcome, int(accepted.stdout or 0)) == (Outcome.SUCCESS, size), accepted
    assert size > 2 * 2**20 - 100_000


def test_as_many_files_as_are_accepted_arrive(run: Run) -> None:
    limits = Limits(workspace_mib=4)
    count = limits.workspace_inodes // 2  # a folder each
    accepted = None
    while accepted is None:
        try:
            accepted = run("ls | wc -l", JobInput(files={f"d{n}/f": b"" for n in range(count)}), limits=limits)
        except InvalidInput:
            count -= 1
    assert (accepted.outcome, int(accepted.stdout or 0)) == (Outcome.SUCCESS, count), accepted


def test_input_of_many_megabytes_arrives(run: Run) -> None:
    data = bytes(60 * 2**20)
    result = run(["sha256sum", "big"], JobInput(files={"big": data}))
    assert result.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


# ---- command, environment variables


def test_words_of_a_list_command_arrive_as_they_are(run: Run, shell: str) -> None:
    result = run(["printf", "<%s>", *ODD_WORDS], image=shell)
    assert result.stdout.decode() == "".join(f"<{word}>" for word in ODD_WORDS)


def test_a_string_command_is_run_by_a_shell(run: Run, shell: str) -> None:
    result = run('for n in 1 2; do\n  printf "%s\\n" "$n \'é\'" # comment\ndone | tac; echo "$0"; exit 5', image=shell)
    assert (result.stdout.decode(), result.exit_code) == ("2 'é'\n1 'é'\nsh\n", 5)


def test_a_string_command_may_be_long(run: Run, shell: str) -> None:
    result = run(f": '{'x' * 100_000}'; echo fine", image=shell)
    assert result.stdout == b"fine\n", result


def test_without_a_command_the_images_own_is_run(run: Run) -> None:
    assert run(None, JobInput(stdin="print(6 * 7)"), image=PYTHON).stdout == b"42\n"


def test_values_of_environment_variables_arrive_as_they_are(run: Run, shell: str) -> None:
    env = {f"V{number}": word for number, word in enumerate(ODD_WORDS)} | {"HOME": "/elsewhere", "LONG": "x" * 50_000}
    result = run(["env", "-0"], image=shell, env=env)
    found = dict(entry.split("=", 1) for entry in result.stdout.decode().split("\0") if entry)
    assert {key: found.get(key) for key in env} == env


def test_the_program_runs_in_the_workspace_which_is_its_home(run: Run, shell: str) -> None:
    assert run("pwd; cd; pwd", image=shell).stdout == b"/job\n/job\n"


# ---- files out


def test_files_that_match_come_back(run: Run, shell: str) -> None:
    program = (
        "mkdir -p out/deep other; echo 1 > a.txt; echo 2 > b.txt; echo 3 > c.log; echo 4 > out/file; echo 5 > out/deep/file;"
        " echo 6 > other/x.txt; echo 7 > other/y; : > out/empty"
    )
    result = run(program, image=shell, collect=["*.log", "a.txt", "out", "other/y", "none"], files={"out/given": "0"})
    assert unpacked(result) == {
        "a.txt": b"1\n",
        "c.log": b"3\n",
        "out/file": b"4\n",
        "out/deep/file": b"5\n",
        "out/empty": b"",
        "out/given": b"0",
        "other/y": b"7\n",
    }


def test_when_nothing_matches_the_archive_is_empty_and_without_patterns_there_is_none(run: Run) -> None:
    assert unpacked(run("touch a", collect=["b"])) == {}
    assert run("touch a").archive is None


def test_files_come_back_with_every_byte_and_odd_names(run: Run, shell: str) -> None:
    names = [name for name in ODD_NAMES if "\n" not in name]
    result = run(
        "find . -name .jobmanager -prune -o -type f -exec chmod a+r {} +",
        image=shell,
        files=dict.fromkeys(names, ALL_BYTES),
        collect=["*"],
    )
    assert unpacked(result) == dict.fromkeys(names, ALL_BYTES)


def test_an_executable_file_comes_back_as_one(run: Run) -> None:
    result = run("touch a b; chmod +x b", collect=["a", "b"])
    assert result.archive is not None
    with tarfile.open(fileobj=io.BytesIO(result.archive)) as tar:
        assert {member.name: member.mode for member in tar} == {"a": 0o644, "b": 0o755}


@pytest.mark.case(40)
def test_what_is_no_regular_file_does_not_come_back(run: Run, shell: str) -> None:
    program = (
        "mkdir out; echo 1 > out/file; ln -s /etc/passwd out/link; ln -s /etc out/folder; ln out/file out/hard; mkfifo out/fifo;"
        " ln -s . out/loop; mkdir out/.jobmanager; touch \"out/$(printf 'new\\nline')\" \"out/$(printf 'bad\\377')\""
    )
    result = run(program, image=shell, collect=["out", "/job/out".lstrip("/"), "*"])
    assert unpacked(result) == {"out/file": b"1\n", "out/hard": b"1\n"}
    told = str(proof(result)["not_collected"])
    assert told.count("'out/") == 5 and told.endswith(", and 1 more"), told
    assert {"'out/link' (a symbolic link)", "'out/fifo' (no regular file)"} <= set(told.split(", ")), told


@pytest.mark.parametrize(("collect", "names"), [("app", ["app"]), ("my", ["my"]), ("*", ["app", "deps/app-1", "my"])])
def test_every_name_of_a_file_comes_back(run: Run, shell: str, collect: str, names: list[str]) -> None:
    program = "mkdir deps; echo program > deps/app-1; chmod +x deps/app-1; ln deps/app-1 app; ln deps/app-1 my"
    result = run(program, image=shell, collect=[collect])
    assert unpacked(result) == dict.fromkeys(names, b"program\n")
    assert proof(result) == {"exit_code": 0}


def test_what_was_to_be_collected_and_did_not_come_is_told(run: Run, shell: str) -> None:
    odd = "".join(f"echo 1 > \"$(printf '{name}')\"; " for name in (r"bad\377", r"a\342\200\256b"))
    program = f"echo 1 > one; mkfifo pipe; ln -s one link; {odd}exit 0"
    result = run(program, image=shell, collect=["*"])
    assert unpacked(result) == {"one": b"1\n"}
    assert sorted(str(proof(result)["not_collected"]).split(", ")) == [
        r"'a\u202eb' (control characters in its name)",
        r"'bad\xff' (its name is no UTF-8)",
        "'link' (a symbolic link)",
        "'pipe' (no regular file)",
    ]
    assert "not_collected" not in proof(run(program, image=shell, collect=["one"]))


def test_a_workspace_that_was_replaced_by_links_gives_nothing_away(run: Run, shell: str) -> None:
    result = run("rm -rf .jobmanager out; ln -s /etc out; ln -s / .jobmanager", image=shell, collect=["out", "*"])
    assert result.outcome is Outcome.SUCCESS
    assert unpacked(result) == {}


def test_files_come_back_after_a_failure(run: Run, shell: str) -> None:
    result = run("echo half > report; exit 3", image=shell, collect=["report"])
    assert (result.exit_code, unpacked(result)) == (3, {"report": b"half\n"})


@pytest.mark.parametrize(
    ("program", "limits", "outcome"),
    [
        ("sleep 60", Limits(wall_time_s=1), Outcome.TIMEOUT),
        ("while :; do :; done", Limits(cpu_time_s=0.3, wall_time_s=30), Outcome.TIMEOUT),
        ("yes", Limits(output_kib=8), Outcome.OVERFLOW),
        ("dd if=/dev/zero of=/dev/null bs=200M", Limits(memory_mib=32), Outcome.OVERFLOW),
    ],
    ids=["wall", "cpu", "output", "memory"],
)
def test_files_come_back_after_a_limit_was_reached(run: Run, shell: str, program: str, limits: Limits, outcome: Outcome) -> None:
    result = run(f"echo half > report; {program}", image=shell, collect=["report"], limits=limits)
    assert (result.outcome, unpacked(result)) == (outcome, {"report": b"half\n"})


def test_no_files_come_back_from_a_container_that_a_stranger_killed(
    submit: Submit, running: Callable[[JobFuture], Container]
) -> None:
    job = submit("echo half > report; echo ready; sleep 60", collect=["report"])
    running(job).kill()
    result = job.result(PATIENCE_S)
    assert (result.outcome, result.archive) == (Outcome.CRASH, None)


@pytest.mark.case(40)
def test_ten_thousand_files_come_back_and_no_more(run: Run) -> None:
    program = "import os\nfor n in range(10_050): os.close(os.open(f'f{n}', os.O_CREAT))"
    result = run(["python3", "-c", program], image=PYTHON, limits=Limits(workspace_mib=160), collect=["f*"])
    assert result.outcome is Outcome.SUCCESS
    assert len(unpacked(result)) == 10_000
    assert proof(result)["archive"] == "more than 10000 files match"


@pytest.mark.case(40)
def test_a_folder_of_great_depth_harms_nobody(run: Run) -> None:
    program = "import os\nfor n in range(600): os.mkdir('d' * 50); os.chdir('d' * 50)\nopen('f', 'w')\n"
    result = run(["python3", "-c", program], image=PYTHON, collect=["*"])
    assert (result.outcome, unpacked(result)) == (Outcome.SUCCESS, {})


def test_with_debug_the_streams_are_whole_and_every_step_has_its_time(shared_manager: JobManager) -> None:
    task = Task(BUSYBOX, command="head -c 200000 /dev/zero; head -c 100000 /dev/zero >&2")

    result = ClientSync(shared_manager).new_job(task, debug=True)

    assert (result.stdout, result.stderr, result.output_cut) == (bytes(200_000), bytes(100_000), False)
    assert [step.name for step in result.steps] == ["accepted", "host_assigned", "container_started", "job_sent", "run_ended"]
    times = [step.at_s for step in result.steps]
    assert times[0] == 0.0 and times == sorted(times)
    assert times[-1] >= (result.wall_time_s or 0.0) > 0.0


# ---- what can be run, and when files are from


def test_a_program_that_was_collected_can_be_run_by_another_job(run: Run, tmp_path: Path) -> None:
    built = run("printf 'int main(){return 7;}' > m.c && gcc -o prog m.c && cp prog other", image=PYTHON, collect=["prog", "other"])
    assert built.archive is not None
    with tarfile.open(fileobj=io.BytesIO(built.archive)) as tar:
        tar.extractall(tmp_path, filter="data")
    for given in ({"files": {"prog": unpacked(built)["prog"]}}, {"files": {"prog": tmp_path / "prog"}}, {"directory": tmp_path}):
        assert run(["./prog"], image=PYTHON, **given).exit_code == 7
    assert run(["./prog"], JobInput(files={"prog": unpacked(built)["prog"]}), image=PYTHON).exit_code == 7


def test_a_script_without_an_interpreter_can_be_run_where_it_can_on_disk_or_is_named(run: Run, shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("exit 7\n")
    refused = run(["./script"], image=shell, directory=tmp_path).text
    assert "'./script' is there, but may not be executed: run it by its interpreter" in refused
    assert run(["./script"], image=shell, directory=tmp_path, executables=["script"]).exit_code == 7
    script.chmod(0o755)
    assert run(["./script"], image=shell, directory=tmp_path).exit_code == 7


def test_a_script_whose_interpreter_is_missing_says_so(run: Run, shell: str) -> None:
    result = run(["./script"], image=shell, files={"script": "#!/no/such thing\n"})
    assert (result.outcome, result.exit_code, result.signal) == (Outcome.FAILED, None, None)
    assert "'./script': its interpreter '/no/such' does not exist" in result.text


def test_files_are_of_one_moment_of_today_by_the_hosts_clock(run: Run) -> None:
    program = (
        "import os, sys, time, zipfile\n"
        "times = {os.stat(name).st_mtime for name in ('a', 'd/b')}\n"
        "print(len(times), 0 <= time.time() - times.pop() < 60)\n"
        "zipfile.ZipFile('o.zip', 'w').write('a')"
    )
    result = run(["python3", "-c", program], image=PYTHON, files={"a": "x", "d/b": "y"})
    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"1 True\n"), result
