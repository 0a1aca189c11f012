"""Many programs in one student container, on a real engine: wiped between, with limits of their own, whoever dies meanwhile."""

from __future__ import annotations

import pytest

from jobmanager import Grader, Limits, Outcome
from tests.conftest import BUSYBOX, eventually, our_containers
from tests.integration.conftest import PYTHON, Run
from tests.integration.test_students import seen

pytestmark = pytest.mark.engine


def test_programs_run_one_after_the_other_in_one_container_and_find_only_the_shared_folder(run: Run) -> None:
    found = seen(
        run,
        """
dirt = "echo x > /task/x; echo x > /tmp/x; echo x > /dev/shm/x; echo kept >> student/kept; (setsid sleep 60 &) ; chmod 0 /tmp"
looks = "ls /task /tmp /dev/shm; cat student/kept; cat /proc/[0-9]*/comm | grep -c sleep; cat /etc/hostname"
with grading.open_submission() as submission:
    seen["compiled"] = submission.run(["sh", "-c", "echo 'echo made; cat' > student/made"]).exit_code
    seen["cases"] = [submission.run(["sh", "student/made"], b"%d" % number).stdout.decode() for number in range(20)]
    hosts = []
    for _ in range(3):
        assert submission.run(["sh", "-c", dirt]).exit_code == 0
        hosts.append(submission.run(["sh", "-c", looks]).stdout.decode().splitlines())
    seen["looks"] = hosts
""",
        grader=Grader(),
    )
    assert found["compiled"] == 0
    assert found["cases"] == [f"made\n{number}" for number in range(20)]
    assert len({looks[-1] for looks in found["looks"]}) == 1, "it is one container"
    for count, looks in enumerate(found["looks"], 1):
        assert looks.count("kept") == count and "x" not in looks, looks
        assert looks[-2] == "0", looks


def test_each_program_has_limits_of_its_own_and_leaves_the_next_one_as_it_is(run: Run) -> None:
    found = seen(
        run,
        """
with grading.open_submission(memory_mib=32) as submission:
    def ends(command, **limits):
        end = submission.run(["sh", "-c", command], **limits)
        return [end.outcome, end.exit_code, round(end.cpu_time_s or 0)]
    seen["ends"] = [
        ends("exit 3"),
        ends("kill -SEGV $$"),
        ends("while :; do :; done", cpu_time_s=1),
        ends("sleep 60", wall_time_s=1),
        ends("exec tail /dev/zero"),
        ends("exit 0"),
    ]
    seen["more"] = submission.run(["true"], memory_mib=48).text
""",
    )
    assert found["ends"] == [
        ["failed", 3, 0],
        ["failed", 139, 0],
        ["timeout", 253, 1],
        ["timeout", 253, 0],
        ["overflow", 252, 0],
        ["success", 0, 0],
    ]
    assert found["more"].endswith("has its memory for all its programs: give it where the container is opened")


def test_a_program_that_was_started_is_talked_with_and_can_be_ended(run: Run) -> None:
    found = seen(
        run,
        """
with grading.open_submission() as submission:
    program = submission.start(["sh", "-c", "while read x; do echo got $x; done; echo bye >&2; exit 5"])
    answers = []
    for number in range(50):
        program.stdin.write(b"%d\\n" % number)
        program.stdin.flush()
        answers.append(program.stdout.readline().decode())
    seen["busy"] = submission.run(["true"]).text
    end = program.wait()
    seen["talk"] = [answers == [f"got {number}\\n" for number in range(50)], end.exit_code, end.stderr.decode()]
    program = submission.start(["sh", "-c", "echo begun; while :; do :; done"])
    program.stdout.readline()
    program.kill()
    seen["killed"] = program.wait().outcome
    seen["after"] = submission.run(["echo", "fine"]).stdout.decode()
""",
    )
    assert found["talk"] == [True, 5, "bye\n"]
    assert "runs in container" in found["busy"]
    assert (found["killed"], found["after"]) == ("killed", "fine\n")


def test_two_containers_run_at_once_and_closed_ones_give_their_place_back(run: Run) -> None:
    found = seen(
        run,
        """
one, other = grading.open_submission(memory_mib=16), grading.open_submission(memory_mib=16)
seen["both"] = at_once(*[lambda each=each: each.run(["sh", "-c", "sleep 0.5; echo $0"]).exit_code for each in (one, other)])
seen["full"] = student("true", memory_mib=16)["text"]
one.close()
seen["room"] = student("true", memory_mib=16)["code"]
try:
    one.run(["true"]).text
    seen["closed"] = one.run(["true"]).text
    one.close()
except grading.GradingError as error:
    seen["closed_twice"] = str(error)
for name in ("busybox-of-mine", "busybox-of-mine", "ENVIRONMENT"):
    try:
        grading.open_submission(name=name)
    except grading.GradingError as error:
        seen.setdefault("names", []).append(str(error))
""".replace("ENVIRONMENT", PYTHON),
        grader=Grader(most_students=2, student_memory_mib=64),
    )
    assert found["both"] == [0, 0]
    assert "2 student containers run already" in found["full"]
    assert found["room"] == 0
    assert "no environment" in found["closed"] and "no container has the name" in found["closed_twice"]
    assert ["is open already" in found["names"][0], "is the name of an environment" in found["names"][1]] == [True, True]


def test_a_shell_grader_names_its_container(run: Run) -> None:
    script = f"""#!/bin/sh
student_container tests --memory 32 --environment {BUSYBOX} || exit 1
run_student --container tests sh -c "'echo hello > student/file; touch /tmp/x'" || exit 2
run_student --container tests --time 1 sh -c "'cat student/file; ls /tmp'" > out || exit 3
[ "$(cat out)" = hello ] || exit 4
student_container --close tests || exit 5
run_student --container tests true; [ $? = 251 ] || exit 6
student_container --close tests; [ $? = 251 ] || exit 7
feedback-result success
"""
    result = run(
        image=PYTHON, grader=Grader(student_environments=[BUSYBOX]), files={"run": script.encode()}, limits=Limits(memory_mib=64)
    )
    assert result.outcome is Outcome.SUCCESS, (result.exit_code, result.stderr)


def test_many_programs_take_less_than_as_many_containers(run: Run) -> None:
    found = seen(
        run,
        """
def seconds(run):
    began = time.monotonic()
    for _ in range(10): assert run(["true"]).exit_code == 0
    return time.monotonic() - began
alone = seconds(grading.run_student)
with grading.open_submission() as submission:
    kept = seconds(submission.run)
seen["times"] = [alone, kept]
""",
    )
    alone, kept = found["times"]
    assert kept < alone, f"{kept:.3f} s in one container, {alone:.3f} s in ten"


def test_a_grader_that_ends_leaves_no_container(run: Run, engine_url: str) -> None:
    found = seen(run, 'grading.open_submission().run(["true"]); grading.open_submission().start(["sleep", "60"]); seen["x"] = 1')
    assert found["x"] == 1
    eventually(lambda: not our_containers(engine_url), what="all containers are removed")
