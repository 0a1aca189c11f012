"""What every engine must do, the fake one and a real one alike: ``engine.protocol`` row by row, then the way in."""

from __future__ import annotations

import gc
import secrets
import time

import pytest

from jobmanager.engine.connect import connect
from jobmanager.engine.docker.container_config import VOLUME_LABEL
from jobmanager.engine.pid1 import RESULT_FILE, RESULT_FILE_LIMIT, Mark, MarkedStream, payload
from jobmanager.engine.protocol import (
    EngineError,
    ImageMissing,
    NameTaken,
    NoSuchContainer,
    NotRunning,
    OutputStream,
    Refused,
    StdinLink,
    Unreachable,
)
from jobmanager.model.container import ContainerSpec, ContainerStatus, ImageDefaults
from jobmanager.model.host import Address
from jobmanager.model.limits import Limits
from tests.conftest import BUSYBOX as IMAGE
from tests.conftest import eventually
from tests.contract.place import LABEL, PATIENCE_S, Place, Run

NOBODY = "jobmanager-test-no-such-container"
FOREVER = "while :; do sleep 1; done"
ALL_BYTES = bytes(range(256))
SIGNALS = [("KILL", 9), ("SEGV", 11), ("TERM", 15), ("ABRT", 6), ("FPE", 8), ("PIPE", 13), ("HUP", 1)]


def everything(stream: OutputStream) -> tuple[bytes, bytes]:
    """Standard output and standard error up to the stream's end."""
    out = {False: b"", True: b""}
    deadline = time.monotonic() + PATIENCE_S
    while (chunks := stream.read(1.0)) is not None:
        assert time.monotonic() < deadline, f"no end after {out}"
        for chunk in chunks:
            out[chunk.stderr] += chunk.data
    return out[False], out[True]


# ---- the host and its images


def test_info_tells_what_the_host_is(place: Place) -> None:
    info = place.engine.info()
    assert info.version
    assert info.cores >= 1
    assert info.memory_mib >= 512
    assert info.cgroup in ("1", "2")
    assert abs(info.now_s - time.time()) < 60


def test_an_engine_tells_a_person_what_it_is(place: Place) -> None:
    about, info = place.engine.about(), place.engine.info()
    assert (about.engine, about.cgroup) == (info.version, info.cgroup)
    assert all((about.api, about.runtime, about.operating_system, about.kernel, about.storage_driver))
    assert set(about.cannot_limit) <= {"memory", "swap", "processes", "CPU time"}


def test_images_are_listed_with_their_references(place: Place) -> None:
    images = [image for image in place.engine.images() if IMAGE in image.references]
    assert len(images) == 1
    assert images[0].id.startswith("sha256:")
    assert images[0].created_at_s > 1e9


def test_an_image_is_found_by_reference_and_by_id(place: Place) -> None:
    id_ = next(image.id for image in place.engine.images() if IMAGE in image.references)
    assert place.engine.image_defaults(id_) == place.engine.image_defaults(IMAGE)
    assert place.engine.image_defaults(IMAGE).volumes == ()


def test_the_defaults_of_a_missing_image_raise_image_missing(place: Place) -> None:
    with pytest.raises(ImageMissing, match="no-such-image"):
        place.engine.image_defaults("jobmanager/no-such-image:1")


# ---- create


def test_a_created_container_is_not_running_and_has_its_labels(place: Place) -> None:
    before = place.engine.info().now_s
    name = place.create(labels={"who": "me", "empty": ""})
    state = place.engine.inspect(name)
    assert (state.name, state.status, state.exit_code) == (name, ContainerStatus.CREATED, None)
    assert state.labels == {LABEL: place.label, "who": "me", "empty": ""}
    assert not state.oom_killed
    assert before - 2 <= state.created_at_s <= place.engine.info().now_s + 2


def test_a_container_is_found_by_the_id_that_create_returned(place: Place) -> None:
    name = place.create()
    id_ = place.engine.inspect(name).id
    assert place.engine.inspect(id_).name == name


def test_a_second_container_of_a_name_raises_name_taken(place: Place) -> None:
    name = place.create()
    with pytest.raises(NameTaken, match=name):
        place.create(name=name)


def test_a_container_of_a_missing_image_raises_image_missing(place: Place) -> None:
    spec = ContainerSpec(name=NOBODY, image="jobmanager/no-such-image:1", labels={}, limits=Limits())
    with pytest.raises(ImageMissing):
        place.engine.create(spec, ImageDefaults(command=(), volumes=()))
    with pytest.raises(NoSuchContainer):
        place.engine.inspect(NOBODY)


# ---- start


def test_a_started_container_runs(place: Place) -> None:
    assert place.engine.inspect(place.started()).status is ContainerStatus.RUNNING


def test_starting_twice_is_fine(place: Place) -> None:
    name = place.started()
    place.engine.start(name)
    assert place.engine.inspect(name).status is ContainerStatus.RUNNING


