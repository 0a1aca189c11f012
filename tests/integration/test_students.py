"""Student containers on a real engine: streams both ways, how they end, what they share, and the budget that all have."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from jobmanager import Grader, JobManager, Limits, Outcome, Task
from tests.conftest import BUSYBOX
from tests.integration.conftest import PATIENCE_S, PYTHON, Run
from tests.support.programs import RECURSION
from tests.support.proxy import START, STATS, Proxy

pytestmark = pytest.mark.engine

BEGIN = """
import json, os, threading, time
import jobmanager_grading as grading

def student(command, stdin=b"", **limits):
    end = grading.run_student(["sh", "-c", command], stdin, **limits)
    return {
        "code": end.exit_code, "outcome": end.outcome, "text": end.text, "limit": end.limit, "stdout": end.stdout.decode("latin1"),
        "stderr": end.stderr.decode("latin1"), "cpu": end.cpu_time_s, "wall": end.wall_time_s,
    }

def at_once(*calls):
    found = [None] * len(calls)
    def run(number):
        found[number] = calls[number]()
    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return found

seen = {}
"""
END = """
grading.set_custom("seen", seen)
grading.set_result("success")
"""
SMALL = Limits(memory_mib=64, cpu_time_s=20, wall_time_s=60)


def seen(run: Run, script: str, *, grader: Grader | None = None, limits: Limits = SMALL, **task: object) -> dict[str, Any]:
    """What a grader saw of its students."""
    files = {"run.py": BEGIN + script + END, "student/given": "from the task\n"}
    result = run(image=PYTHON, grader=grader or Grader(), files=files, limits=limits, **task)
    assert result.outcome is Outcome.SUCCESS, result
    found = result.custom["seen"]
    assert isinstance(found, dict)
    return found


def test_streams_exit_codes_and_files_go_both_ways(run: Run) -> None:
    found = seen(
        run,
        """
open("student/from_grader", "w").write("grader\\n")
seen["both"] = student("cat student/given student/from_grader; pwd; cat; echo err >&2; echo left > student/left; exit 3", b"in\\n")
seen["left"] = open("student/left").read()
data = bytes(range(256)) * 4000
back = grading.run_student(["cat"], data)
seen["echoed"] = back.stdout == data
seen["signal"] = student("kill -SEGV $$")
seen["missing"] = grading.run_student(["no-such-program"]).exit_code
seen["elsewhere"] = student("echo $0; ls /usr/bin/gcc", environment=BUSYBOX)
seen["nowhere"] = student("true", environment="no-such-environment")
""".replace("BUSYBOX", repr(BUSYBOX)),
        grader=Grader(student_environments=[BUSYBOX]),
    )

    both = found["both"]
    assert (both["code"], both["outcome"], both["stderr"]) == (3, "failed", "err\n")
    assert both["stdout"] == "from the task\ngrader\n/task\nin\n"
    assert found["left"] == "left\n"
    assert found["echoed"]
    assert found["signal"]["code"] == 139
    assert found["missing"] == 251
    assert "No such file" in found["elsewhere"]["stderr"]
    assert found["nowhere"]["code"] == 251 and "no environment 'no-such-environment'" in found["nowhere"]["text"]


def test_students_that_pass_a_limit_end_with_the_codes_that_graders_expect_and_leave_the_grader_its_time(run: Run) -> None:
    found = seen(
        run,
        """
seen["cpu"], seen["wall"], seen["output"], seen["memory"] = at_once(
    lambda: student("while :; do :; done", cpu_time_s=1, wall_time_s=40, memory_mib=16),
    lambda: student("sleep 100", wall_time_s=1, memory_mib=16),
    lambda: student("yes", memory_mib=16),
    lambda: student("head -c 60M /dev/zero > /tmp/x; exit 1", memory_mib=16),
)
""",
        limits=Limits(memory_mib=64, cpu_time_s=20, wall_time_s=60, output_kib=64),
    )

    assert {name: (end["code"], end["outcome"], end["limit"]) for name, end in found.items()} == {
        "cpu": (253, "timeout", "cpu"),
        "wall": (253, "timeout", "wall"),
        "output": (252, "overflow", "output"),
        "memory": (252, "overflow", "memory"),
    }
    assert len(found["output"]["stdout"]) == 64 * 1024


def test_a_student_is_talked_to_while_it_runs_and_killed_when_the_grader_has_enough(run: Run) -> None:
    found = seen(
        run,
        """
