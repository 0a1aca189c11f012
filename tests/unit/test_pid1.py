"""The payload that gives a container its job, and telling PID 1's marks from a program's output."""

from __future__ import annotations

import io
import random
import shlex
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from jobmanager.engine.pid1 import EndMark, Mark, MarkedStream, cpu_before, end_mark, payload
from jobmanager.testing.fake.container import command_file

TOKEN = "0123456789abcdef"
BEGIN = b"\x1e" + TOKEN.encode() + b" "
OUTPUTS = [b"", b"plain\n", b"\x1e", b"\x1e\x1e0123", BEGIN[:-1], b"\x1e" + b"f" * 16 + b" end 0\n", bytes(range(256)), b"\n" * 3]


def unpacked(job: bytes) -> dict[str, tuple[bytes, int]]:
    """A payload's files: content and permission bits by name, in their order."""
    line, _, tar = job.partition(b"\n")
    token, size = line.split(b" ")
    assert token.decode() == TOKEN
    assert int(size) == len(tar)
    found = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        for member in opened:
            if (content := opened.extractfile(member)) is not None:
                found[member.name] = (content.read(), member.mode)
    return found


def made(command: str | tuple[str, ...] = ("true",), **given: object) -> bytes:
    options = {"env": {}, "files": {}, "stdin": b"", **given}
    return payload(TOKEN, command=command, **options)  # type: ignore[arg-type]


def sorted_out(pieces: list[bytes]) -> tuple[bytes, list[Mark]]:
    """Output and marks of a stream that comes in these pieces."""
    stream = MarkedStream(TOKEN)
    output, marks = b"", []
    for piece in pieces:
        for found in stream.feed(piece):
            if isinstance(found, Mark):
                marks.append(found)
            else:
                output += found
    return output + stream.rest(), marks


# ---- payload


def test_a_payload_holds_files_then_standard_input_then_the_command() -> None:
    job = made(files={"a": b"1", "ü/b": b"2"}, stdin=b"in")
    found = unpacked(job)
    assert list(found) == ["a", "ü/b", ".jobmanager/stdin", ".jobmanager/command"]
    assert found[".jobmanager/stdin"][0] == b"in"
    assert found["ü/b"][0] == b"2"


def test_secrets_are_in_a_folder_that_only_their_user_enters() -> None:
    job = made(secrets={"token": b"\0", "b": b""})
    found = {member.name: (member.mode, member.isdir()) for member in members_of(job) if "secrets" in member.name}
    folder = ".jobmanager/secrets"
    assert found == {folder: (0o700, True), f"{folder}/token": (0o400, False), f"{folder}/b": (0o400, False)}
    assert unpacked(made(secrets={"token": b"\0"})).keys() == {f"{folder}/token", ".jobmanager/stdin", ".jobmanager/command"}


def test_a_job_without_anything_to_wipe_has_no_lines_for_it() -> None:
    assert not any(b"wipe" in content or "wipe" in name for name, (content, _) in unpacked(made()).items())


@pytest.mark.parametrize("lacking", ["rm", "ls"])
def test_an_image_without_what_wiping_needs_is_refused_in_words(tmp_path: Path, lacking: str) -> None:
    for tool in {"rm", "ls"} - {lacking}:
        (tmp_path / tool).symlink_to("/bin/true")
    found = unpacked(made(wipe=["work/*"]))
    (tmp_path / ".jobmanager").mkdir()
    for name in (".jobmanager/wipe", ".jobmanager/command"):
        (tmp_path / name).write_bytes(found[name][0])

    done = subprocess.run(
        ["/bin/sh", "-c", ". ./.jobmanager/command; if lack=$(_jm_lacking); then echo no \"$lack\"; fi"],
        capture_output=True, cwd=tmp_path, env={"PATH": str(tmp_path)}, check=True, timeout=20,
    )  # fmt: skip

    assert done.stdout.decode() == f"no the image has no {lacking}, which is needed to wipe volumes\n"


def test_scripts_with_an_interpreter_programs_and_what_is_named_may_be_run() -> None:
    files = {"script": b"#!/bin/sh\n", "program": b"\x7fELF\x02", "named": b"x", "data": b"x", "empty": b""}
    found = unpacked(made(files=files, executables={"named", "nothing"}))
    assert [found[name][1] for name in files] == [0o755, 0o755, 0o755, 0o644, 0o644]


