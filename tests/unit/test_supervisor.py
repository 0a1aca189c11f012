"""The grading supervisor: a real process, real commands, and at the other end of its link a waiter made for tests."""

from __future__ import annotations

import base64
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jobmanager.grading.link import LinkLost, LinkReader, RunStudent, StudentInput
from jobmanager.watching.pumps import PIECE_BYTES
from tests.conftest import eventually
from tests.unit.grading_box import Box, Message, Waiter


@pytest.fixture
def box() -> Iterator[Box]:
    """``/task`` of a job; a short path, as a socket's must be."""
    with tempfile.TemporaryDirectory(prefix="box") as folder:
        yield Box(Path(folder), {"q1": "print('hello')"})


def graded(box: Box, run: str, name: str = "run") -> Waiter:
    """The waiter of a job whose grader has ended with 0."""
    box.write(name, run)
    waiter = Waiter(box)
    code = waiter.until_the_end()
    assert code == 0, waiter.stderr.decode()
    return waiter


def silent(waiter: Waiter, message: Message) -> None:
    """A waiter that starts students of whom nothing is heard."""
    if message["type"] == "student":
        waiter.tell("started", message["id"])


def ending(**end: object):  # type: ignore[no-untyped-def]
    """A waiter whose students end at once, so."""

    def answer(waiter: Waiter, message: Message) -> None:
        if message["type"] == "student":
            waiter.tell("started", message["id"])
            waiter.tell("end", message["id"], **end)

    return answer


# ---- the grader


def test_a_grader_finds_its_folder_its_commands_and_no_standard_input(box: Box) -> None:
    waiter = graded(box, "#!/bin/sh\npwd\ncat\ncommand -v getinput\necho $PYTHONPATH\nfeedback-result success\n")
    assert waiter.output.decode().split() == [str(box.folder), f"{box.private}/bin/getinput", f"{box.private}/lib"]
    assert box.answer == {"result": "success"}


def test_the_supervisor_ends_as_its_grader_did(box: Box) -> None:
    box.write("run", "#!/bin/sh\nexit 7\n")
    assert Waiter(box).until_the_end() == 7


def test_a_grader_that_a_signal_ended_is_told_as_a_shell_tells_it(box: Box) -> None:
    assert Waiter(box, "sh", "-c", "kill -SEGV $$").until_the_end() == 128 + signal.SIGSEGV


def test_a_grader_has_no_way_to_the_channel(box: Box) -> None:
    waiter = graded(box, "#!/bin/sh\nls -l /proc/self/fd\nenv\n")
    assert b"0 -> /dev/null" in waiter.output and b"PATH=" in waiter.output
    assert b"socket:" not in waiter.output and b"JOBMANAGER_CHANNEL" not in waiter.output


def test_a_grader_can_be_given_by_words(box: Box) -> None:
    waiter = Waiter(box, "sh", "-c", "echo $0 $1", "a b", "c")
    assert (waiter.until_the_end(), waiter.output) == (0, b"a b c\n")


def test_the_scripts_come_in_their_order(box: Box) -> None:
    for name, interpreter in [("run.sh", ""), ("run.py", ""), ("run", "#!/bin/sh\n")]:
        script = f"print('{name}')" if name.endswith(".py") else f"{interpreter}echo {name}"
        assert graded(box, script, name).output.decode().strip() == name
        (box.private / "control").unlink()


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        (None, 127, "there is none of run, run.py, run.sh"),
        ("#!/no/such/shell\n", 127, "its interpreter '/no/such/shell' does not exist"),
        ("#!/bin/sh\r\necho\r\n", 127, "its interpreter '/bin/sh\\r' does not exist: its lines end in CR LF"),
        ("echo no first line\n", 126, "neither a program for this machine nor a script whose first line begins with #!"),
        (b"\x7fELF\x00\x01garbage", 126, "neither a program"),
    ],
)
def test_a_grader_that_cannot_be_started_is_told(box: Box, script: str | bytes | None, code: int, reason: str) -> None:
    if script is not None:
        box.write("run", script)
    waiter = Waiter(box)
    assert waiter.until_the_end() == code
    assert reason in waiter.stderr.decode().splitlines()[-1]
    assert not (box.private / "result.json").exists()


def test_a_command_that_there_is_not_is_told(box: Box) -> None:
    waiter = Waiter(box, "no-such-grader")
    assert (waiter.until_the_end(), waiter.stderr) == (
        127,
        b"the grader cannot be started: 'no-such-grader': No such file or directory\n",
    )


