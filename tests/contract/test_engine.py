"""What every engine must do, the fake one and a real one alike: ``engine.protocol`` row by row, then the way in."""

from __future__ import annotations

import gc
import secrets
import time

import pytest

from jobmanager.engine.connect import connect
from jobmanager.engine.docker.container_config import VOLUME_LABEL
from jobmanager.engine.protocol import ImageMissing, NameTaken, NoSuchContainer, NotRunning, Refused, Unreachable
from jobmanager.model.container import ContainerSpec, ContainerStatus, ImageDefaults
from jobmanager.model.host import Address
from jobmanager.model.limits import Limits
from jobmanager.runner.frames import Input, Leave, RefusalReason, Taken
from jobmanager.watching.run_order import RUN
from tests.conftest import BUSYBOX as IMAGE
from tests.conftest import eventually
from tests.contract.place import LABEL, PATIENCE_S, Place

NOBODY = "jobmanager-test-no-such-container"
ALL_BYTES = bytes(range(256))
GRADING = {"workspace": "/task", "shares": True}


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


def test_networks_are_listed_by_their_names(place: Place) -> None:
    assert {"host", "none"} <= place.engine.networks()


def test_a_container_on_a_network_that_there_is_not_cannot_be_started(place: Place) -> None:
    name = place.create(network="no-such-network")
    assert "no-such-network" not in place.engine.networks()
    with pytest.raises(NoSuchContainer, match="network no-such-network not found"):
        place.start(name)


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


@pytest.mark.parametrize("call", ["start", "open_channel", "inspect", "kill", "usage"])
def test_a_call_on_an_absent_container_raises_no_such_container(place: Place, call: str) -> None:
    with pytest.raises(NoSuchContainer):
        getattr(place.engine, call)(NOBODY)


def test_the_archive_of_an_absent_container_raises_no_such_container(place: Place) -> None:
    with pytest.raises(NoSuchContainer):
        list(place.engine.archive(NOBODY, "/job"))
    with pytest.raises(NoSuchContainer):
        place.engine.write_file(NOBODY, "/etc/passwd", b"x")


def test_removing_an_absent_container_is_fine(place: Place) -> None:
    place.engine.remove(NOBODY)


def test_the_end_of_a_container_that_leaves_can_be_waited_for(place: Place) -> None:
    name = place.started()
    with pytest.raises(Unreachable):
        place.engine.wait_until_ended(name, 0.2)
    link = place.linked(name)
    link.send(Leave())
    link.receive(0)
    place.engine.wait_until_ended(name, PATIENCE_S)
    assert place.engine.inspect(name).exit_code == 0
    place.engine.remove(name)
    with pytest.raises(NoSuchContainer):
        place.engine.wait_until_ended(name, PATIENCE_S)


# ---- kill and remove in each phase


def test_killing_a_running_container_ends_it_with_137(place: Place) -> None:
    name = place.started()
    place.engine.kill(name)
    state = place.until_ended(name)
    assert (state.exit_code, state.oom_killed) == (137, False)


def test_killing_a_paused_container_ends_it_with_137(place: Place) -> None:
    name = place.started()
    place.stranger.pause(name)
    place.engine.kill(name)
    assert place.until_ended(name).exit_code == 137


def test_killing_what_does_not_run_raises_not_running(place: Place) -> None:
    for name in (place.create(), place.ended()):
        with pytest.raises(NotRunning):
            place.engine.kill(name)


def test_a_container_that_a_stranger_paused_is_paused(place: Place) -> None:
    name = place.started()
    place.stranger.pause(name)
    assert place.engine.inspect(name).status is ContainerStatus.PAUSED
    assert [state.status for state in place.engine.list({LABEL: place.label})] == [ContainerStatus.PAUSED]


def test_a_container_can_be_removed_in_every_phase(place: Place) -> None:
    paused = place.started()
    place.stranger.pause(paused)
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


def test_a_plain_container_has_no_volume_of_its_own(place: Place) -> None:
    name = place.started()
    assert not place.engine.volumes({LABEL: place.label})
    assert not place.engine.volumes({VOLUME_LABEL: name})


def test_a_containers_volume_has_its_labels_and_goes_with_it(place: Place) -> None:
    before = place.engine.info().now_s
    name = place.create(labels={"kind": "one"}, **GRADING)
    (volume,) = place.engine.volumes({LABEL: place.label, "kind": "one"})
    assert volume.labels.items() >= {LABEL: place.label, "kind": "one", VOLUME_LABEL: name}.items()  # some engines add their own
    assert before - 2 <= volume.created_at_s <= place.engine.info().now_s + 2
    place.engine.remove(name)
    assert not place.engine.volumes({LABEL: place.label})