def members_of(job: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(job.partition(b"\n")[2])) as tar:
        return tar.getmembers()


def test_all_files_are_of_one_moment_when_the_container_began() -> None:
    job = made(files={"a": b"1", "b": b"2"}, made_at_s=1_700_000_000.9)
    assert {member.mtime for member in members_of(job)} == {1_700_000_000}


def test_files_are_of_today_where_that_moment_is_not_known() -> None:
    before = int(time.time())
    assert all(before <= member.mtime <= time.time() for member in members_of(made(files={"a": b"1"})))


def test_long_names_survive() -> None:
    name = "d/" + "x" * 150 + "/" + "é" * 60
    assert name in unpacked(made(files={name: b""}))


NASTY = ["", " ", "a b", "'", '"', "$HOME", "`ls`", "\\", "\n", "é", ";", "}", "exec", "export A=1;", "() {", "#", "*", "\x1e"]


def test_a_shell_reads_the_command_file_as_it_was_meant() -> None:
    script = unpacked(made(("printf", "<%s>", *NASTY), env={"A": "x 'y'"}))[".jobmanager/command"][0]
    done = subprocess.run(
        ["sh", "-c", script.decode() + "_jm_lacking; echo $?; ( _jm_program ); printf '<%s>' \"$A\""],
        capture_output=True,
        check=True,
        timeout=20,
    )
    assert done.stdout.decode() == "1\n" + "".join(f"<{word}>" for word in NASTY) + "<x 'y'>"


def test_a_shell_says_which_program_is_lacking() -> None:
    script = unpacked(made(("no-such-program'", "x")))[".jobmanager/command"][0]
    done = subprocess.run(["sh", "-c", script.decode() + "_jm_lacking"], capture_output=True, check=True, timeout=20)
    assert done.stdout == b"""there is no "no-such-program'" that can be run"""


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (b"#!/no/such thing\n", "./script: its interpreter '/no/such' does not exist\n"),
        (b"#! \t/no/such\n", "./script: its interpreter '/no/such' does not exist\n"),
        (b"#!/bin/sh\r\nexit 3\r\n", "./script: its interpreter '/bin/sh\\r' does not exist; its lines end in CR LF\n"),
        (b"#!/no/$(such)'\n", "./script: its interpreter \"/no/$(such)'\" does not exist\n"),
        (b"#!/bin/sh", ""),
        (b"#!\n", ""),
        (b"\x7fELF", ""),
    ],
)
def test_a_shell_says_which_interpreter_a_script_lacks(script: bytes, words: str) -> None:
    text = unpacked(made(("./script",), files={"script": script}))[".jobmanager/command"][0].decode()
    program = text[text.index("_jm_program") :].replace("exec ./script", "true")
    done = subprocess.run(["sh", "-c", f"{program}_jm_program"], capture_output=True, timeout=20, check=False)
    assert (done.stderr.decode(), done.returncode) == (words, 127 if words else 0)


def test_the_fake_engine_reads_the_command_file_as_it_was_meant() -> None:
    env = {f"V{number}": value for number, value in enumerate(NASTY)}
    script = unpacked(made(("prog", *NASTY), env=env))[".jobmanager/command"][0]
    exports, words, refusal = command_file(script.decode())
    assert dict(exports) == env
    assert words == ("prog", *NASTY)
    assert refusal == "there is no 'prog' that can be run"


def test_a_command_in_one_string_is_for_a_shell() -> None:
    script = unpacked(made("echo $A; exit 3"))[".jobmanager/command"][0]
    assert command_file(script.decode())[1] == ("sh", "-c", "echo $A; exit 3")
    assert shlex.quote("echo $A; exit 3") in script.decode()


# ---- marks


def test_marks_are_taken_out_of_the_output() -> None:
    output, marks = sorted_out([BEGIN + b"got 12\nhello" + BEGIN + b"end 0 1 2\n" + b"{}" + BEGIN + b"bye\n"])
    assert output == b"hello{}"
    assert marks == [Mark("got", "12"), Mark("end", "0 1 2"), Mark("bye", "")]