def test_a_grader_is_made_executable(box: Box) -> None:
    box.write("run", "#!/bin/sh\n", mode=0o600)
    assert Waiter(box).until_the_end() == 0


def test_a_grader_whose_interpreter_is_elsewhere_runs_by_the_one_in_path(box: Box) -> None:
    waiter = graded(box, "#!/no/such/place/sh -eu\necho $0 $-\n")
    path, options = waiter.output.decode().split()
    assert path == str(box.folder / "run")
    assert {"e", "u"} <= set(options)


def test_a_python_grader_finds_the_names_that_inginious_gives_it(box: Box) -> None:
    graded(
        box,
        "set_global_result('success'); set_global_feedback(get_input('q1'))\n"
        "set_custom_value('name', [__name__, os.path.basename(__file__), sys.argv[1:]])\n",
        "run.py",
    )
    assert box.answer == {"result": "success", "text": "print('hello')", "custom": {"name": ["__main__", "run.py", []]}}


def test_a_python_grader_can_have_shell_lines(box: Box) -> None:
    script = (
        "count = 3\nfor name in ['a', 'b']:\n    !echo $name {count + 1} $$HOME $NONE.\n"
        "lines = !printf 'x\\ny\\n'\nprint(lines)\nprint('done!')\n"
    )
    waiter = graded(box, script, "run.py")
    home = os.environ["HOME"]
    assert waiter.output.decode() == f"a 4 {home} .\nb 4 {home} .\n['x', 'y']\ndone!\n"


def test_a_python_grader_can_set_environment_variables_for_its_shell_lines(box: Box) -> None:
    script = 'word = \'two words\'\nif word:\n    %env FIRST=$word\n%env SECOND {len(word)} $$\n!echo "$FIRST" "$SECOND"\n'
    waiter = graded(box, script, "run.py")
    assert waiter.output == b"two words 9 $\n"


def test_a_python_grader_that_is_no_python_says_where(box: Box) -> None:
    box.write("run.py", "x = (\n")
    waiter = Waiter(box)
    assert waiter.until_the_end() == 1
    assert b"SyntaxError" in waiter.stderr and b"run.py" in waiter.stderr


# ---- students


def test_a_students_streams_and_exit_code_are_the_commands(box: Box) -> None:
    command = "echo in | run_student \"sh -c 'cat; echo err >&2; exit 7'\" 2>err; echo $?; cat err"
    waiter = Waiter(box, "sh", "-c", command)
    assert (waiter.until_the_end(), waiter.output) == (0, b"in\n7\nerr\n")


def test_what_is_asked_for_reaches_the_waiter(box: Box) -> None:
    command = (
        "run_student --container c --time 2 --hard-time 9 --memory 64 --share-network python3 student/x.py --time 7"
        " && cd student && run_student --teardown-script 'rm -f x' a \"'b c'\""
    )
    waiter = Waiter(box, "sh", "-c", command, answering=ending(outcome="success", exit_code=0))
    assert waiter.until_the_end() == 0
    first, second = waiter.asked("student")
    assert first == {
        "type": "student",
        "id": 1,
        "command": ["python3", "student/x.py", "--time", "7"],
        "environment": "c",
        "cpu_time_s": 2.0,
        "wall_time_s": 9.0,
        "memory_mib": 64,
        "share_network": True,
        "env": {},
    }
    assert second["command"] == f"cd {box.folder}/student || exit 254\na 'b c'\ncode=$?\nrm -f x\nexit $code"
    assert (second["id"], second["environment"], second["cpu_time_s"]) == (2, "", 0)


def test_the_ends_of_students_are_exit_codes(box: Box) -> None:
    for outcome, own, code in [
        ("success", 0, 0),
        ("failed", 252, 252),
        ("overflow", 137, 252),
        ("timeout", None, 253),
        ("error", None, 251),
        ("crash", None, 254),
        ("killed", None, 254),
    ]:
        waiter = Waiter(box, "run_student", "x", answering=ending(outcome=outcome, exit_code=own, text="the reason"))
        assert waiter.until_the_end() == code
        assert waiter.stderr == (b"run_student: the reason\n" if outcome in ("error", "crash", "killed") else b"")
        (box.private / "control").unlink()


def test_bytes_pass_both_ways_unchanged_however_many_there_are(box: Box) -> None:
    data = os.urandom(3_000_000)
    box.write("data", data)
    waiter = Waiter(box, "sh", "-c", "run_student cat <data >back")
    assert waiter.until_the_end() == 0, waiter.stderr
    assert (box.folder / "back").read_bytes() == data
    assert max(map(len, waiter.pieces)) <= PIECE_BYTES