def test_starting_a_container_that_has_ended_runs_it_again(place: Place) -> None:
    name = place.ended()
    place.engine.start(name)
    state = place.engine.inspect(name)
    assert (state.status, state.exit_code) == (ContainerStatus.RUNNING, None)


def test_inspect_tells_when_a_container_was_started_last(place: Place) -> None:
    name = place.create()
    assert place.engine.inspect(name).started_at_s <= 0
    before = place.engine.info().now_s
    place.engine.start(name)
    first = place.engine.inspect(name).started_at_s
    assert before - 2 <= first <= place.engine.info().now_s + 2
    place.engine.kill(name)
    place.until_ended(name)
    place.engine.start(name)
    assert place.engine.inspect(name).started_at_s > first


# ---- any call on a container that is not there


@pytest.mark.parametrize("call", ["start", "attach", "logs", "inspect", "kill", "pause", "usage"])
def test_a_call_on_an_absent_container_raises_no_such_container(place: Place, call: str) -> None:
    with pytest.raises(NoSuchContainer):
        getattr(place.engine, call)(NOBODY)


def test_feeding_an_absent_container_raises_no_such_container(place: Place) -> None:
    with pytest.raises(NoSuchContainer):
        place.engine.feed(NOBODY, b"x", PATIENCE_S)


def test_the_archive_of_an_absent_container_raises_no_such_container(place: Place) -> None:
    with pytest.raises(NoSuchContainer):
        list(place.engine.archive(NOBODY, "/job"))
    with pytest.raises(NoSuchContainer):
        place.engine.write_file(NOBODY, "/etc/passwd", b"x")


def test_removing_an_absent_container_is_fine(place: Place) -> None:
    place.engine.remove(NOBODY)


# ---- kill, pause, remove in each phase


def test_killing_a_running_container_ends_it_with_137(place: Place) -> None:
    name = place.started()
    place.engine.kill(name)
    state = place.until_ended(name)
    assert (state.exit_code, state.oom_killed) == (137, False)


def test_killing_a_paused_container_ends_it_with_137(place: Place) -> None:
    name = place.started()
    place.pause(name)
    place.engine.kill(name)
    assert place.until_ended(name).exit_code == 137


def test_killing_or_pausing_what_does_not_run_raises_not_running(place: Place) -> None:
    for name in (place.create(), place.ended()):
        with pytest.raises(NotRunning):
            place.engine.kill(name)
        with pytest.raises(NotRunning):
            place.engine.pause(name)


def test_a_paused_container_is_paused(place: Place) -> None:
    name = place.started()
    place.pause(name)
    assert place.engine.inspect(name).status is ContainerStatus.PAUSED
    assert [state.status for state in place.engine.list({LABEL: place.label})] == [ContainerStatus.PAUSED]


def test_pausing_twice_raises_not_running(place: Place) -> None:
    name = place.started()
    place.pause(name)
    with pytest.raises(NotRunning):
        place.engine.pause(name)


def test_a_paused_container_prints_nothing(place: Place) -> None:
    run, stream = place.begin("yes")
    place.read(run, stream, lambda: len(run.stdout) > 100_000)
    place.pause(run.container)
    deadline = time.monotonic() + PATIENCE_S
    while stream.read(0.3):  # what was under way
        assert time.monotonic() < deadline


def test_a_paused_container_goes_on_where_it_stood(place: Place) -> None:
    run, stream = place.begin("sleep 1; echo over")
    place.pause(run.container)
    place.engine.unpause(run.container)
    assert place.engine.inspect(run.container).status is ContainerStatus.RUNNING
    place.read(run, stream, lambda: "bye" in run.words)
    assert run.stdout == b"over\n"


def test_a_container_can_be_removed_in_every_phase(place: Place) -> None:
    paused = place.started()
    place.pause(paused)
    for name in (place.create(), place.started(), paused, place.ended()):
        place.engine.remove(name)
        with pytest.raises(NoSuchContainer):
            place.engine.inspect(name)


def test_a_removed_containers_name_can_be_used_again(place: Place) -> None:
    name = place.started()
    place.engine.remove(name)
    place.create(name=name)
    assert place.engine.inspect(name).status is ContainerStatus.CREATED


# ---- list


def test_containers_are_listed_by_a_label_and_its_value(place: Place) -> None:
    one, two = place.create(labels={"kind": "one"}), place.started(labels={"kind": "two"})
    mine = {LABEL: place.label}
    assert {state.name for state in place.engine.list(mine)} == {one, two}
    assert [state.name for state in place.engine.list({**mine, "kind": "two"})] == [two]
    assert {state.name for state in place.engine.list({**mine, "kind": None})} == {one, two}
    assert place.engine.list({**mine, "other": None}) == []
    assert place.engine.list({**mine, "kind": "three"}) == []


