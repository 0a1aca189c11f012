"""What a runner is sent for a run."""

from __future__ import annotations

from typing import Any

import pytest

from jobmanager import Limits
from jobmanager.ipc.messages import GradingSettings
from jobmanager.model.network import Network
from jobmanager.runner.frames import (
    Input,
    InputFrom,
    Put,
    PutKind,
    RefusalReason,
    Remove,
    ResourceLimit,
    RunRefused,
    StartRun,
    VolumeDevice,
    encode,
)
from jobmanager.watching.refusals import refusal_text
from jobmanager.watching.run_order import run_messages
from tests.support.scripted_container import job

GRADING = GradingSettings(images={}, cpu_time_s=1, memory_mib=64, network=Network.OFF, most_students=1)


def sent(**fields: Any) -> list[Any]:
    messages = list(run_messages(job(**fields), made_at_s=1_000_000.5))
    assert all(len(encode(message)) <= 2**20 for message in messages)
    return messages


def run_of(**fields: Any) -> StartRun:
    *_, run = sent(**fields)
    assert isinstance(run, StartRun)
    return run


def test_files_come_first_then_what_is_removed_then_standard_input_then_the_run() -> None:
    kinds = [type(message).__name__ for message in sent(files={"a": b"1", "b/c": b"2"}, wipe=("work/*",), stdin=b"in")]

    assert kinds == ["Put", "Put", "Put", "Remove", "Input", "StartRun"]


def test_all_files_are_of_one_moment_and_programs_may_be_run() -> None:
    files = {"a.txt": b"x", "s.sh": b"#!/bin/sh\n", "elf": b"\x7fELF...", "named": b"y", ".jobmanager/bin/tool": b"z"}
    messages = sent(files=files, executables=frozenset({"named"}))
    puts = [message for message in messages if isinstance(message, Put) and not message.kind]

    assert {put.path: put.mode for put in puts} == {
        b"/job/a.txt": 0o644,
        b"/job/s.sh": 0o755,
        b"/job/elf": 0o755,
        b"/job/named": 0o755,
        b"/job/.jobmanager/bin/tool": 0o755,
    }
    assert {put.mtime_s for put in puts} == {1_000_000}