def test_a_conversation_with_a_student_is_live(box: Box) -> None:
    script = """
import subprocess
student = subprocess.Popen(["run_student", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
for word in (b"one", b"two", b"three"):
    student.stdin.write(word)
    assert student.stdout.read(len(word)) == word
student.stdin.close()
assert student.wait() == 0
"""
    graded(box, script, "run.py")


def test_a_student_that_reads_nothing_is_sent_no_more_than_half_a_megabyte(box: Box) -> None:
    box.write("data", bytes(2_000_000))
    waiter = Waiter(box, "sh", "-c", "run_student sleep <data", answering=silent)
    sent = eventually(lambda: waiter.asked("stdin")[10:] and waiter.asked("stdin"))
    waiter.tell("end", 1, outcome="success", exit_code=0)
    assert waiter.until_the_end() == 0
    assert sum(len(base64.b64decode(str(message["data"]))) for message in sent) <= 600_000


def test_several_students_run_at_once(box: Box) -> None:
    script = "for i in 1 2 3 4; do run_student sh -c \"'read x; echo $i \\$x'\" <fifo >out$i & done; wait; cat out*"
    os.mkfifo(box.folder / "fifo")
    waiter = Waiter(box, "sh", "-c", script)
    writer = os.open(box.folder / "fifo", os.O_WRONLY)
    eventually(lambda: len(waiter.asked("student")) == 4)
    os.write(writer, b"a\nb\nc\nd\n")
    os.close(writer)
    assert waiter.until_the_end() == 0
    assert sorted(message["id"] for message in waiter.asked("student")) == [1, 2, 3, 4]  # type: ignore[type-var]
    assert waiter.output.count(b"\n") == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_run_student_kills_the_student(box: Box, number: signal.Signals) -> None:
    waiter = Waiter(box, "run_student", "sleep", "600")
    waiter.wait_for("student")
    os.kill(run_student_of(waiter), number)
    assert waiter.until_the_end() == 254
    assert [message["id"] for message in waiter.asked("kill")] == [1]


def test_a_run_student_that_is_killed_takes_its_student_with_it(box: Box) -> None:
    os.mkfifo(box.folder / "fifo")
    waiter = Waiter(box, "sh", "-c", "run_student sleep 600; echo $?; read line <fifo")
    waiter.wait_for("student")
    os.kill(run_student_of(waiter), signal.SIGKILL)
    assert waiter.wait_for("kill")["id"] == 1
    (box.folder / "fifo").write_text("go\n")
    assert (waiter.until_the_end(), waiter.output) == (0, b"137\n")


def run_student_of(waiter: Waiter) -> int:
    """The process of the command ``run_student`` that waits for its student."""

    def found() -> list[int]:
        family = psutil.Process(waiter.supervisor.pid).children(recursive=True)
        return [process.pid for process in family if process.cmdline()[1:2] == [str(waiter.box.private / "bin/run_student")]]

    return eventually(found)[-1]


def test_a_reader_that_leaves_ends_the_student(box: Box) -> None:
    waiter = Waiter(box, "sh", "-c", "run_student yes | head -n 2")
    assert (waiter.until_the_end(), waiter.output) == (0, b"y\ny\n")
    assert len(waiter.asked("kill")) == 1


def test_a_student_whose_reader_left_ends_as_sigpipe_ends_a_program_and_nobody_complains(box: Box) -> None:
    box.write("yes", "#!/bin/sh\nrun_student yes\necho $? >code\n", mode=0o755)
    waiter = Waiter(box, "sh", "-c", "./yes | head -n 2")
    assert (waiter.until_the_end(), waiter.output, waiter.stderr) == (0, b"y\ny\n", b"")
    assert (box.folder / "code").read_text() == "141\n"
    assert len(waiter.asked("kill")) == 1