def test_a_listed_container_says_what_inspect_says_but_for_its_exit_code(place: Place) -> None:
    name = place.ended()
    (listed,) = place.engine.list({LABEL: place.label})
    state = place.engine.inspect(name)
    assert (listed.id, listed.name, listed.labels, listed.status) == (state.id, name, state.labels, ContainerStatus.ENDED)
    assert listed.exit_code is None
    assert abs(listed.created_at_s - state.created_at_s) < 2


# ---- volumes


def test_a_containers_volume_has_its_labels_and_goes_with_it(place: Place) -> None:
    before = place.engine.info().now_s
    name = place.create(labels={"kind": "one"})
    (volume,) = place.engine.volumes({LABEL: place.label, "kind": "one"})
    assert volume.labels.items() >= {LABEL: place.label, "kind": "one", VOLUME_LABEL: name}.items()  # some engines add their own
    assert before - 2 <= volume.created_at_s <= place.engine.info().now_s + 2
    place.engine.remove(name)
    assert not place.engine.volumes({LABEL: place.label})


def test_volumes_are_listed_by_a_label_and_its_value(place: Place) -> None:
    one, two = place.create(labels={"kind": "one"}), place.create(labels={"kind": "two"})
    mine = {LABEL: place.label}
    assert {volume.labels[VOLUME_LABEL] for volume in place.engine.volumes(mine)} == {one, two}
    assert [volume.labels[VOLUME_LABEL] for volume in place.engine.volumes({**mine, "kind": "two"})] == [two]
    assert len(place.engine.volumes({**mine, "kind": None})) == 2
    assert not place.engine.volumes({**mine, "other": None})
    assert not place.engine.volumes({**mine, "kind": "three"})


def test_a_volume_outlives_a_container_that_a_stranger_removed_and_can_be_removed_alone(place: Place) -> None:
    place.remove_alone(place.started())
    (volume,) = place.engine.volumes({LABEL: place.label})
    place.engine.remove_volume(volume.name)
    assert not place.engine.volumes({LABEL: place.label})
    place.engine.remove_volume(volume.name)


def test_removing_a_container_that_a_stranger_removed_takes_its_volume(place: Place) -> None:
    name = place.create()
    place.remove_alone(name)
    assert place.engine.volumes({LABEL: place.label})
    place.engine.remove(name)
    assert not place.engine.volumes({LABEL: place.label})


def test_a_volume_that_a_container_has_cannot_be_removed(place: Place) -> None:
    for name in (place.create(), place.started(), place.ended()):
        (volume,) = place.engine.volumes({VOLUME_LABEL: name})
        with pytest.raises(Refused, match="in use"):
            place.engine.remove_volume(volume.name)


# ---- output


def test_every_byte_of_both_streams_arrives(place: Place) -> None:
    run = place.run("cat bytes; cat bytes >&2", files={"bytes": ALL_BYTES * 3})
    assert (run.stdout, run.stderr) == (ALL_BYTES * 3, ALL_BYTES * 3)


def test_a_megabyte_arrives_whole_and_in_order(place: Place) -> None:
    content = b"".join(b"%d\n" % number for number in range(170_000))
    run = place.run(("cat", "numbers"), files={"numbers": content})
    assert len(content) > 2**20
    assert run.stdout == content


def test_an_attached_stream_ends_when_the_container_ends(place: Place) -> None:
    name = place.started()
    stream = place.attached(name)
    assert stream.read(0.05) == []
    place.engine.kill(name)
    assert everything(stream) == (b"", b"")


def test_an_attached_stream_ends_when_the_container_is_removed(place: Place) -> None:
    name = place.started()
    stream = place.attached(name)
    place.engine.remove(name)
    assert everything(stream) == (b"", b"")


def test_attaching_shows_only_what_comes_from_then_on(place: Place) -> None:
    run, stream = place.begin("echo early; while [ ! -e late ]; do sleep 0.05; done")
    place.read(run, stream, lambda: b"early\n" in run.stdout)
    second = place.attached(run.container)
    assert second.read(0.2) == []


def test_a_container_stands_still_while_an_attached_stream_is_not_read(place: Place) -> None:
    run, stream = place.begin("yes | head -c 3000000; echo done > mark")
    place.read(run, stream, lambda: len(run.stdout) > 1000)
    assert "mark" not in place.archived(run.container)
    place.read(run, stream, lambda: "bye" in run.words)
    assert len(run.stdout) == 3_000_000


def test_two_attached_streams_both_get_everything(place: Place) -> None:
    name = place.started()
    streams = [place.attached(name), place.attached(name)]
    place.engine.feed(name, payload("tok", command=("echo", "hi"), env={}, files={}, stdin=b""), PATIENCE_S)
    outputs = []
    for stream in streams:
        out = b""
        while b"tok bye\x1f\n" not in out:
            chunks = stream.read(PATIENCE_S)
            assert chunks
            out += b"".join(chunk.data for chunk in chunks if not chunk.stderr)
        outputs.append(out)
    assert outputs[0] == outputs[1]
    assert b"hi\n" in outputs[0]