def test_volumes_are_listed_by_a_label_and_its_value(place: Place) -> None:
    one, two = place.create(labels={"kind": "one"}, **GRADING), place.create(labels={"kind": "two"}, **GRADING)
    mine = {LABEL: place.label}
    assert {volume.labels[VOLUME_LABEL] for volume in place.engine.volumes(mine)} == {one, two}
    assert [volume.labels[VOLUME_LABEL] for volume in place.engine.volumes({**mine, "kind": "two"})] == [two]
    assert len(place.engine.volumes({**mine, "kind": None})) == 2
    assert not place.engine.volumes({**mine, "other": None})
    assert not place.engine.volumes({**mine, "kind": "three"})


def test_a_volume_outlives_a_container_that_a_stranger_removed_and_can_be_removed_alone(place: Place) -> None:
    place.stranger.remove(place.started(**GRADING))
    (volume,) = place.engine.volumes({LABEL: place.label})
    place.engine.remove_volume(volume.name)
    assert not place.engine.volumes({LABEL: place.label})
    place.engine.remove_volume(volume.name)


def test_removing_a_container_that_a_stranger_removed_takes_its_volume(place: Place) -> None:
    name = place.create(**GRADING)
    place.stranger.remove(name)
    assert place.engine.volumes({LABEL: place.label})
    place.engine.remove(name)
    assert not place.engine.volumes({LABEL: place.label})


def test_a_volume_that_a_container_has_cannot_be_removed(place: Place) -> None:
    for name in (place.create(**GRADING), place.started(**GRADING)):
        (volume,) = place.engine.volumes({VOLUME_LABEL: name})
        with pytest.raises(Refused, match="in use"):
            place.engine.remove_volume(volume.name)


def test_limits_of_an_absent_container_raise_no_such_container(place: Place) -> None:
    with pytest.raises(NoSuchContainer):
        place.engine.set_limits(NOBODY, Limits())


# ---- CPU time


def test_cpu_time_of_a_spinning_program_grows_and_is_none_after_the_end(place: Place) -> None:
    run = place.begin("while :; do :; done")
    run.read(lambda: run.has_started)
    first = place.engine.usage(run.container)
    assert first is not None

    def has_grown() -> bool:
        now = place.engine.usage(run.container)
        return now is not None and now.cpu_time_ns > first.cpu_time_ns + 100_000_000

    eventually(has_grown)
    place.stranger.pause(run.container)
    assert place.engine.usage(run.container) is not None
    place.engine.kill(run.container)
    place.until_ended(run.container)
    assert place.engine.usage(run.container) is None


def test_cpu_time_of_a_container_that_was_never_started_is_none(place: Place) -> None:
    assert place.engine.usage(place.create()) is None


# ---- the way in: what a waiter sends for a job


def test_words_of_a_list_command_arrive_as_they_are(place: Place) -> None:
    words = ("", "a b", "'", '"', "$HOME", "*", "\\", "\u00e9\n", "}", ";")
    assert place.run(("echo", *words)).stdout.decode() == " ".join(words) + "\n"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("no-such-program", "x"), RefusalReason.NO_SUCH_PROGRAM),
        (("./nothing",), RefusalReason.NO_SUCH_PROGRAM),
        (("/bin/nothing",), RefusalReason.NO_SUCH_PROGRAM),
        (("./data",), RefusalReason.NOT_EXECUTABLE),
        (("./folder",), RefusalReason.IS_A_FOLDER),
    ],
)
def test_a_command_that_cannot_be_run_is_refused_and_its_container_stays(
    place: Place, command: tuple[str, ...], why: RefusalReason
) -> None:
    run = place.run(command, files={"data": b"echo 1\n", "folder/file": b""})
    assert (run.refused.why, run.stdout, run.stderr) == (why, b"", b"")
    assert place.engine.inspect(run.container).status is ContainerStatus.RUNNING


def test_a_script_with_an_interpreter_can_be_run(place: Place) -> None:
    run = place.run(("./main.sh",), files={"main.sh": b"#!/bin/sh\necho it; exit 9\n"})
    assert (run.stdout, run.ended.code) == (b"it\n", 9)


def test_environment_variables_reach_the_program(place: Place) -> None:
    env = {"GREETING": "hello 'you' \"there\" $HOME", "EMPTY": "", "NAME": "w\u00f6rld"}
    lines = place.run(("env",), env=env).stdout.decode().splitlines()
    assert {f"{name}={value}" for name, value in env.items()} < set(lines)


