"""What a grader tells its submitter: from its command to a reader of live output, bounded, once, and nothing that it prints."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobmanager import DockerHost, Grader, JobManager, Limits, Outcome, Task
from jobmanager.grading.bundle import supervisor_command
from jobmanager.testing import FakeEngineServer
from jobmanager.testing.steps import Print, Send, WriteFile
from tests.unit.grading_box import Box, Message, Waiter


@pytest.fixture
def box() -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="box") as folder:
        yield Box(Path(folder), {"q1": "print('hello')"})


def told(box: Box, run: str, name: str = "run") -> tuple[list[Message], Waiter]:
    """What the waiter of a grader is sent for the submitter."""
    box.write(name, run)
    waiter = Waiter(box)
    assert waiter.until_the_end() == 0, waiter.stderr.decode()
    return waiter.asked("tell"), waiter


def test_both_ways_of_telling_reach_the_waiter_in_their_order_the_last_words_too(box: Box) -> None:
    got, waiter = told(
        box,
        "#!/bin/sh\necho for staff\ntell_submitter -m 'test 1: passed'\nprintf 'test 2: \\377' | tell_submitter\n"
        "python3 -c 'import jobmanager_grading as g; g.tell_submitter(\"the last\")'\n",
    )

    assert got == [
        {"type": "tell", "id": number, "text": text}
        for number, text in enumerate(["test 1: passed", "test 2: \ufffd", "the last"], 1)
    ]
    assert waiter.output == b"for staff\n"


def test_what_is_empty_or_too_much_is_refused_and_the_grader_can_go_on(box: Box) -> None:
    got, waiter = told(
        box,
        "import jobmanager_grading as grading\n"
        "for text in ('', 'x' * 65_473, 'x' * 65_472, 'y'):\n"
        "    try:\n"
        "        grading.tell_submitter(text)\n"
        "    except grading.BadValue as error:\n"
        "        print(error)\n",
        "run.py",
    )

    assert [len(str(message["text"])) for message in got] == [65_472]
    empty, large, more = waiter.output.decode().splitlines()
    assert "empty" in empty
    assert "told 0 bytes already: at most 65536" in large and "told 65536 bytes already: at most 65536" in more


def followed(*supervisor: object) -> tuple[list[str], bytes, str]:
    """What readers of a job with this supervisor are told and shown, and its outcome."""
    grader = Grader("grade")
    programs = {
        " ".join(supervisor_command(grader.run)): [*supervisor, WriteFile(".jobmanager/result.json", '{"result": "success"}')]
    }
    with (
        FakeEngineServer(images=["graders"], programs=programs) as fake,  # type: ignore[arg-type]
        JobManager(DockerHost(fake.url)) as manager,
    ):
        job = manager.submit(Task("graders", grader=grader, limits=Limits(wall_time_s=20)))
        outputs = list(manager.follow(job.job_id, timeout_s=60))
        assert json.loads(json.dumps([output.to_dict() for output in outputs]))
        result = job.result(60)
    texts = [output.to_submitter for output in outputs if output.to_submitter]
    assert not any(output.data for output in outputs if output.to_submitter)
    return texts, b"".join(output.data for output in outputs), result.outcome.value


def tell(number: int, text: str) -> Send:
    return Send({"type": "tell", "id": number, "text": text})


def test_a_reader_is_told_what_the_submitter_is_told_and_it_is_no_output() -> None:
    texts, printed, outcome = followed(tell(1, "one"), Print("hidden\n"), tell(2, "two"))

    assert (texts, printed, outcome) == (["one", "two"], b"hidden\n", Outcome.SUCCESS.value)


def test_a_supervisor_that_tells_too_much_or_twice_is_not_believed() -> None:
    flood = [tell(number, "x" * 1000) for number in range(2, 200)]
    texts, _, outcome = followed(tell(1, "one"), tell(1, "one"), *flood)

    assert texts[0] == "one" and len(texts) == 62, "64 KiB, with 64 bytes more for each: the one that was not believed counts"
    assert outcome == Outcome.SUCCESS.value