@pytest.mark.parametrize(("outcome", "own", "code"), [("failed", 3, 3), ("timeout", None, 253), ("crash", None, 254)])
def test_a_student_that_ended_otherwise_meanwhile_has_its_own_end(box: Box, outcome: str, own: int | None, code: int) -> None:
    def answer(waiter: Waiter, message: Message) -> None:
        if message["type"] == "student":
            waiter.tell("started", message["id"])
            waiter.tell("output", message["id"], stderr=False, data=base64.b64encode(b"unread").decode())
        elif message["type"] == "kill":
            waiter.tell("end", message["id"], outcome=outcome, exit_code=own, text="the reason")

    script = """
import os, sys
from jobmanager_grading import student
read, write = os.pipe()
os.close(read)
end = student.carry_student(student.request("x"), None, write, None)
print(end)
sys.exit(end.exit_code)
"""
    box.write("run.py", script)
    waiter = Waiter(box, answering=answer)
    assert waiter.until_the_end() == code, waiter.stderr
    assert f"outcome='{outcome}', exit_code={code}, text='the reason'".encode() in waiter.output


@pytest.mark.parametrize("told", [{"output_cut": True}, {"output_cut": False}, {}])
def test_an_end_says_whether_more_was_written(box: Box, told: dict[str, object]) -> None:
    def answer(waiter: Waiter, message: Message) -> None:
        if message["type"] == "student":
            waiter.tell("started", message["id"])
            waiter.tell("end", message["id"], outcome="success", exit_code=0, **told)

    box.write("run.py", "import jobmanager_grading as grading\nprint(grading.run_student('x').output_cut)\n")
    waiter = Waiter(box, answering=answer)
    assert waiter.until_the_end() == 0, waiter.stderr
    assert waiter.output == b"%s\n" % str(told.get("output_cut", False)).encode()


def test_an_end_shows_itself_with_the_beginning_of_what_was_written(box: Box) -> None:
    script = """
import jobmanager_grading as grading
print(grading.run_student(["sh", "-c", "printf %0200d 0; echo no >&2; exit 4"]))
"""
    zeros = b"0" * 100
    assert graded(box, script, "run.py").output == (
        b"StudentEnd(outcome='failed', exit_code=4, stdout=b'%s'... (200 bytes), stderr=b'no\\n')\n" % zeros
    )


def test_python_graders_have_students_too(box: Box) -> None:
    script = r"""
from inginious_container_api.run_student import run_student, run_student_simple
assert run_student_simple("cat", "three\n") == ("three\n", "", 0)
assert run_student_simple("sh -c 'echo a; echo b >&2; exit 3'") == ("a\n", "b\n", 3)
assert run_student_simple("printf '\\377'", text=False) == (b"\xff", b"", 0)
assert run_student_simple("sh -c 'echo a; sleep 0.2; echo b >&2'", stdout_err_fuse=True) == ("a\nb\n", 0)
with open("out", "wb") as out:
    assert run_student("pwd", working_dir="/", stdout=out.fileno()) == 0
assert open("out").read() == "/\n"
assert run_student("cat", stdin=os.pipe()[0], signal_handler_callback=lambda kill: kill(15)) == 254
import jobmanager_grading as grading
end = grading.run_student(["sh", "-c", "cat; exit 4"], stdin=b"x", env={"A": "b"}, memory_mib=7)
assert (end.outcome, end.exit_code, end.stdout, end.stderr, end.cpu_time_s) == ("failed", 4, b"x", b"", 0.5)
"""
    waiter = graded(box, script, "run.py")
    assert waiter.asked("student")[-1]["env"] == {"A": "b"}


def test_a_request_that_is_too_large_is_refused_before_it_is_sent(box: Box) -> None:
    script = "import jobmanager_grading as grading\ngrading.run_student('x', env={'A': 'b' * 2**20})"
    box.write("run.py", script)
    waiter = Waiter(box)
    assert waiter.until_the_end() == 1
    assert b"larger than 1 MiB" in waiter.stderr
    assert waiter.messages == []


# ---- what breaks


def test_a_link_that_breaks_under_a_student_cuts_the_run_off(box: Box) -> None:
    waiter = Waiter(box, "sh", "-c", "run_student cat; feedback-result failed", answering=silent)
    waiter.wait_for("student")
    waiter.break_the_link()
    assert waiter.until_the_end() == 254
    assert waiter.was_cut_off
    assert not (box.private / "result.json").exists()


