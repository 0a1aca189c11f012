"""Volumes are wiped before the program starts. What is there is a stranger's: the fake engine knows plain files only."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from jobmanager.model.container import VolumeMount
from jobmanager.model.limits import Limits
from jobmanager.runner.frames import RefusalReason
from tests.contract.conftest import REAL_ONLY
from tests.contract.place import Place, Run


def phase_before(place: Place, volume: VolumeMount, script: str) -> None:
    """What a container of the submitter's leaves in the volume, which it keeps alive."""
    run = place.run(f"cd /volumes/work; {script}", volumes=(volume,))
    assert (run.ended.code, run.stderr) == (0, b"")


def given(place: Place, *paths: str, volumes: tuple[VolumeMount, ...]) -> None:
    """The same by plain commands: some files in volumes."""
    folders = sorted({path.rpartition("/")[0] for path in paths})
    made = [f"mkdir -p '/volumes/{folder}'" for folder in folders] + [f"touch '/volumes/{path}'" for path in paths]
    run = place.run("; ".join(made), volumes=volumes)
    assert (run.ended.code, run.stderr) == (0, b"")


def wiped(place: Place, volume: VolumeMount, *patterns: str, command: str = "ls /volumes/work", **options: object) -> Run:
    return place.run(command, volumes=(volume,), wipe=patterns, **options)


def test_what_matches_is_gone_before_the_program_starts_and_the_rest_stays(place: Place) -> None:
    volume = place.volume()
    reports = [f"work/reports/{name}" for name in ("a.json", "b.json", "c")]
    given(place, *reports, "work/d.json", "work/deep/er/e", volumes=(volume,))

    command = "ls /volumes/work; ls /volumes/work/reports"
    run = wiped(place, volume, "work/reports/*.json", "work/deep/*", command=command)

    assert run.stdout == b"d.json\ndeep\nreports\nc\n"


def test_a_star_matches_no_leading_dot(place: Place) -> None:
    volume = place.volume()
    given(place, "work/.hidden", "work/seen", volumes=(volume,))
    run = wiped(place, volume, "work/*", command="cat /volumes/work/.hidden; cat /volumes/work/seen")
    assert (run.stdout, run.ended.code, run.stderr.count(b"cat: can't open")) == (b"", 1, 1)


@REAL_ONLY
def test_a_dot_star_never_leaves_the_volume(place: Place) -> None:
    volume, other = place.volume("work"), place.volume("other")
    place.run("cd /volumes/work; touch .hidden seen; mkdir .d .d/x; touch ../other/kept", volumes=(volume, other))
    assert wiped(place, volume, "work/*", command="ls -A /volumes/work").stdout.split() == [b".d", b".hidden"]

    command = "ls -A /volumes/work; echo and; ls -A /volumes/other"
    run = place.run(command, volumes=(volume, other), wipe=["work/.*", "work/.*/*"])

    assert run.stdout == b"and\nkept\n"


def test_a_pattern_with_a_space_is_one_pattern(place: Place) -> None:
    volume = place.volume()
    given(place, "work/a b1", "work/a", "work/b1", volumes=(volume,))
    assert wiped(place, volume, "work/a b*").stdout == b"a\nb1\n"


def test_what_is_not_there_needs_no_wiping(place: Place) -> None:
    volume = place.volume()
    given(place, "work/file", volumes=(volume,))
    assert wiped(place, volume, "work/none", "work/no/*/thing", "work/file/x", "work/*.json").stdout == b"file\n"


def test_a_volume_that_cannot_be_written_to_is_refused_when_something_is_to_be_wiped(place: Place) -> None:
    volume = place.volume()
    given(place, "work/a", volumes=(volume,))

    run = wiped(place, replace(volume, read_only=True), "work/a")

    assert (run.refused.why, run.has_started) == (RefusalReason.REMOVE_FAILED, False)


def test_a_volume_that_the_container_does_not_have_is_refused(place: Place) -> None:
    run = place.run("echo started", wipe=["work/a"])
    assert (run.refused.why, run.has_started) == (RefusalReason.REMOVE_FAILED, False)


@REAL_ONLY
def test_ten_thousand_files_are_wiped(place: Place) -> None:
    volume = place.volume(size_mib=256)
    long = "x" * 200
    phase_before(place, volume, f"i=0; while [ $i -lt 10000 ]; do printf '' > {long}$i; i=$((i+1)); done")
    assert wiped(place, volume, f"work/{long[:9]}*", command="ls /volumes/work | wc -l").stdout == b"0\n"


HOSTILE_NAMES = [" ", "a b", "-rf", "--", "-", "\n", "a\nb", "'", '"', "$(touch x)", "`touch x`"]
HOSTILE_NAMES += ["*", "?", "[a]", "\\", "\\*", ";", "~", "\t", "é", "a" * 255]


