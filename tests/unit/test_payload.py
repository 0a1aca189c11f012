"""Payloads: what is packed comes back, in a short text and blobs, and nothing but what was packed does."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import pytest

from jobmanager import Code, File, JobInput, JobResult, Limits, Match, MultipleChoice, Outcome, Phase, Pipeline, Task, Volume
from jobmanager.errors import InvalidInput, InvalidTask, InvalidValue
from jobmanager.remote import payload
from jobmanager.remote.blobs import PIECE_BYTES, BlobLost, BlobReader, hash_of
from jobmanager.remote.payload import Packed, Packer, Unpacked, Unpacker, pack_result, unpack_result

SMALL = Task("python3", command=["python3", "main.py"], limits=Limits(memory_mib=100), name="first")
KIB, MIB = 1024, 2**20


class Blobs(dict[str, bytes]):
    """A store in memory, which counts what is asked."""

    def __init__(self, blobs: Mapping[str, bytes] = {}) -> None:
        super().__init__(blobs)
        self.asked: list[str] = []

    def get(self, sha256: str, default: Any = None) -> Any:
        self.asked.append(sha256)
        return super().get(sha256, default)

    def put(self, sha256: str, data: bytes) -> None:
        self[sha256] = data


def unpacked(packed: Packed, unpacker: Unpacker | None = None) -> Unpacked:
    shared, own = BlobReader(Blobs(packed.shared)), BlobReader(Blobs(packed.own))
    return (unpacker or Unpacker()).unpack(packed.text, shared=shared, own=own)


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


# Jobs


PROBLEMS = {"q": MultipleChoice("2"), "m": Match("yes"), "c": Code("main.py"), "f": File("data.bin")}
TASKS = [
    SMALL,
    Task("python3", command="true", files={"a": b"\xff" * 10, "b/c": noise(100 * KIB)}, executables=["a"], problems=PROBLEMS),
    Pipeline(
        [Phase("build", Task("gcc", command="make", files={"Makefile": noise(5 * KIB)}), writes=["work"]),
         Phase("test", Task("gcc", command="./run"), reads=["work"])],
        volumes={"work": Volume(size_mib=8)}, name="two",
    ),
]  # fmt: skip
INPUTS = [
    JobInput(),
    JobInput({"q": "2", "c": "print(1)", "f": noise(50 * KIB), "@note": [1, {"a": None}]}, stdin=b"\x00\xff"),
    JobInput(files={"x": noise(30 * KIB), "y": noise(5)}, executables=["x"], stdin=noise(200 * KIB)),
]


@pytest.mark.parametrize("task", TASKS, ids=["small", "large", "pipeline"])
@pytest.mark.parametrize("inputs", INPUTS, ids=["empty", "answers", "files"])
@pytest.mark.parametrize("debug", [False, True, "ssh"])
def test_a_job_comes_back_as_it_was(task: Task | Pipeline, inputs: JobInput, debug: bool | str) -> None:
    packed = Packer().pack(task, inputs, debug=debug)

    assert unpacked(packed) == Unpacked(task=task, inputs=inputs, debug=debug)
    assert packed.sha256 == hash_of(packed.text.encode()) and len(packed.text) <= 64 * KIB
    assert packed.size == len(packed.text) + sum(map(len, [*packed.shared.values(), *packed.own.values()]))
    for blobs in (packed.shared, packed.own):
        assert all(hash_of(data) == sha256 and len(data) <= PIECE_BYTES for sha256, data in blobs.items())


def test_a_small_job_has_no_blobs() -> None:
    packed = Packer().pack(SMALL, JobInput({"@a": "b"}, files={"main.py": "print(1)\n" * 100}))

    assert (packed.shared, packed.own) == ({}, {}) and len(packed.text) < 4 * KIB


def test_jobs_of_a_task_share_its_blobs_and_what_is_the_jobs_own_is_apart() -> None:
    task = Task("python3", command="true", files={"data": noise(100 * KIB), "same": noise(100 * KIB)})
    packer = Packer()

    first = packer.pack(task, JobInput(files={"mine": noise(20 * KIB, 1)}))
    second = packer.pack(task, JobInput(files={"mine": noise(20 * KIB, 2)}))

    assert first.shared == second.shared and hash_of(noise(100 * KIB)) in first.shared
    assert set(first.own) == {hash_of(noise(20 * KIB, 1))} and set(second.own) == {hash_of(noise(20 * KIB, 2))}


def test_a_large_task_is_one_blob_and_its_jobs_stay_small() -> None:
    task = Task("python3", command="true", files={f"file{number}": b"x" * number for number in range(500)})

    packed = Packer().pack(task, JobInput({}))

    assert len(packed.text) < KIB and unpacked(packed).task == task


def test_a_large_input_is_a_blob() -> None:
    inputs = JobInput({"@text": "é" * 100 * KIB})

    packed = Packer().pack(SMALL, inputs)

    assert len(packed.text) < KIB and len(packed.own) == 1 and unpacked(packed).inputs == inputs


def test_a_blob_larger_than_a_piece_is_in_pieces() -> None:
    content, text = noise(2 * PIECE_BYTES + 7), "t" * (PIECE_BYTES + 9)
    task = Task("python3", command="true", files={"data": content, "again": content})

    packed = Packer().pack(task, JobInput({"@text": text}, files={"mine": content + b"x"}))

    assert len(packed.text) <= 64 * KIB
    assert max(map(len, [*packed.shared.values(), *packed.own.values()])) == PIECE_BYTES
    assert sum(map(len, packed.shared.values())) < 2 * PIECE_BYTES + 7 + 10 * KIB
    assert unpacked(packed) == Unpacked(task=task, inputs=JobInput({"@text": text}, files={"mine": content + b"x"}), debug=False)


@pytest.mark.parametrize("size", [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1])
def test_around_the_size_of_a_piece_nothing_is_lost(size: int) -> None:
    inputs = JobInput(stdin=noise(size))

    assert unpacked(Packer().pack(SMALL, inputs)).inputs == inputs


def test_what_is_made_of_a_task_is_kept_for_its_next_job(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    monkeypatch.setattr(payload, "hash_of", lambda data: (hashed.append(len(data)), hash_of(data))[1])
    task, packer = Task("python3", command="true", files={"data": noise(100 * KIB)}), Packer()
    first = packer.pack(task, JobInput())
    assert 100 * KIB in hashed
    hashed.clear()

    assert packer.pack(task, JobInput()) == first
    assert max(hashed) < 2 * KIB


def test_kept_tasks_are_bounded_in_number_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "_KEPT_TASKS", 3)
    monkeypatch.setattr(payload, "_KEPT_BYTES", 1000)
    recent: payload._Recent[int, str] = payload._Recent()

    for key, size in [(1, 300), (2, 300), (3, 300), (3, 200), (4, 100), (5, 700), (6, 2000), (7, 900)]:
        recent.put(key, "value", size)
        assert len(recent._values) <= 3 and recent._bytes == sum(size for _, size in recent._values.values()) <= 1000
        if key == 4:
            assert [recent.get(key) for key in (1, 2, 3)] == [None, "value", "value"]
    assert [key for key in range(8) if recent.get(key)] == [7]


def test_a_node_reads_a_task_once() -> None:
    task, packer, unpacker = Task("python3", command="true", files={"data": noise(100 * KIB)}), Packer(), Unpacker()
    packed = packer.pack(task, JobInput())
    shared = Blobs(packed.shared)

    first, second = (unpacker.unpack(packed.text, shared=BlobReader(shared), own=BlobReader()) for _ in range(2))

    assert first.task is second.task and sorted(shared.asked) == sorted(packed.shared)


# What is too large, or cannot be sent


def test_more_than_redis_is_to_hold_is_refused_at_the_call() -> None:
    large, half = noise(65 * MIB), noise(33 * MIB, 1)
    for task, inputs, error, whose in [
        (Task("python3", files={"a": large}, limits=Limits(workspace_mib=200)), JobInput(), InvalidTask, "this task is 65.0 MiB"),
        (SMALL, JobInput(stdin=large), InvalidInput, "this job is 65.0 MiB in all"),
        (Task("python3", files={"a": half}, limits=Limits(workspace_mib=200)), JobInput(stdin=noise(33 * MIB)), InvalidInput,
         "this job is 66.0 MiB in all"),
        (Task("python3", collect=["a"], limits=Limits(archive_mib=65)), JobInput(), InvalidTask, "archive_mib"),
    ]:  # fmt: skip
        with pytest.raises(error, match=r"at most 64\.0 MiB can be sent; give .*blobs=") as refused:
            Packer().pack(task, inputs)
        assert whose in str(refused.value)
        assert Packer(has_store=True).pack(task, inputs).size > 0


def test_what_has_no_form_as_data_is_refused_at_the_call() -> None:
    class Mine(Match):
        pass

    with pytest.raises(InvalidTask):
        Packer().pack(Task("python3", problems={"m": Mine("yes")}), JobInput())
    with pytest.raises(InvalidInput):
        Packer().pack(SMALL, JobInput({"@note": print}))  # type: ignore[dict-item]


# What a node or client reads may be anything


def test_a_blob_that_is_lost_or_swapped_is_told() -> None:
    packed = Packer().pack(TASKS[1], INPUTS[2])
    for blobs in (packed.shared, packed.own):
        for sha256 in blobs:
            for change in ({sha256: b"other"}, {sha256: blobs[sha256] + b"x"}, {sha256: next(iter(SWAP.values()))}, None):
                shared, own = dict(packed.shared), dict(packed.own)
                for each in (shared, own):
                    each.update(change or {}) if sha256 in each else None
                    each.pop(sha256, None) if change is None else None
                with pytest.raises(BlobLost):
                    Unpacker().unpack(packed.text, shared=BlobReader(Blobs(shared)), own=BlobReader(Blobs(own)))


SWAP = {hash_of(noise(100 * KIB, 3)): noise(100 * KIB, 3)}


def changed(text: str, /, **changes: Any) -> str:
    return json.dumps({**json.loads(text), **changes})


H = "0" * 64
BAD_FIELDS: list[dict[str, Any]] = [
    {"schema": "1"}, {"schema": None}, {"more": 1}, {"debug": 1}, {"debug": "ssh "}, {"debug": None}, {"task": None},
    {"task": []}, {"task": {}}, {"task": "python3"}, {"task": {"kind": "task"}}, {"task": {"kind": "input"}}, {"input": None},
    {"input": {"kind": "task"}}, {"input": []}, {"pieces": None}, {"pieces": []}, {"pieces": {"a": []}}, {"pieces": {H: "a"}},
    {"pieces": {H: ["a"]}}, {"pieces": {H: [7]}}, {"task": {"sha256": H}}, {"task": {"sha256": "a", "size": 1}},
    {"task": {"sha256": H, "size": "1"}}, {"task": {"sha256": H, "size": -1}}, {"task": {"sha256": H, "size": True}},
    {"task": {"sha256": H, "size": 2**60}}, {"task": {"sha256": H, "size": 9 * MIB}}, {"text": {"sha256": H, "size": 1}},
]  # fmt: skip


@pytest.mark.parametrize("changes", BAD_FIELDS)
def test_a_text_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    text = changed(Packer().pack(SMALL, JobInput()).text, **changes)

    with pytest.raises(InvalidValue):
        Unpacker().unpack(text, shared=BlobReader(), own=BlobReader())


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "{", "[" * 100_000, '{"schema":NaN}', "1" * 5000, "\ud800"])
def test_what_is_no_payload_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        Unpacker().unpack(text, shared=BlobReader(), own=BlobReader())
    with pytest.raises(InvalidValue):
        unpack_result(text, BlobReader())


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b"null", b'{"schema":1,"pieces":{}}'])
def test_a_blob_in_the_place_of_the_text_that_makes_no_sense_is_refused(content: bytes) -> None:
    blobs = {hash_of(content): content}
    text = json.dumps({"schema": 1, "pieces": {}, "text": {"sha256": hash_of(content), "size": len(content)}})

    with pytest.raises(InvalidValue):
        Unpacker().unpack(text, shared=BlobReader(Blobs(blobs)), own=BlobReader(Blobs(blobs)))


def test_pieces_that_are_not_those_of_the_whole_are_refused() -> None:
    content = noise(PIECE_BYTES + 5)
    packed = Packer().pack(SMALL, JobInput(stdin=content))
    (whole, names) = next(iter(json.loads(packed.text)["pieces"].items()))
    other = noise(PIECE_BYTES, 1)
    for pieces in ([names[1], names[0]], [names[0]], [*names, names[0]], [hash_of(other), names[1]], []):
        with pytest.raises(InvalidValue):
            Unpacker().unpack(
                changed(packed.text, pieces={whole: pieces}),
                shared=BlobReader(),
                own=BlobReader(Blobs({**packed.own, hash_of(other): other})),
            )


def test_a_newer_version_is_named() -> None:
    with pytest.raises(InvalidValue, match="newer version"):
        Unpacker().unpack('{"schema":2,"task":{}}', shared=BlobReader(), own=BlobReader())


def test_a_job_is_no_result_and_a_result_no_job() -> None:
    with pytest.raises(InvalidValue):
        unpack_result(Packer().pack(SMALL, JobInput()).text, BlobReader())
    with pytest.raises(InvalidValue):
        Unpacker().unpack(pack_result(RESULTS[0]).text, shared=BlobReader(), own=BlobReader())


# Results


RESULTS = [
    JobResult(job_id="1", outcome=Outcome.SUCCESS),
    JobResult(job_id="é", outcome=Outcome.FAILED, stdout=b"\xff" * 100 * KIB, stdout_bytes=10**9, archive=noise(3 * MIB)),
    JobResult(job_id="3", outcome=Outcome.ERROR, custom={"text": "x" * 100 * KIB, "deep": [{"a": [None, True, 1.5]}]}),
    JobResult(job_id="4", outcome=Outcome.SUCCESS, archive=noise(2 * PIECE_BYTES + 1), stderr=b"small"),
]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.job_id)
def test_a_result_comes_back_as_it_was(result: JobResult) -> None:
    packed = pack_result(result)

    assert unpack_result(packed.text, BlobReader(Blobs(packed.own))) == result
    assert len(packed.text) <= 64 * KIB and packed.shared == {} and packed.sha256 == hash_of(packed.text.encode())
    assert all(len(data) <= PIECE_BYTES for data in packed.own.values())


def test_a_small_result_has_no_blobs() -> None:
    assert pack_result(RESULTS[0]).own == {}


def test_a_result_whose_archive_is_gone_says_so() -> None:
    packed = pack_result(RESULTS[1])

    with pytest.raises(BlobLost, match="lost on the way"):
        unpack_result(packed.text, BlobReader())