def test_logs_of_a_running_container_begin_at_the_beginning_and_follow(place: Place) -> None:
    run, stream = place.begin("echo first; echo problem >&2; while [ ! -e go ]; do sleep 0.05; done")
    place.read(run, stream, lambda: b"first\n" in run.stdout and b"problem\n" in run.stderr)
    log = place.followed(run.container)
    out, err, deadline = b"", b"", time.monotonic() + PATIENCE_S
    while b"first\n" not in out or b"problem\n" not in err:
        assert time.monotonic() < deadline
        for chunk in log.read(1.0) or []:
            out, err = out + b"" if chunk.stderr else out + chunk.data, err + chunk.data if chunk.stderr else err
    place.engine.kill(run.container)
    everything(stream)
    assert everything(log) == (b"", b"")


def test_logs_of_an_ended_container_are_all_that_it_printed(place: Place) -> None:
    run = place.run("cat bytes; cat bytes >&2; exit 3", files={"bytes": ALL_BYTES})
    place.engine.kill(run.container)
    place.until_ended(run.container)
    out, err = everything(place.followed(run.container))
    begin = b"\x1e" + run.token.encode()
    assert out.startswith(begin + b" got ")
    assert out.endswith(begin + b" bye\x1f\n")
    assert ALL_BYTES in out
    assert err.startswith(ALL_BYTES + begin + b" end 3 ")


def test_a_log_that_was_read_to_its_end_reads_as_ended_ever_after(place: Place) -> None:
    stream = place.followed(place.ended())
    everything(stream)
    assert stream.read(0.1) is None


def test_unread_logs_never_hold_a_container_up(place: Place) -> None:
    limits = Limits(memory_mib=64, workspace_mib=4, output_kib=4096)
    run, stream = place.begin("echo go; sleep 0.2; yes | head -c 3000000; touch ready", limits=limits)
    place.read(run, stream, lambda: b"go\n" in run.stdout)
    place.followed(run.container)
    place.read(run, stream, lambda: "bye" in run.words)
    assert run.end.exit_code == 0


def test_a_closed_stream_reads_as_ended(place: Place) -> None:
    for stream in (place.attached(place.started()), place.followed(place.started())):
        stream.close()
        assert stream.read(0.1) is None


def test_a_paused_or_running_containers_stream_is_empty_when_nothing_comes_in_time(place: Place) -> None:
    assert place.followed(place.started()).read(0.05) == []


def test_a_paused_container_can_be_neither_attached_to_nor_fed(place: Place) -> None:
    name = place.started()
    place.pause(name)
    with pytest.raises(Refused, match="paused"):
        place.engine.attach(name)
    with pytest.raises(Refused, match="paused"):
        place.engine.feed(name, b"", PATIENCE_S)


def test_attaching_to_an_ended_container_shows_no_end(place: Place) -> None:
    stream = place.attached(place.ended())
    assert stream.read(0.2) == []


def test_logs_of_a_container_that_was_never_started_end_at_once(place: Place) -> None:
    assert everything(place.followed(place.create())) == (b"", b"")


def test_a_stream_that_was_attached_before_the_start_shows_everything(place: Place) -> None:
    name = place.create()
    stream = place.attached(name)
    place.engine.start(name)
    place.engine.feed(name, b"tok 0\n", PATIENCE_S)
    assert everything(stream) == (b"\x1etok no its files cannot be unpacked into the workspace\x1f\n", b"")


def test_feeding_an_ended_container_is_lost_in_silence(place: Place) -> None:
    name = place.ended()
    place.engine.feed(name, b"tok 0\n", PATIENCE_S)
    assert place.engine.inspect(name).exit_code == 125


# ---- CPU time


def test_cpu_time_of_a_spinning_program_grows_and_is_none_after_the_end(place: Place) -> None:
    run, stream = place.begin("echo on; while :; do :; done")
    place.read(run, stream, lambda: b"on\n" in run.stdout)
    first = place.engine.usage(run.container)
    assert first is not None

    def has_grown() -> bool:
        now = place.engine.usage(run.container)
        return now is not None and now.cpu_time_ns > first.cpu_time_ns + 100_000_000

    eventually(has_grown)
    place.pause(run.container)
    assert place.engine.usage(run.container) is not None
    place.engine.kill(run.container)
    place.until_ended(run.container)
    assert place.engine.usage(run.container) is None


def test_cpu_time_of_a_container_that_was_never_started_is_none(place: Place) -> None:
    assert place.engine.usage(place.create()) is None


# ---- archive


def test_the_workspace_comes_back_as_a_tar(place: Place) -> None:
    run = place.run("mkdir -p out/deep; echo 1 > out/deep/a; cat bytes > b", files={"bytes": ALL_BYTES})
    found = {name.removeprefix("job/"): content for name, content in place.archived(run.container).items()}
    assert found["out/deep/a"] == b"1\n"
    assert found["b"] == found["bytes"] == ALL_BYTES
    assert found["out"] is None