@pytest.mark.parametrize("size", [0, 1, 2**20, 5 * 2**20 + 3])
def test_files_and_standard_input_come_in_pieces_that_fit_a_message(size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    for kind, pieces in ((Put, sent(files={"big": content})), (Input, sent(stdin=content))):
        of_it = [piece for piece in pieces if isinstance(piece, kind) and getattr(piece, "path", b"/job/big") == b"/job/big"]
        assert b"".join(piece.data for piece in of_it) == content
        assert [piece.last for piece in of_it] == [False] * (len(of_it) - 1) + [True]
        assert [piece.offset for piece in of_it] == [sum(len(before.data) for before in of_it[:at]) for at in range(len(of_it))]


def test_a_program_finds_the_folder_for_its_result_file() -> None:
    folder, *_ = sent()

    assert (folder.kind, folder.path, folder.mode) == (PutKind.FOLDER, b"/job/.jobmanager", 0o755)


def test_secrets_are_in_a_folder_that_only_their_user_enters() -> None:
    _, folder, secret, *_ = sent(secrets={"key": b"hush"})

    assert (folder.kind, folder.path, folder.mode) == (PutKind.FOLDER, b"/job/.jobmanager/secrets", 0o700)
    assert (secret.path, secret.mode, secret.data) == (b"/job/.jobmanager/secrets/key", 0o400, b"hush")


def test_what_is_wiped_is_a_pattern_for_each_level_below_its_volume() -> None:
    (remove,) = (message for message in sent(wipe=("work/build/*.o",)) if isinstance(message, Remove))

    assert (remove.base, remove.parts) == (b"/volumes/work", (b"build", b"*.o"))


def test_a_text_is_for_the_images_shell_and_words_are_executed_as_they_are() -> None:
    assert run_of(command="echo $X").argv == (b"sh", b"-c", b"echo $X")
    assert run_of(command=("./prog", "é")).argv == (b"./prog", "é".encode())


def test_limits_become_those_of_the_run() -> None:
    run = run_of(limits=Limits(cpu_time_s=1.5, wall_time_s=2.25, cpus=0.5, output_kib=3, open_files=40, workspace_mib=8000))

    assert (run.cpu_us, run.wall_ms, run.cpus_milli, run.output_bytes) == (1_500_000, 2250, 500, 3072)
    assert not run.drops_output and run_of(limits=Limits(on_output_limit="truncate")).drops_output
    assert run.rlimits == (
        ResourceLimit(resource=0, soft=11, hard=11),
        ResourceLimit(resource=1, soft=8000 * 2**20, hard=8000 * 2**20),
        ResourceLimit(resource=7, soft=40, hard=40),
    )


def test_a_grader_has_a_channel_and_no_standard_input_and_its_wall_clock_is_the_waiters() -> None:
    run = run_of(grading=GRADING, stdin=None, workspace="/task")

    assert (run.channel, run.stdin, run.wall_ms) == (True, InputFrom.NOTHING, 0)


def test_a_students_program_reads_from_a_pipe_and_a_debug_session_has_a_channel() -> None:
    assert (run_of(stdin=None).stdin, run_of(stdin=None).channel) == (InputFrom.PIPE, False)
    assert run_of(with_ssh=True).channel


def test_volumes_must_have_the_devices_that_are_known() -> None:
    run = run_of(volumes=("a", "b"), volume_devices={"b": "0:7"})

    assert run.volumes == (VolumeDevice(path=b"/volumes/a", device=b""), VolumeDevice(path=b"/volumes/b", device=b"0:7"))


@pytest.mark.parametrize(
    ("why", "words"),
    [
        (RefusalReason.NO_SUCH_PROGRAM, "there is no 'prog' that can be run"),
        (RefusalReason.IS_A_FOLDER, "'prog' is a folder, not a program"),
        (RefusalReason.REMOVE_FAILED, "'what' cannot be wiped: something is left that cannot be removed"),
        (RefusalReason.PUT_FAILED, "its files do not fit into the workspace: 'what': No space left on device"),
        (RefusalReason.OTHER, "the program could not be started: 'what': No space left on device"),
        (RefusalReason.KILLED_BEFORE, ""),
    ],
)
def test_a_refusal_is_told_in_words(why: RefusalReason, words: str) -> None:
    assert refusal_text(RunRefused(run=1, why=why, errno=28, what=b"what"), job()) == words


def test_every_refusal_has_words() -> None:
    texts = [refusal_text(RunRefused(run=1, why=why, errno=9999, what=b"\xff\n"), job()) for why in RefusalReason]
    assert all(
        "\n" not in text and (text or why is RefusalReason.KILLED_BEFORE) for why, text in zip(RefusalReason, texts, strict=True)
    )


def test_an_image_without_a_shell_is_told_what_to_do() -> None:
    refused = RunRefused(run=1, why=RefusalReason.NO_SUCH_PROGRAM, errno=2, what=b"")
    assert "give the command as a list of words" in refusal_text(refused, job(command="echo"))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (b"#!/usr/bin/python9\nprint()", "its interpreter '/usr/bin/python9' does not exist"),
        (b"#! /bin/sh -e\r\necho", "its interpreter '/bin/sh' does not exist"),
        (b"#!/bin/sh\r\necho", "its interpreter '/bin/sh\\r' does not exist; its lines end in CR LF"),
        (b"\x7fELF", "its interpreter does not exist"),
    ],
)
def test_a_script_without_its_interpreter_says_which(script: bytes, words: str) -> None:
    refused = RunRefused(run=1, why=RefusalReason.NO_INTERPRETER, errno=2, what=b"")
    assert refusal_text(refused, job(command=("./a.sh",), files={"a.sh": script})) == f"'./a.sh': {words}"
