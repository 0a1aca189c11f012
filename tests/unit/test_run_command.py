"""``jobmanager run`` on the fake engine: what it takes, what it prints, and what its exit codes mean."""

from __future__ import annotations

import io
import os
import pty
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from jobmanager import JobResult, Limits, Outcome, cli
from jobmanager.command_line.program_output import PassedOn
from jobmanager.command_line.run import CODES, NOT_RUN, OWN_CODE_IS_TAKEN, exit_code
from jobmanager.command_line.workspace import check_target, unpack, workspace_files
from jobmanager.testing import Die, Echo, Exit, FakeEngineServer, Print, PrintFile, Sleep, UseMemory, WriteFile

PROGRAMS = {
    "greet": [Print("hello\n"), Print("a warning\n", stderr=True), Exit(7)],
    "bytes": [Print(b"\0\xff\x1b[31m\n")],
    "cat": [Echo()],
    "show": [PrintFile("data/in.txt")],
    "segfault": [Die("SIGSEGV")],
    "greedy": [UseMemory(1000)],
    "endless": [Sleep(1000)],
    "taken": [Exit(124)],
    "chatty": [Print("x" * 3000), Exit(4)],
    "unhappy": [WriteFile(".jobmanager/result.json", '{"result": "failed", "text": "no \\u001b[31mluck"}')],
    "hidden": [WriteFile(".jobmanager/result.json", "{")],
    "fine": [WriteFile("out/made.txt", "made"), WriteFile("other.txt", "x")],
}

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with FakeEngineServer(images=["python3"], programs=PROGRAMS) as fake:
        yield fake.url


@pytest.fixture
def ask(url: str, capfd: pytest.CaptureFixture[str]) -> Ask:
    def asked(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(["run", "--host", url, *arguments])
        return (code, *capfd.readouterr())

    return asked


def test_what_a_program_prints_and_its_exit_code_are_the_commands(ask: Ask) -> None:
    code, out, err = ask("python3", "--", "greet")

    assert (code, out) == (7, "hello\n")
    assert err.splitlines()[0] == "a warning"
    assert err.splitlines()[1].startswith("jobmanager: failed: exit code 7 (")


def test_without_a_verdict_only_the_program_is_heard(ask: Ask) -> None:
    assert ask("python3", "--quiet", "--", "greet") == (7, "hello\n", "a warning\n")


def test_bytes_come_out_of_a_pipe_as_they_went_in(url: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.run(["run", "--host", url, "python3", "--", "bytes"]) == 0

    assert capfdbinary.readouterr().out == b"\0\xff\x1b[31m\n"


@pytest.mark.parametrize(
    ("program", "limits", "code", "said"),
    [
        ("segfault", [], 128 + 11, "failed: killed by SIGSEGV"),
        ("greedy", ["--memory", "32"], CODES[Outcome.OVERFLOW], "overflow: memory limit of 32 MiB"),
        ("endless", ["--wall-time", "0.3"], CODES[Outcome.TIMEOUT], "timeout: wall clock limit of 0.3 s"),
        ("taken", [], OWN_CODE_IS_TAKEN, "failed: exit code 124"),
        ("unhappy", [], 1, "failed: no  [31mluck"),
        ("hidden", [], CODES[Outcome.ERROR], "error: the result file cannot be read"),
    ],
)
def test_each_kind_of_end_has_a_code_of_its_own(ask: Ask, program: str, limits: list[str], code: int, said: str) -> None:
    answer = ask("python3", *limits, "--", program)

    assert (answer[0], answer[1]) == (code, "")
    assert f"jobmanager: {said}" in answer[2]
    assert "\x1b" not in answer[2]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_no_program_can_choose_a_code_that_is_ours(outcome: Outcome) -> None:
    ours = {*CODES.values(), NOT_RUN}
    for own in range(256):
        ended = JobResult(job_id="j", outcome=outcome, exit_code=own)
        code = exit_code(ended)
        if outcome is Outcome.FAILED:
            assert code == (OWN_CODE_IS_TAKEN if own in ours else own or 1)
        else:
            assert code == {**CODES, Outcome.SUCCESS: 0}[outcome]


def test_the_codes_differ_and_one_by_a_signal_is_that_of_a_shell() -> None:
    assert len({*CODES.values(), NOT_RUN, OWN_CODE_IS_TAKEN}) == len(CODES) + 2
    for name, code in (("SIGKILL", 137), ("signal 34", 162), ("SIGINT", OWN_CODE_IS_TAKEN)):
        assert exit_code(JobResult(job_id="j", outcome=Outcome.FAILED, signal=name)) == code


def test_standard_input_is_a_file_or_ours(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.txt").write_bytes(b"of a file\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"of ours\n")))

    assert ask("python3", "--stdin", str(tmp_path / "in.txt"), "--", "cat")[1] == "of a file\n"
    assert ask("python3", "--stdin", "-", "--", "cat")[1] == "of ours\n"
    assert ask("python3", "--", "cat")[1] == ""


