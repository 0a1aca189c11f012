"""What is kept of a runner's messages."""

from __future__ import annotations

from typing import Any

import pytest

from jobmanager import Limits
from jobmanager.ipc.messages import MonitorContainer, StreamPiece
from jobmanager.results.facts import ProgramEnd
from jobmanager.runner.frames import (
    Ended,
    FullPlace,
    HowEnded,
    OutputData,
    Piece,
    ProgramStream,
    Started,
    StoppedBy,
    VolumeDevice,
)
from jobmanager.watching import transcript as transcript_module
from jobmanager.watching.transcript import Transcript

OUT, ERR = ProgramStream.STDOUT, ProgramStream.STDERR


def job(*, output_kib: int = 1, **fields: Any) -> MonitorContainer:
    return MonitorContainer(
        job_id="j",
        container_id="c",
        container_name="n",
        command="true",
        env={},
        files={},
        stdin=b"",
        limits=Limits(output_kib=output_kib),
        collect=(),
        **fields,
    )


def ended(**fields: Any) -> Ended:
    known: dict[str, Any] = {
        "how": HowEnded.EXITED,
        "code": 0,
        "stopped_by": StoppedBy.NOBODY,
        "cpu_us": 1500,
        "wall_us": 2_000_000,
        "peak_bytes": 4096,
        "peak_is_exact": True,
        "oom_kills": 0,
        "fork_refusals": None,
        "stdout_bytes": 0,
        "stderr_bytes": 0,
        "full": (),
        "left": False,
    }
    return Ended(run=1, **{**known, **fields})


class Printing:
    """A transcript, and a program that prints into it."""

    def __init__(self, **fields: Any) -> None:
        self.transcript = Transcript(job(**fields))
        self._offsets = {OUT: 0, ERR: 0}

    def __call__(self, stream: ProgramStream, data: bytes) -> None:
        self.transcript.take(OutputData(run=1, stream=stream, offset=self._offsets[stream], data=data))
        self._offsets[stream] += len(data)


def test_both_streams_are_kept_and_counted() -> None:
    printing = Printing()
    printing(OUT, b"one\n")
    printing(ERR, b"two\n")
    printing(OUT, b"three\n")

    output = printing.transcript.output(is_incomplete=False)
    assert (output.stdout, output.stderr) == (b"one\nthree\n", b"two\n")
    assert (output.stdout_bytes, output.stderr_bytes, output.is_cut) == (10, 4, False)


@pytest.mark.parametrize("first", [OUT, ERR])
def test_a_stream_that_floods_leaves_room_for_what_the_other_said(first: ProgramStream) -> None:
    printing = Printing(output_kib=1)
    printing(first, b"x" * 1024)
    printing(ERR if first is OUT else OUT, b"why\n")

    output = printing.transcript.output(is_incomplete=False)
    assert b"why\n" in (output.stdout, output.stderr)
    assert len(output.stdout) + len(output.stderr) <= 1024
    assert output.total_bytes == 1028 and output.is_cut


def test_what_the_runner_counted_and_did_not_report_is_counted() -> None:
    printing = Printing(output_kib=1)
    printing(OUT, b"x" * 1024)
    printing.transcript.take(ended(stdout_bytes=5000, stopped_by=StoppedBy.OUTPUT))

    output = printing.transcript.output(is_incomplete=False)
    assert (len(output.stdout), output.stdout_bytes, output.is_cut) == (1024, 5000, True)


def test_what_came_is_told_in_its_order_from_any_byte_on() -> None:
    printing = Printing()
    printing(OUT, b"ab")
    printing(ERR, b"cd")
    printing(OUT, b"ef")

    assert printing.transcript.since(0, 0, 100) == [
        StreamPiece(False, 0, b"ab"),
        StreamPiece(True, 0, b"cd"),
        StreamPiece(False, 2, b"ef"),
    ]
    assert printing.transcript.since(1, 2, 100) == [StreamPiece(False, 1, b"b"), StreamPiece(False, 2, b"ef")]
    assert printing.transcript.since(0, 0, 3) == [StreamPiece(False, 0, b"ab"), StreamPiece(True, 0, b"c")]


def test_past_so_many_turns_the_streams_are_told_one_after_the_other_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript_module, "_MAX_TURNS", 2)
    printing = Printing()
    for stream in (OUT, ERR, OUT, ERR):
        printing(stream, b"x")

    told = printing.transcript.since(0, 0, 100)
    assert b"".join(piece.data for piece in told if not piece.stderr) == b"xx"
    assert b"".join(piece.data for piece in told if piece.stderr) == b"xx"


def test_of_output_whose_beginning_is_lost_nothing_is_told_while_it_runs() -> None:
    printing = Printing()
    printing.transcript.beginning_lost = True
    printing(OUT, b"rest")

    assert printing.transcript.since(0, 0, 100) == []
    assert printing.transcript.output(is_incomplete=False).is_cut


@pytest.mark.parametrize(
    ("how", "code", "end"),
    [
        (HowEnded.EXITED, 139, {"exit_code": 139}),
        (HowEnded.SIGNALLED, 11, {"signal": "SIGSEGV"}),
        (HowEnded.SIGNALLED, 31, {"signal": "SIGSYS"}),
        (HowEnded.SIGNALLED, 34, {"signal": "signal 34"}),
        (HowEnded.NEVER_REAPED, 0, {}),
    ],
)
def test_an_end_is_an_exit_code_or_a_signal(how: HowEnded, code: int, end: dict[str, Any]) -> None:
    transcript = Transcript(job())
    transcript.take(ended(how=how, code=code))

    assert transcript.is_over
    assert transcript.end == ProgramEnd(cpu_ns=1_500_000, wall_s=2.0, peak_memory_bytes=4096, oom_kills=0, **end)


@pytest.mark.parametrize(("path", "full"), [(b"/job", (True, False)), (b"/dev/shm", (False, True)), (b"/tmp", (False, False))])
def test_places_that_are_full_are_told(path: bytes, full: tuple[bool, bool]) -> None:
    transcript = Transcript(job())
    transcript.take(ended(full=(FullPlace(path=path, blocks=False, inodes=True),)))

    assert transcript.end is not None
    assert (transcript.end.workspace_full, transcript.end.shm_full) == full


def test_volumes_are_told_by_their_names() -> None:
    transcript = Transcript(job(volumes=("work",)))
    assert transcript.volume_devices == {}
    transcript.take(Started(run=1, volumes=(VolumeDevice(path=b"/volumes/work", device=b"0:99"),)))

    assert transcript.volume_devices == {"work": "0:99"}


def test_a_result_file_that_was_brought_is_kept_and_one_that_was_asked_for_is_another() -> None:
    transcript = Transcript(job())
    about: dict[str, Any] = {"mode": 0o644, "mtime_s": 1, "errno": 0, "offset": 0, "last": True}
    transcript.take(Piece(run=1, request=1, path=b"/job/.jobmanager/result.json", size=5, data=b"other", **about))
    assert transcript.result_file is None
    transcript.take(Piece(run=1, request=0, path=b"/job/.jobmanager/result.json", size=2, data=b"{}", **about))

    assert transcript.result_file == b"{}"