@pytest.mark.parametrize(
    ("env", "locale"),
    [
        ({}, ["LANG=C.UTF-8"]),
        ({"LANGUAGE": "de", "LC_MESSAGES": "de_DE"}, ["LANG=C.UTF-8"]),
        ({"LANG": "C"}, ["LANG=C"]),
        ({"LANG": ""}, ["LANG="]),
        ({"LC_ALL": "POSIX"}, ["LC_ALL=POSIX"]),
        ({"LC_CTYPE": "C"}, ["LC_CTYPE=C"]),
    ],
)
def test_a_program_has_the_locale_of_utf_8_unless_its_run_names_one(place: Place, env: dict[str, str], locale: list[str]) -> None:
    lines = place.run(("env",), env=env).stdout.decode().splitlines()
    assert [line for line in lines if line.partition("=")[0] in ("LANG", "LC_ALL", "LC_CTYPE")] == locale


def test_the_program_runs_in_the_workspace_which_is_its_home(place: Place) -> None:
    assert place.run(("pwd",)).stdout == b"/job\n"
    assert b"HOME=/job\n" in place.run(("env",)).stdout


def test_standard_input_is_given_whole_and_then_ends(place: Place) -> None:
    assert place.run(("cat",), stdin=ALL_BYTES * 500).stdout == ALL_BYTES * 500
    assert place.run(("cat",)).stdout == b""


def test_megabytes_of_files_and_output_arrive_whole_and_in_order(place: Place) -> None:
    content = b"".join(b"%d\n" % number for number in range(400_000))
    limits = Limits(memory_mib=64, workspace_mib=8, output_kib=8192)
    run = place.run(("cat", "numbers"), files={"numbers": content}, limits=limits)
    assert len(content) > 2.5 * 2**20
    assert run.stdout == content


def test_file_names_in_unicode_and_in_folders_arrive(place: Place) -> None:
    long_name = "d/" + "x" * 120 + "/" + "\u00fc" * 40
    run = place.run(
        ("cat", "gr\u00f6\u00dfe.txt", "a b/c", long_name), files={"gr\u00f6\u00dfe.txt": b"1", "a b/c": b"2", long_name: b"3"}
    )
    assert run.stdout == b"123"


def test_a_program_is_talked_to_while_it_runs(place: Place) -> None:
    run = place.begin(("cat",), stdin=None)
    run.read(lambda: run.has_started)
    run.link.send(Input(run=RUN, offset=0, last=False, data=b"one\n"))
    run.read(lambda: run.stdout == b"one\n")
    run.link.send(Input(run=RUN, offset=4, last=True, data=ALL_BYTES))

    assert run.finish().stdout == b"one\n" + ALL_BYTES
    assert run.record.all_of(Taken)[-1].input == 4 + len(ALL_BYTES)


def test_files_that_do_not_fit_the_workspace_are_refused(place: Place) -> None:
    run = place.run(("true",), files={"a": bytes(2 * 2**20)}, limits=Limits(memory_mib=64, workspace_mib=1))
    assert run.refused.why is RefusalReason.PUT_FAILED


def test_the_workspace_is_as_large_as_it_was_asked_for(place: Place) -> None:
    limits = Limits(memory_mib=64, workspace_mib=1)
    run = place.run("cat /dev/zero > big; exit 4", limits=limits)
    assert [(place.path, place.blocks) for place in run.ended.full] == [(b"/job", True)]
    assert not place.run(("false",), limits=limits).ended.full


# ---- an engine that is not there


def test_every_call_on_an_engine_that_is_not_there_raises_unreachable(place: Place) -> None:
    scheme = place.address.url.partition("://")[0]
    gone = connect(Address(host="gone", url=f"{scheme}:///tmp/jobmanager-{secrets.token_hex(4)}.sock"), 2.0)
    try:
        for call in (gone.info, gone.images, lambda: gone.inspect("x"), lambda: gone.open_channel("x"), lambda: gone.remove("x")):
            with pytest.raises(Unreachable):
                call()
    finally:
        gone.close()
        gc.collect()  # docker-py's failed connections sit in reference cycles


def test_closing_twice_is_fine_and_a_closed_engine_connects_again(place: Place) -> None:
    place.engine.close()
    place.engine.close()
    assert place.engine.info().cores >= 1


# ---- grading and student containers


def test_a_grading_container_works_in_task_and_brings_a_folder_to_share(place: Place) -> None:
    run = place.run("pwd; cat a student/b", files={"a": b"x", "student/b": b"y"}, **GRADING)

    assert (run.stdout, run.ended.code) == (b"/task\nxy", 0)
    volumes = place.engine.inspect(run.container).volumes
    assert {path for path in volumes if not path.startswith("/.jobmanager")} == {"/task/student"}
    assert [volume.name for volume in place.engine.volumes({VOLUME_LABEL: run.container})] == [volumes["/task/student"]]
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