def test_the_workspace_of_a_paused_container_can_be_read(place: Place) -> None:
    run, stream = place.begin(f"echo 1 > a; echo on; {FOREVER}")
    place.read(run, stream, lambda: b"on\n" in run.stdout)
    place.pause(run.container)
    assert place.archived(run.container)["job/a"] == b"1\n"


def test_a_single_file_comes_back_as_a_tar(place: Place) -> None:
    run = place.run("mkdir d; echo 1 > d/a")
    assert place.archived(run.container, "/job/d/a") == {"a": b"1\n"}


def test_a_path_that_is_not_there_raises_an_engine_error(place: Place) -> None:
    run = place.run("true")
    with pytest.raises(NoSuchContainer):
        place.archived(run.container, "/job/nothing")


def test_the_workspace_is_gone_with_the_last_process(place: Place) -> None:
    run = place.run("echo 1 > a")
    place.engine.kill(run.container)
    place.until_ended(run.container)
    assert "job/a" not in place.archived(run.container)


# ---- the way in


def test_marks_come_in_their_order_on_both_streams(place: Place) -> None:
    run = place.run("echo out; echo err >&2")
    assert run.words == ["got", "end", "bye"]
    assert [mark.word for stderr, mark in run.marks if stderr] == ["end"]
    assert run.ends[0] == run.ends[1]
    assert (run.stdout, run.stderr, run.result) == (b"out\n", b"err\n", b"")


def test_pid_1_waits_to_be_killed_when_all_is_said(place: Place) -> None:
    run = place.run("true")
    assert place.engine.inspect(run.container).status is ContainerStatus.RUNNING


def test_the_end_mark_carries_the_counters_of_an_easy_job(place: Place) -> None:
    end = place.run("true").end
    assert (end.exit_code, end.workspace_full) == (0, False)
    assert end.oom_kills in (0, None)
    assert end.fork_refusals in (0, None)
    assert end.cpu_ns is not None
    assert end.peak_memory_bytes is None or end.peak_memory_bytes > 0


def test_a_result_file_comes_between_end_and_bye(place: Place) -> None:
    run = place.run("printf '{\"grade\": 50}' > .jobmanager/result.json; echo out")
    assert (run.stdout, run.result, run.words) == (b"out\n", b'{"grade": 50}', ["got", "end", "bye"])
    assert RESULT_FILE == ".jobmanager/result.json"


def test_a_huge_result_file_is_cut_one_byte_past_its_limit(place: Place) -> None:
    run = place.run(f"head -c {RESULT_FILE_LIMIT + 5000} /dev/zero > .jobmanager/result.json")
    assert len(run.result) == RESULT_FILE_LIMIT + 1


@pytest.mark.parametrize("code", [0, 1, 2, 7, 125, 126, 127, 128, 255])
def test_a_programs_exit_code_is_told(place: Place, code: int) -> None:
    assert place.run(f"exit {code}").end.exit_code == code


@pytest.mark.parametrize(("name", "number"), SIGNALS)
def test_a_program_that_a_signal_ended_has_exit_code_128_and_its_number(place: Place, name: str, number: int) -> None:
    assert place.run(f"kill -{name} $$; sleep 5").end.exit_code == 128 + number


@pytest.mark.parametrize(("command", "code"), [(("true",), 0), (("false",), 1), (("sh", "-c", "exit 4"), 4), (("cat", "no"), 1)])
def test_a_list_command_runs_without_a_shell(place: Place, command: tuple[str, ...], code: int) -> None:
    assert place.run(command).end.exit_code == code


def test_words_of_a_list_command_arrive_as_they_are(place: Place) -> None:
    words = ("", "a b", "'", '"', "$HOME", "*", "\\", "é\n", "}", ";")
    assert place.run(("printf", "<%s>", *words)).stdout.decode() == "".join(f"<{word}>" for word in words)


@pytest.mark.parametrize("command", [("no-such-program", "x"), ("./nothing",), ("/bin/nothing",), ("a'b",)])
def test_a_command_that_the_image_lacks_is_refused_in_words(place: Place, command: tuple[str, ...]) -> None:
    run = place.run(command)
    assert run.marks[1:] == [(False, Mark("no", f"there is no {command[0]!a} that can be run"))]
    assert run.words == ["got", "no"]
    assert (run.stdout, run.stderr) == (b"", b"")
    assert place.engine.inspect(run.container).status is ContainerStatus.RUNNING


def test_a_file_without_the_right_to_run_is_refused_in_words(place: Place) -> None:
    run = place.run(("./data",), files={"data": b"echo 1\n"})
    assert run.rest("no") == "'./data' is there, but may not be executed"


def test_a_folder_for_a_program_is_refused_in_words(place: Place) -> None:
    run = place.run(("./folder",), files={"folder/file": b""})
    assert run.rest("no") == "'./folder' is a folder, not a program"