@REAL_ONLY
@pytest.mark.parametrize("place_of_it", ["{}", "d/{}", "{}/d"])
def test_hostile_names_are_names(place: Place, place_of_it: str) -> None:
    volume = place.volume()
    paths = [place_of_it.format(name) for name in HOSTILE_NAMES]
    made = "; ".join(f"mkdir -p ./{shlex.quote(path.rpartition('/')[0])}; echo > ./{shlex.quote(path)}" for path in paths)
    phase_before(place, volume, f"{made}; touch .kept")
    pattern = "work/" + place_of_it.format("*")
    left = wiped(place, volume, pattern, command=f"cd /volumes/work; find . -type f; ls -d {place_of_it.format('*')} || echo none")
    assert left.stdout == b"./.kept\nnone\n"


@REAL_ONLY
def test_bytes_that_are_no_text_are_wiped(place: Place) -> None:
    volume = place.volume()
    phase_before(place, volume, "touch $(printf '\\377\\200x') $(printf 'a\\001\\033[2J')")
    assert wiped(place, volume, "work/*").stdout == b""


@REAL_ONLY
def test_links_are_removed_themselves_and_never_followed(place: Place) -> None:
    work, other = place.volume("work"), place.volume("other")
    place.run(
        "cd /volumes/work; mkdir ../other/d; echo 1 > ../other/d/a.json; echo 1 > ../other/b.json;"
        " ln -s ../other/d reports; ln -s ../other/b.json b.json; ln -s nowhere gone; ln -s loop loop;"
        " mkdir c; ln -s ../../other c/link",
        volumes=(work, other),
    )
    wipe = ["work/reports/*.json", "work/*.json", "work/gone", "work/loop/x", "work/c/*/b.json"]

    run = place.run("cd /volumes; ls -A work work/c; cat other/d/a.json other/b.json", volumes=(work, other), wipe=wipe)

    assert run.stdout == b"work:\nc\n\nwork/c:\n1\n1\n"


@REAL_ONLY
@pytest.mark.parametrize(
    "script",
    [
        "mkdir d; touch d/a.json; chmod 0500 d",
        "mkdir d; touch d/a.json; chmod 0 d",
        "mkdir d; touch d/a.json; chmod 0300 d",
        "mkdir d; touch d/a.json; chmod 0600 d",
        "mkdir d; touch d/a.json; chmod 0 d/a.json",
        "mkdir -p d/a.json/e/f; touch d/a.json/e/f/g; chmod 0 d/a.json/e/f; chmod 0500 d/a.json/e; chmod 0 d/a.json",
        "mkdir d; touch d/a.json; chmod 0 d; chmod 0500 .",
        "mkdir d; touch d/a.json; chmod 0 .",
        "mkdir d; mkfifo d/a.json",
    ],
)
def test_what_is_closed_to_its_owner_is_opened_and_wiped(place: Place, script: str) -> None:
    volume = place.volume()
    phase_before(place, volume, script)
    run = wiped(place, volume, "work/d/*.json", command="cd /volumes/work; ls -ld d; ls -A d")
    assert (run.ended.code, len(run.stdout.splitlines())) == (0, 1), run


@REAL_ONLY
@pytest.mark.parametrize("mode", ["0755", "0700", "0711", "0"])
def test_what_belongs_to_another_user_is_a_refusal_and_never_seems_to_be_absent(place: Place, mode: str) -> None:
    volume = place.volume()
    phase_before(place, volume, f"mkdir d; touch d/a.json; chmod {mode} d")

    run = wiped(place, volume, "work/d/*.json", command="echo started", user="0:0")

    assert (run.refused.why, run.has_started) == (RefusalReason.REMOVE_FAILED, False)


@REAL_ONLY
def test_a_deep_tree_is_wiped_or_refused(place: Place) -> None:
    volume = place.volume(size_mib=64)
    half = "/".join("d" * 1500)
    phase_before(place, volume, f"mkdir -p a/{half} b/{half}; mv b a/{half}")

    run = wiped(place, volume, "work/a", command="echo started; ls -A /volumes/work")

    assert run.stdout == (b"started\n" if run.has_started else b"")


@pytest.mark.parametrize("user", [None, "0:0", "0:65534", "1000:1000"])
def test_secrets_are_files_that_only_the_containers_user_can_read(place: Place, user: str | None) -> None:
    secrets = {"token": b"\0s3cret\n", "other": b""}
    run = place.run("ls .jobmanager/secrets; cat .jobmanager/secrets/token", secrets=secrets, user=user)
    assert run.stdout == b"other\ntoken\n\0s3cret\n"

    if place.address.host != "fake":
        modes = place.run("cd .jobmanager/secrets; stat -c '%a %u' . token", secrets=secrets, user=user).stdout
        uid = 65534 if user is None else int(user.partition(":")[0])
        assert modes == b"700 %d\n400 %d\n" % (uid, uid)


@REAL_ONLY
def test_a_container_with_little_memory_wipes(place: Place) -> None:
    volume = place.volume()
    phase_before(place, volume, "touch a b c")
    assert wiped(place, volume, "work/*", limits=Limits(memory_mib=16, processes=1, workspace_mib=1)).stdout == b""