import subprocess
talk = subprocess.Popen(["run_student", "sh", "-c", "'while read x; do echo got $x; done; echo over'"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
answers = []
for word in (b"one", b"two"):
    talk.stdin.write(word + b"\\n"); talk.stdin.flush()
    answers.append(talk.stdout.readline().decode())
talk.stdin.close()
answers.append(talk.stdout.readline().decode())
answers.append(talk.wait())
endless = subprocess.Popen(["run_student", "sh", "-c", "'echo ready; sleep 1000'"], stdout=subprocess.PIPE)
answers.append(endless.stdout.readline().decode())
endless.terminate()
seen["talk"], seen["killed"] = answers, endless.wait()
""",
    )

    assert found["talk"] == ["got one\n", "got two\n", "over\n", 0, "ready\n"]
    assert found["killed"] == 254


def test_students_that_run_at_once_have_their_input_within_their_wall_clock(engine_url: str) -> None:
    """Of four pairs, each has a wall clock that one read of an engine's counter would use up. None is due so early."""
    script = """
pairs = [at_once(*[lambda: student("cat", b"in", memory_mib=16, cpu_time_s=20, wall_time_s=8)] * 2) for _ in range(4)]
seen["ends"] = [end["stdout"] + end["outcome"] for pair in pairs for end in pair]
"""
    limits = replace(SMALL, cpu_time_s=60)
    task = Task(PYTHON, grader=Grader(), files={"run.py": BEGIN + script + END}, limits=limits)
    with Proxy(engine_url) as proxy, JobManager(proxy.url) as manager, proxy.delay(10.0, STATS):
        result = manager.submit(task).result(PATIENCE_S)
    assert result.outcome is Outcome.SUCCESS, result
    assert result.custom["seen"] == {"ends": ["insuccess"] * 8}


def test_all_students_of_a_job_share_a_budget(run: Run) -> None:
    found = seen(
        run,
        """
seen["too much"] = student("true", memory_mib=65)
waits = "echo > student/%d; while [ ! -e student/go ]; do sleep 0.1; done"
def third():
    while not (os.path.exists("student/1") and os.path.exists("student/2")): time.sleep(0.05)
    end = student("true", memory_mib=16)
    open("student/go", "w").close()
    return end
seen["three"] = at_once(lambda: student(waits % 1, memory_mib=16), lambda: student(waits % 2, memory_mib=16), third)
spin = "while :; do :; done"
seen["spin"] = at_once(*[lambda: student(spin, memory_mib=20, wall_time_s=60)] * 2)
seen["used up"] = student("true")
""",
        grader=Grader(student_memory_mib=64, student_cpu_time_s=1, most_students=2),
        limits=Limits(memory_mib=64, cpu_time_s=20, wall_time_s=110),
    )

    assert found["too much"]["code"] == 251 and "64 MiB are left" in found["too much"]["text"]
    assert [end["code"] for end in found["three"]] == [0, 0, 251]
    assert [end["outcome"] for end in found["spin"]] == ["timeout", "timeout"]
    assert {end["limit"] for end in (*found["spin"], found["used up"])} == {"budget"}
    assert found["used up"]["outcome"] == "timeout" and "no CPU time is left" in found["used up"]["text"]


def test_a_student_has_no_network_unless_the_grader_shares_its_own(run: Run) -> None:
    found = seen(
        run,
        """
import socket
server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
connect = "python3 -c 'import socket; print(socket.create_connection((\\"127.0.0.1\\", %d), 2).recv(9))'" % port
def serve():
    while True:
        server.accept()[0].sendall(b"hello")
threading.Thread(target=serve, daemon=True).start()
seen["alone"] = student(connect)
seen["shared"] = student(connect, share_network=True)
""",
    )

    assert found["alone"]["code"] != 0
    assert found["shared"]["stdout"] == "b'hello'\n"


def test_a_grader_that_does_not_read_what_its_student_prints_holds_up_no_deadline(run: Run) -> None:
    script = "import subprocess, time\nsubprocess.Popen(['run_student', 'yes'], stdout=subprocess.PIPE)\ntime.sleep(1000)\n"
    limits = Limits(memory_mib=64, cpu_time_s=20, wall_time_s=3, output_kib=4096)

    result = run(image=PYTHON, grader=Grader(), files={"run.py": script}, limits=limits)

    assert result.outcome is Outcome.TIMEOUT
    assert json.dumps(dict(result.custom)) == "{}"


def test_a_grader_and_its_students_have_the_same_stack_shared_memory_and_sanitizers(run: Run) -> None:
    found = seen(
        run,
        """
import subprocess
open("main.c", "w").write(PROGRAM)
subprocess.run(["gcc", "-O0", "main.c", "-o", "student/deep"], check=True)
subprocess.run(["gcc", "-fsanitize=address", "main.c", "-o", "student/checked"], check=True)
commands = ["student/deep 20000", "student/checked 1", "head -c 30000000 /dev/zero > /dev/shm/f"]
seen["grader"] = [subprocess.run(["sh", "-c", command]).returncode for command in commands]
seen["student"] = [student(command)["code"] for command in commands]
full = student("head -c 90000000 /dev/zero > /dev/shm/f")
seen["full"] = full["outcome"], full["text"]
""".replace("PROGRAM", repr(RECURSION)),
        grader=Grader(student_memory_mib=64),
    )
    assert found == {"grader": [0, 0, 0], "student": [0, 0, 0], "full": ["overflow", "/dev/shm of 60 MiB full"]}


def test_the_budget_of_a_run_student_that_was_killed_comes_back(run: Run) -> None:
    script = """#!/bin/sh
for how in 'timeout -s KILL 2 run_student sleep 60' 'sh -c "run_student sleep 60 & sleep 2; kill -9 \\$!"'; do
    eval "$how"
    run_student echo next || echo refused $?
done
feedback-result success
"""
    result = run(image=PYTHON, grader=Grader(), files={"run": script}, limits=SMALL)
    assert (result.outcome, result.stdout_text) == (Outcome.SUCCESS, "next\nnext\n"), result


def test_a_graders_wall_clock_stands_still_while_its_students_are_being_started(engine_url: str) -> None:
    """To start them takes as long as all that the grader has."""
    script = BEGIN + "seen['codes'] = [student('exit 3')['code'] for _ in range(2)]\n" + END
    task = Task(PYTHON, grader=Grader(), files={"run.py": script}, limits=Limits(memory_mib=64, wall_time_s=8))
    with Proxy(engine_url) as proxy, JobManager(proxy.url) as manager, proxy.delay(4.0, START):
        result = manager.submit(task).result(PATIENCE_S)
    assert result.outcome is Outcome.SUCCESS, result
    assert result.custom["seen"] == {"codes": [3, 3]}
    assert result.wall_time_s is not None and result.wall_time_s <= 8


def test_a_grader_whose_student_is_never_started_is_still_stopped(engine_url: str) -> None:
    script = BEGIN + "student('exit 3')\n" + END
    task = Task(PYTHON, grader=Grader(), files={"run.py": script}, limits=Limits(memory_mib=64, wall_time_s=2))
    with Proxy(engine_url) as proxy, JobManager(proxy.url) as manager, proxy.hold(START, skip=1):
        result = manager.submit(task).result(PATIENCE_S)
    assert (result.outcome, result.evidence[0].kind) == (Outcome.TIMEOUT, "wall_time_s"), result