def test_a_command_that_a_shell_does_not_find_ends_with_127_and_a_message(place: Place) -> None:
    run = place.run("no-such-program; exit $?")
    assert run.end.exit_code == 127
    assert run.stderr == b"sh: no-such-program: not found\n"


def test_a_script_with_an_interpreter_can_be_run(place: Place) -> None:
    run = place.run(("./main.sh", "a b", "c"), files={"main.sh": b"#!/bin/sh\necho \"$#:$1\"\nexit 9\n"})
    assert (run.stdout, run.end.exit_code) == (b"2:a b\n", 9)


def test_environment_variables_reach_the_program(place: Place) -> None:
    env = {"GREETING": "hello 'you' \"there\" $HOME\nend", "EMPTY": "", "NAME": "wörld"}
    run = place.run('printf "%s|%s|%s" "$GREETING" "$EMPTY" "$NAME"', env=env)
    assert run.stdout.decode() == f"{env['GREETING']}||wörld"


def test_the_program_runs_in_the_workspace_which_is_its_home(place: Place) -> None:
    assert place.run('pwd; echo "$HOME"; env').stdout.startswith(b"/job\n/job\n")
    assert b"HOME=/job\n" in place.run(("env",)).stdout


def test_standard_input_is_given_whole_and_then_ends(place: Place) -> None:
    assert place.run(("cat",), stdin=ALL_BYTES * 500).stdout == ALL_BYTES * 500
    assert place.run(("cat",)).stdout == b""


def test_standard_input_is_read_line_by_line(place: Place) -> None:
    assert place.run('while read -r line; do echo "<$line>"; done', stdin=b"a b\nc\n").stdout == b"<a b>\n<c>\n"


def test_file_names_in_unicode_and_in_folders_arrive(place: Place) -> None:
    long_name = "d/" + "x" * 120 + "/" + "ü" * 40
    run = place.run(("cat", "größe.txt", "a b/c", long_name), files={"größe.txt": b"1", "a b/c": b"2", long_name: b"3"})
    assert run.stdout == b"123"


def test_only_files_that_begin_with_an_interpreter_may_be_run(place: Place) -> None:
    run = place.run("for f in a b; do [ -x $f ] && echo $f; done", files={"a": b"#!/bin/sh\n", "b": b"x"})
    assert run.stdout == b"a\n"


def test_standard_input_that_ends_before_any_job_ends_pid_1_with_125(place: Place) -> None:
    state = place.engine.inspect(place.ended())
    assert (state.exit_code, state.oom_killed) == (125, False)


@pytest.mark.parametrize("kept", [0, 100, 1500])
def test_a_payload_that_was_cut_is_refused_and_ends_pid_1_with_125(place: Place, kept: int) -> None:
    name = place.started()
    stream = place.attached(name)
    whole = payload("tok", command=("true",), env={}, files={"a": b"x" * 3000}, stdin=b"")
    place.engine.feed(name, whole[: whole.index(b"\n") + 1 + kept], PATIENCE_S)
    assert place.until_ended(name).exit_code == 125
    assert everything(stream) == (b"\x1etok no its files cannot be unpacked into the workspace\x1f\n", b"")


def test_files_that_do_not_fit_the_workspace_are_refused(place: Place) -> None:
    name = place.started(limits=Limits(memory_mib=64, workspace_mib=1))
    stream = place.attached(name)
    job = payload("tok", command=("true",), env={}, files={"a": bytes(2 * 2**20)}, stdin=b"")
    place.engine.feed(name, job, PATIENCE_S)
    assert place.until_ended(name).exit_code == 125
    assert everything(stream) == (b"\x1etok no its files cannot be unpacked into the workspace\x1f\n", b"")


def test_a_full_workspace_is_told(place: Place) -> None:
    limits = Limits(memory_mib=64, workspace_mib=1)
    run = place.run("head -c 2000000 /dev/zero > big; exit 1", limits=limits)
    assert run.end.workspace_full
    assert run.stderr == b"head: standard output: I/O error\n"
    assert not place.run("exit 1", limits=limits).end.workspace_full


def test_nothing_can_be_written_outside_the_workspace_and_tmp(place: Place) -> None:
    run = place.run("echo 1 > /tmp/a; cat /tmp/a; echo 2 > /b; echo $?")
    assert run.stdout == b"1\n1\n"
    assert run.stderr == b"sh: can't create /b: Read-only file system\n"


def test_a_program_cannot_end_pid_1(place: Place) -> None:
    run = place.run("kill -9 1; echo alive")
    assert (run.stdout, run.words) == (b"alive\n", ["got", "end", "bye"])


def test_a_program_that_kills_all_that_it_can_does_not_reach_pid_1(place: Place) -> None:
    run = place.run("kill -9 -1; echo alive")
    assert (run.stdout, run.words) == (b"alive\n", ["got", "end", "bye"])