def test_output_and_marks_keep_their_order() -> None:
    found = MarkedStream(TOKEN).feed(b"a" + BEGIN + b"end 0\nb" + BEGIN + b"bye\nc")
    assert found == [b"a", Mark("end", "0"), b"b", Mark("bye", ""), b"c"]


@pytest.mark.parametrize("output", OUTPUTS, ids=[str(number) for number in range(len(OUTPUTS))])
def test_output_is_the_same_however_it_is_cut(output: bytes) -> None:
    whole = output + BEGIN + b"end 0\n" + output
    for cut in range(len(whole) + 1):
        assert sorted_out([whole[:cut], whole[cut:]]) == (output + output, [Mark("end", "0")])
    assert sorted_out([whole[at : at + 1] for at in range(len(whole))]) == (output + output, [Mark("end", "0")])


def test_random_output_in_random_pieces_survives() -> None:
    rng = random.Random(7)
    for _ in range(300):
        parts = [rng.choice([*OUTPUTS, BEGIN + b"m 1\n"]) for _ in range(8)]
        whole = b"".join(parts)
        cuts = sorted(rng.randrange(len(whole) + 1) for _ in range(6))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        output, marks = sorted_out(pieces)
        assert output == b"".join(part for part in parts if not part.startswith(BEGIN))
        assert len(marks) == sum(part.startswith(BEGIN) for part in parts)


def test_another_token_makes_no_mark() -> None:
    forged = b"\x1efedcba9876543210 end 0\n"
    assert sorted_out([forged]) == (forged, [])


def test_plain_output_is_not_held_back() -> None:
    assert MarkedStream(TOKEN).feed(b"no newline yet") == [b"no newline yet"]


def test_at_most_a_tokens_length_is_held_back() -> None:
    stream = MarkedStream(TOKEN)
    assert stream.feed(b"x" + BEGIN[:-1]) == [b"x"]
    assert stream.rest() == BEGIN[:-1]
    assert stream.rest() == b""


def test_a_mark_whose_line_is_not_utf_8_is_still_a_mark() -> None:
    assert sorted_out([BEGIN + b"no \xff\n"])[1] == [Mark("no", "\ufffd")]


# ---- fields


def test_an_end_marks_fields_are_read() -> None:
    assert end_mark("137 500 4096 1 2 1 -", 100) == EndMark(
        exit_code=137, cpu_ns=400, peak_memory_bytes=4096, oom_kills=1, fork_refusals=2, workspace_full=True
    )


@pytest.mark.parametrize(("word", "full"), [("0", []), ("1", ["workspace"]), ("2", ["shm"]), ("3", ["workspace", "shm"])])
def test_an_end_mark_tells_what_is_full(word: str, full: list[str]) -> None:
    mark = end_mark(f"0 - - - - {word} -", None)
    assert mark is not None
    assert (mark.workspace_full, mark.shm_full) == ("workspace" in full, "shm" in full)


def test_counters_that_the_kernel_lacks_are_none() -> None:
    assert end_mark("0 - - - - 0 -", None) == EndMark(exit_code=0)
    assert end_mark("0 5 - - - 0 -", None) == EndMark(exit_code=0)


@pytest.mark.parametrize(("told", "code"), [("255", 255), ("139", 139), ("267", 139), ("395", 139), ("265", 137), ("320", 192)])
def test_a_signal_is_told_as_most_shells_tell_it(told: str, code: int) -> None:
    """ksh93 says 256 and the signal's number, yash 384."""
    mark = end_mark(f"{told} - - - - 0 1.00", None)
    assert mark is not None
    assert mark.exit_code == code


def test_cpu_time_is_never_negative() -> None:
    mark = end_mark("0 5 - - - 0 -", 9)
    assert mark is not None
    assert mark.cpu_ns == 0


@pytest.mark.parametrize("rest", ["", "0", "0 1 2 3 4 0", "0 1 2 3 4 5 - 7", "x 1 2 3 4 0 -", "-1 1 2 3 4 0 -", "1000 1 2 3 4 0 -"])
def test_an_end_mark_of_another_shape_is_none(rest: str) -> None:
    assert end_mark(rest, 0) is None


@pytest.mark.parametrize("word", ["", "-", "x", "1.5", "-1", "9" * 25, "\u0663"])
def test_a_counter_that_is_no_number_is_none(word: str) -> None:
    assert cpu_before(word) is None