def test_a_student_that_is_asked_for_after_the_link_broke_cuts_the_run_off(box: Box) -> None:
    os.mkfifo(box.folder / "fifo")
    waiter = Waiter(box, "sh", "-c", "read line <fifo; run_student cat; feedback-result failed", answering=silent)
    waiter.break_the_link()
    (box.folder / "fifo").write_text("go\n")
    assert waiter.until_the_end() == 254
    assert waiter.was_cut_off


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ("ssh_student --setup-script 'sh x'", "ssh_student: there are no sessions in student containers"),
        ("ssh_student --no-such-option", "ssh_student: there are no sessions in student containers"),
        ("run_student --run-as-root true", "run_student --run-as-root: no program is root here"),
        ("python3 -c 'from inginious import ssh_student as s; s.ssh_student(setup_script=1)'", "ssh_student: there are no"),
        ("python3 -c 'from inginious import run_student as r; r.run_student(1, ssh=True)'", "run_student: there are no sessions"),
        (
            "python3 -c 'from inginious import run_student as r; r.run_student(1, start_student_as_root=True)'",
            "run_student: no program is root here",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_there_is_not_is_told_to_the_waiter_and_a_grader_does_not_go_on(box: Box, wish: str, reason: str) -> None:
    waiter = Waiter(box, "sh", "-c", f"{wish}; feedback-result success")
    asked = waiter.wait_for("unsupported")
    assert (asked["id"], str(asked["reason"]).startswith(reason)) == (1, True), asked
    # a link that breaks meanwhile cuts the run off, as under a student
    waiter.break_the_link()
    assert waiter.until_the_end() == 254
    assert waiter.was_cut_off
    assert not (box.private / "result.json").exists()


def test_a_grader_that_asks_for_no_student_outlives_its_link(box: Box) -> None:
    os.mkfifo(box.folder / "fifo")
    waiter = Waiter(box, "sh", "-c", "read line <fifo; feedback-result success; exit 3")
    waiter.break_the_link()
    (box.folder / "fifo").write_text("go\n")
    assert waiter.until_the_end() == 3
    assert not waiter.was_cut_off
    assert box.answer == {"result": "success"}


@pytest.mark.parametrize("nonsense", [b"\0no message", b"\0", b"\0[]", b'\0{"id": 1}', b"\0" + b"[" * 50_000])
def test_nonsense_from_above_cuts_the_run_off(box: Box, nonsense: bytes) -> None:
    os.mkfifo(box.folder / "fifo")
    waiter = Waiter(box, "sh", "-c", "read line <fifo")
    waiter.tell_raw(nonsense)
    assert waiter.until_the_end() == 254
    assert waiter.was_cut_off


def test_nonsense_on_the_control_socket_harms_only_who_said_it(box: Box) -> None:
    os.mkfifo(box.folder / "fifo")
    waiter = Waiter(box, "sh", "-c", "read line <fifo; run_student echo fine")
    for nonsense in (b"\xff\n", b"{}\n", b'{"type": 7}\n', b'{"type": "stdin", "data": ""}\n', b"[" * 10_000 + b"\n"):
        assert b'"outcome": "error"' in said_to(box, nonsense)
    for nonsense in (b"", b'{"type": "stud'):  # and it leaves
        assert said_to(box, nonsense, leave=True) == b""
    (box.folder / "fifo").write_text("go\n")
    assert (waiter.until_the_end(), waiter.stderr, waiter.output) == (0, b"", b"fine\n")


def said_to(box: Box, data: bytes, *, leave: bool = False) -> bytes:
    """What the supervisor answers on its socket."""
    with socket.socket(socket.AF_UNIX) as client:
        eventually(lambda: client.connect_ex(str(box.private / "control")) == 0, what="the supervisor listens")
        client.sendall(data)
        return b"" if leave else client.recv(65536)


def test_only_its_own_user_reaches_the_control_socket(box: Box) -> None:
    waiter = graded(box, "#!/bin/sh\nls -l .jobmanager/control\n")
    assert waiter.output.startswith(b"srwx------")


def test_the_host_reads_what_the_supervisor_writes(box: Box) -> None:
    box.write("data", bytes(200_000))
    waiter = Waiter(
        box, "sh", "-c", "echo a; run_student --memory 7 --time 1.5 cat <data | tail -c 1; run_student sleep 600 & exec sleep 600"
    )
    eventually(lambda: len(waiter.asked("student")) == 2)
    waiter.tell_raw(b"\0no message")
    assert waiter.until_the_end() == 254
    reader = LinkReader()
    told = [message for piece in waiter.pieces if (message := reader.feed(piece)) is not None]
    assert told[0] == RunStudent(id=1, command=("cat",), cpu_time_s=1.5, memory_mib=7, env={})
    assert RunStudent(id=2, command=("sleep", "600"), env={}) in told
    assert b"".join(message.data for message in told if isinstance(message, StudentInput) and message.id == 1) == bytes(200_000)
    assert told[-1] == LinkLost()
    assert waiter.output == b"a\n\0"


def test_requests_wait_for_a_waiter_that_reads_nothing_and_none_is_lost(box: Box) -> None:
    # given: a waiter that takes what comes only when the test lets it
    may_go_on = threading.Event()

    def slow(waiter: Waiter, message: Message) -> None:
        may_go_on.wait(60)
        if message["type"] == "student":
            waiter.tell("started", message["id"])
            waiter.tell("end", message["id"], outcome="success", exit_code=0, text="")

    # when: it asks for more than the channel takes
    waiter = Waiter(
        box, "sh", "-c", f"for i in $(seq 40); do run_student echo {'x' * 20_000} & done; wait; echo all", answering=slow
    )
    eventually(lambda: waiter.pieces)
    # then: the supervisor still looks after its grader, and everything comes when the waiter reads
    assert b'"outcome": "error"' in said_to(box, b"{}\n")
    may_go_on.set()
    assert (waiter.until_the_end(), waiter.output) == (0, b"all\n")
    assert sorted(message["id"] for message in waiter.asked("student")) == list(range(1, 41))  # type: ignore[type-var]


def test_a_grader_that_reads_nothing_of_one_student_gets_the_others(box: Box) -> None:
    # given: one whose output nobody reads, and more of it than its connection takes
    def answer(waiter: Waiter, message: Message) -> None:
        if message["type"] != "student":
            return
        waiter.tell("started", message["id"])
        if message["id"] == 1:
            for _ in range(100):
                waiter.tell("output", 1, stderr=False, data=base64.b64encode(bytes(60_000)).decode())
        else:
            waiter.tell("end", message["id"], outcome="failed", exit_code=5, text="")

    os.mkfifo(box.folder / "fifo")
    script = (
        "(run_student flood | (read line <fifo; wc -c)) & while [ ! -e go ]; do :; done; run_student x; echo $?; echo >fifo; wait"
    )
    waiter = Waiter(box, "sh", "-c", script, answering=answer)
    waiter.wait_for("student")
    box.write("go", "")
    # when:
    eventually(lambda: len(waiter.asked("student")) == 2, within_s=60)
    waiter.tell("end", 1, outcome="success", exit_code=0, text="")
    # then:
    assert (waiter.until_the_end(), waiter.output.split()) == (0, [b"5", b"6000000"])


@pytest.mark.parametrize(
    ("end", "code", "name"),
    [
        ({"exit_code": None, "signal": "SIGSEGV"}, 139, "SIGSEGV"),
        ({"exit_code": None, "signal": "signal 34"}, 162, "signal 34"),
        ({"exit_code": 139, "signal": None}, 139, None),
        ({"exit_code": None, "signal": "nonsense"}, 254, "nonsense"),
    ],
)
def test_a_student_that_a_signal_ended_has_the_exit_code_of_a_shell_and_the_signals_name(
    box: Box, end: dict[str, object], code: int, name: str | None
) -> None:
    script = """
import jobmanager_grading as grading
from inginious_container_api.run_student import run_student_simple
end = grading.run_student(["x"])
print(end.outcome, end.exit_code, end.signal, run_student_simple("x")[2])
"""
    box.write("run.py", script)
    waiter = Waiter(box, answering=ending(outcome="failed", text="", **end))
    assert waiter.until_the_end() == 0, waiter.stderr
    assert waiter.output.decode() == f"failed {code} {name} {code}\n"


def test_a_debug_sessions_server_reports_over_the_channel(box: Box) -> None:
    os.mkfifo(box.folder / "fifo")
    waiter = Waiter(box, "sh", "-c", "read line <fifo", answering=silent)
    assert said_to(box, b'{"type": "ssh", "text": "ready"}\n') == b""
    assert waiter.wait_for("ssh") == {"type": "ssh", "text": "ready"}
    (box.folder / "fifo").write_text("go\n")
    assert waiter.until_the_end() == 0


def test_a_student_that_ends_while_it_is_written_to_has_its_own_end(box: Box) -> None:
    # given: a waiter that ends a student with its first input, while more of it is on its way
    def answer(waiter: Waiter, message: Message) -> None:
        if message["type"] == "student":
            waiter.tell("started", message["id"])
        elif message["type"] == "stdin":
            waiter.tell("end", message["id"], outcome="failed", exit_code=9)

    box.write("data", bytes(300_000))
    waiter = Waiter(box, "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do run_student x <data; echo $?; done", answering=answer)
    assert waiter.until_the_end() == 0
    assert (waiter.output, waiter.stderr) == (b"9\n" * 8, b"")