def test_a_program_that_kills_its_process_group_dies_alone(place: Place) -> None:
    run = place.run("kill -9 0; echo alive")
    assert (run.stdout, run.end.exit_code, run.words) == (b"", 137, ["got", "end", "bye"])


def test_a_child_of_the_program_that_a_signal_ended_is_told_by_its_shell(place: Place) -> None:
    run = place.run("sh -c 'kill -9 $$'; echo $?")
    assert run.stdout == b"137\n"
    assert run.stderr == b"Killed\n"


def test_a_second_payload_changes_nothing(place: Place) -> None:
    run, stream = place.begin("echo once; while [ ! -e go ]; do sleep 0.05; done")
    place.read(run, stream, lambda: b"once\n" in run.stdout)
    second = payload(run.token, command=("echo", "twice"), env={}, files={}, stdin=b"")
    try:
        place.engine.feed(run.container, second, 2.0)
    except EngineError:
        pass  # an engine may refuse it too
    assert stream.read(0.2) == []
    assert place.engine.inspect(run.container).status is ContainerStatus.RUNNING


# ---- shell


SCRIPTS = {
    "lists": ("true && echo a; false || echo b; ! false && echo c", b"a\nb\nc\n"),
    "quotes": ("""x='a  b'; echo $x "$x" '$x' \\$x""", b"a b a  b $x $x\n"),
    "defaults": ('echo ${NOTHING:-some} "${#}" $#', b"some 0 0\n"),
    "append": ("echo 1 > f; echo 2 >> f; cat < f", b"1\n2\n"),
    "no newline": ("echo -n a; printf '%s-%d\\n' b 3; printf 'x\\101\\n'", b"ab-3\nxA\n"),
    "if": ("if [ -f f ]; then echo y; elif [ 1 -lt 2 ]; then echo e; else echo n; fi", b"e\n"),
    "for": ('for i in 1 "2 3"; do echo "<$i>"; done', b"<1>\n<2 3>\n"),
    "while": ("i=0; while [ $i -lt 3 ]; do i=$((i + 1)); done; echo $i", b"3\n"),
    "substitution": ('echo "$(echo a; echo b)" $(printf "c  d")', b"a\nb c d\n"),
    "subshell": ("(cd /tmp; exit 3); echo $?; pwd", b"3\n/job\n"),
    "group": ("{ echo a; echo b; } | wc -l", b"2\n"),
    "pipe": ("seq 1 1000 | head -n 2; echo $?", b"1\n2\n0\n"),
    "errexit": ("set -e; false; echo never", b""),
    "redirected stderr": ("{ echo a >&2; } 2>&1; no-such 2>/dev/null; echo $?", b"a\n127\n"),
    "environment": ("A=1 env | head -c 0; A=2; export A; sh -c 'echo $A'", b"2\n"),
    "glob": ("touch b.x a.x c; echo *.x *.y", b"a.x b.x *.y\n"),
    "break": ("while true; do echo a; break; done; for i in 1 2 3; do [ $i = 2 ] && continue; echo $i; done", b"a\n1\n3\n"),
    "exec": ("exec echo a b; echo never", b"a b\n"),
    "ls": ("mkdir -p d/e; touch d/f; ls d", b"e\nf\n"),
    "dd": ("dd if=/dev/zero of=f bs=1k count=3 2>/dev/null; wc -c < f", b"3072\n"),
    "eof": ("printf a | { read x; echo $? $x; }", b"1 a\n"),
    "arguments": ("sh -c 'echo $0 $1 \"$@\"' n a 'b  c'", b"n a a b  c\n"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_prints_what_busybox_prints(place: Place, name: str) -> None:
    script, output = SCRIPTS[name]
    assert place.run(script).stdout == output


# ---- an engine that is not there


def test_every_call_on_an_engine_that_is_not_there_raises_unreachable(place: Place) -> None:
    scheme = place.address.url.partition("://")[0]
    gone = connect(Address(host="gone", url=f"{scheme}:///tmp/jobmanager-{secrets.token_hex(4)}.sock"), 2.0)
    try:
        for call in (gone.info, gone.images, lambda: gone.inspect("x"), lambda: gone.attach("x"), lambda: gone.remove("x")):
            with pytest.raises(Unreachable):
                call()
    finally:
        gone.close()
        gc.collect()  # docker-py's failed connections sit in reference cycles


def test_closing_twice_is_fine_and_a_closed_engine_connects_again(place: Place) -> None:
    place.engine.close()
    place.engine.close()
    assert place.engine.info().cores >= 1


# ---- standard input that is kept open


def opened(place: Place, command: str) -> tuple[Run, OutputStream, StdinLink]:
    """A program that reads its container's own standard input, and has begun."""
    name = place.started()
    stream, run = place.attached(name), Run(name, secrets.token_hex(8))
    link = place.engine.open_stdin(name)
    link.write(payload(run.token, command=command, env={}, files={}, stdin=None), PATIENCE_S)
    place.read(run, stream, lambda: "got" in run.words)
    return run, stream, link


def test_a_program_can_be_talked_to_until_its_standard_input_is_closed(place: Place) -> None:
    run, stream, link = opened(place, "while read -r line; do echo heard $line; done; echo over")
    heard: list[bytes] = []
    for word in (b"one", b"two"):
        link.write(word + b"\n", PATIENCE_S)
        sorter = MarkedStream(run.token)
        eventually(lambda word=word, sorter=sorter: hears(stream, sorter, heard) or b"heard " + word + b"\n" in b"".join(heard))

    link.close()

    place.read(run, stream, lambda: "bye" in run.words)
    assert run.stdout == b"over\n"


def hears(stream: OutputStream, sorter: MarkedStream, heard: list[bytes]) -> None:
    for chunk in stream.read(0.1) or ():
        heard += [part for part in sorter.feed(chunk.data) if isinstance(part, bytes)]


def test_every_byte_that_is_written_arrives_in_order_and_no_byte_of_the_job_is_among_them(place: Place) -> None:
    run, stream, link = opened(place, "cat")
    link.write(ALL_BYTES, PATIENCE_S)
    link.write(ALL_BYTES * 40, PATIENCE_S)
    link.close()

    place.read(run, stream, lambda: "bye" in run.words)

    assert run.stdout == ALL_BYTES * 41


def test_what_is_written_before_the_job_is_whole_is_a_part_of_the_job(place: Place) -> None:
    name = place.started()
    stream, run = place.attached(name), Run(name, secrets.token_hex(8))
    job = payload(run.token, command="echo whole", env={}, files={}, stdin=b"")
    link = place.engine.open_stdin(name)
    for at in range(0, len(job), 1000):
        link.write(job[at : at + 1000], PATIENCE_S)

    place.read(run, stream, lambda: "bye" in run.words)
    link.close()

    assert run.stdout == b"whole\n"


def test_a_program_with_standard_input_of_its_own_cannot_read_what_is_written_to_its_container(place: Place) -> None:
    name = place.started()
    stream, run = place.attached(name), Run(name, secrets.token_hex(8))
    link = place.engine.open_stdin(name)
    link.write(payload(run.token, command="cat; cat", env={}, files={}, stdin=b"mine"), PATIENCE_S)
    place.read(run, stream, lambda: "got" in run.words)
    link.write(b"not for you", PATIENCE_S)

    place.read(run, stream, lambda: "bye" in run.words)
    link.close()

    assert run.stdout == b"mine"


def test_a_closed_link_takes_nothing_and_can_be_closed_again(place: Place) -> None:
    _, _, link = opened(place, FOREVER)
    link.close()
    link.close()
    with pytest.raises(Unreachable):
        link.write(b"x", PATIENCE_S)


def test_the_standard_input_of_a_container_that_is_not_there_cannot_be_opened(place: Place) -> None:
    with pytest.raises(NoSuchContainer):
        place.engine.open_stdin(NOBODY)


# ---- grading and student containers


GRADING = {"workspace": "/task", "shares": True}


def test_a_grading_container_works_in_task_and_brings_a_folder_to_share(place: Place) -> None:
    run = place.run("pwd; echo $HOME; echo x > a; echo y > student/b; cat a student/b", files={"student/c": b"z"}, **GRADING)

    assert (run.stdout, run.end.exit_code) == (b"/task\n/task\nx\ny\n", 0)
    volumes = place.engine.inspect(run.container).volumes
    assert set(volumes) == {"/task", "/task/student"}
    labelled = {volume.name for volume in place.engine.volumes({VOLUME_LABEL: run.container})}
    assert labelled == set(volumes.values())
    place.engine.remove(run.container)
    assert place.engine.volumes({VOLUME_LABEL: run.container}) == []


def test_a_listed_container_tells_its_volumes(place: Place) -> None:
    name = place.create(**GRADING)
    (listed,) = place.engine.list({LABEL: place.label})
    assert listed.volumes == place.engine.inspect(name).volumes


def test_a_student_container_goes_without_the_folder_that_it_shares(place: Place) -> None:
    grading = place.create(**GRADING)
    shared = place.engine.inspect(grading).volumes["/task/student"]
    student = place.create(workspace="/task", shared_volume=shared)
    assert place.engine.inspect(student).volumes["/task/student"] == shared

    place.engine.remove(student)

    assert shared in [volume.name for volume in place.engine.volumes({VOLUME_LABEL: grading})]


def test_a_grading_container_leaves_its_folder_while_a_student_container_has_it(place: Place) -> None:
    grading = place.create(**GRADING)
    shared = place.engine.inspect(grading).volumes["/task/student"]
    student = place.create(workspace="/task", shared_volume=shared)

    with pytest.raises(Refused, match="in use"):
        place.engine.remove(grading)

    with pytest.raises(NoSuchContainer):
        place.engine.inspect(grading)
    place.engine.remove(student)
    place.engine.remove(grading)
    assert place.engine.volumes({LABEL: place.label}) == []