def test_more_standard_input_than_the_memory_holds_is_refused_and_not_read_to_its_end(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = io.BytesIO(bytes(40 * 2**20))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(endless))

    code, _, err = ask("python3", "--stdin", "-", "--memory", "16", "--", "cat")

    assert code == NOT_RUN
    assert "raise memory_mib" in err
    assert endless.tell() < 20 * 2**20


def test_files_and_folders_come_into_the_workspace(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "in.txt").write_text("of the folder")
    (tmp_path / "else.txt").write_text("of another name")

    assert ask("python3", "--file", str(tmp_path / "data"), "--", "show")[1] == "of the folder"
    assert ask("python3", "--file", f"data={tmp_path / 'data'}", "--", "show")[1] == "of the folder"
    assert ask("python3", "--file", f".={tmp_path}", "--", "show")[1] == "of the folder"
    assert ask("python3", "--file", f"data/in.txt={tmp_path / 'else.txt'}", "--", "show")[1] == "of another name"


def test_a_link_in_a_folder_is_not_followed_and_a_file_with_an_equals_sign_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to("/etc/passwd")
    (tmp_path / "folder" / "a=b").write_text("x")
    (tmp_path / "a=b").write_text("x")

    found = workspace_files(["folder", "a=b", "c=a=b"], Limits())

    assert set(found) == {"folder/a=b", "a=b", "c"}


def test_the_files_that_come_back_are_in_the_named_folder(ask: Ask, tmp_path: Path) -> None:
    code, _, err = ask("python3", "--collect", "out/*", "--archive-to", str(tmp_path / "new"), "--", "fine")

    assert code == 0, err
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == ["new/out/made.txt"]


def test_a_folder_that_cannot_be_made_is_told(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    code, _, err = ask("python3", "--collect", "*", "--archive-to", str(tmp_path / "file" / "new"), "--", "fine")

    assert (code, "cannot be written: Not a directory" in err) == (NOT_RUN, True)


def test_an_archive_can_write_nowhere_else(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, kind in (
            ("../outside", tarfile.REGTYPE),
            (str(tmp_path / "absolute"), tarfile.REGTYPE),
            ("a/../../outside", tarfile.REGTYPE),
            ("link", tarfile.SYMTYPE),
            ("link/through", tarfile.REGTYPE),
            ("pipe", tarfile.FIFOTYPE),
            ("kept", tarfile.REGTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode = kind, str(tmp_path), 0o4777
            tar.addfile(member)

    unpack(packed.getvalue(), tmp_path / "new")

    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {
        "new",
        "new/kept",
        "new/link",
        "new/link/through",
    }
    assert (tmp_path / "new/kept").stat().st_mode & 0o7777 == 0o755


def test_a_program_that_prints_too_much_is_stopped_or_goes_on_and_the_rest_is_dropped(ask: Ask) -> None:
    code, _, err = ask("python3", "--output", "1", "--", "chatty")
    assert code == CODES[Outcome.OVERFLOW] and "overflow" in err

    code, out, err = ask("python3", "--output", "1", "--truncate", "--", "chatty")
    assert (code, out) == (4, "x" * 1024)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument 'IMAGE'"),
        (["python3", "--nothing"], "No such option"),
        (["python3", "greet", "-c", "1"], "write -- before the command: jobmanager run IMAGE -- COMMAND -c"),
        (["python3", "--memory", "much"], "'much' is not a valid integer"),
        (["python3", "--memory", "3", "--", "greet"], "memory_mib must be at least 16"),
        (["python3", "--env", "A", "--", "greet"], "--env: give NAME=VALUE, not 'A'"),
        (["python3", "--env", "A=1", "--env", "A=2", "--", "greet"], "'A' is given twice"),
        (["python3", "--file", "/nothing/here", "--", "greet"], "there is no '/nothing/here'"),
        (["python3", "--file", "=x", "--", "greet"], "give PATH or NAME=PATH"),
        (["python3", "--file", "../x=/etc/hostname", "--", "greet"], "'../x'"),
        (["python3", "--stdin", "/nothing", "--", "greet"], "'/nothing' cannot be read: No such file"),
        (["python3", "--collect", "*", "--", "greet"], "--collect and --archive-to go together"),
        (["python3", "--network", "host", "--", "greet"], "network 'host' is not for jobs"),
        (["nothing:1", "--", "greet"], "no host has the environment or image 'nothing:1'"),
        (["nothing:1", "--", "greet"], "or --pull on the command line, lets a host fetch an image"),
        (["python3", "--tls", "/nothing", "--", "greet"], "--tls is for tcp hosts"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line_and_has_the_code_for_it(ask: Ask, arguments: list[str], said: str) -> None:
    code, out, err = ask(*arguments)

    assert (code, out) == (NOT_RUN, "")
    assert err.startswith("jobmanager: ")
    assert err.count("\n") == 1
    assert said in err


def test_a_host_that_is_away_has_the_code_for_what_was_not_run(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["run", "--host", "unix:///nothing", "x"]) == NOT_RUN
    assert "No such file" in capfd.readouterr().err


def test_two_files_of_one_name_are_refused_and_a_full_folder_takes_nothing(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    (tmp_path / "x").write_text("2")

    code, _, err = ask("python3", "--file", str(tmp_path / "x"), "--file", str(tmp_path / "a" / "x"), "--", "greet")
    assert (code, "two files would be 'x'" in err) == (NOT_RUN, True)

    code, _, err = ask("python3", "--collect", "*", "--archive-to", str(tmp_path / "a"), "--", "greet")
    assert (code, "is not empty" in err) == (NOT_RUN, True)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(click.UsageError, match="is no folder"):
        check_target(tmp_path / "link")


def test_the_result_as_json_is_read_back_and_nothing_else_is_printed(ask: Ask) -> None:
    code, out, err = ask("python3", "--json", "--", "greet")

    result = JobResult.from_json(out)
    assert (code, err) == (7, "")
    assert (result.outcome, result.exit_code, result.stdout, result.stderr) == ("failed", 7, b"hello\n", b"a warning\n")


# ---- terminals


def shown_on_a_terminal(*pieces: bytes, raw: bool) -> bytes:
    ours, theirs = pty.openpty()
    try:
        with open(theirs, "w") as terminal:
            stream = PassedOn(terminal, raw=raw)
            for piece in pieces:
                stream.write(piece)
            stream.finish()
        return b"".join(iter(lambda: _read(ours), b""))  # it may come in pieces
    finally:
        os.close(ours)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed, and all is read
        return b""


def test_a_terminal_is_given_no_control_characters_unless_somebody_asks_for_them() -> None:
    evil = "\x1b]0;title\x07é\u202e\t|\n".encode()

    assert shown_on_a_terminal(evil[:11], evil[11:12], evil[12:], raw=False).decode() == "\\x1b]0;title\\x07é\\u202e\t|\r\n"
    assert shown_on_a_terminal(b"\x1b[31m", raw=True) == b"\x1b[31m"
    assert shown_on_a_terminal(b"\xff\xc3", raw=False).decode() == "\ufffd\ufffd"
