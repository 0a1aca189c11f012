"""PID 1 wipes volumes before it starts the program. What is there is a stranger's: the fake engine knows plain files only."""

from __future__ import annotations

import shlex

import pytest

from dev.image_store import PYTHON
from jobmanager.model.container import VolumeMount
from jobmanager.model.limits import Limits
from tests.conftest import BUSYBOX
from tests.contract.conftest import REAL_ONLY
from tests.contract.place import Place, Run

OF_ALL_SHELLS = pytest.mark.parametrize("image", [BUSYBOX, PYTHON])  # ash and busybox's programs; dash and GNU's


def phase_before(place: Place, volume: VolumeMount, script: str) -> None:
    """What a container of the submitter's leaves in the volume, which it keeps alive."""
    run = place.run(f"cd /volumes/work; {script}", volumes=(volume,))
    assert (run.end.exit_code, run.stderr) == (0, b"")


def wiped(place: Place, volume: VolumeMount, *patterns: str, command: str = "cd /volumes/work; ls -A", **options: object) -> Run:
    return place.run(command, volumes=(volume,), wipe=patterns, **options)


def test_what_matches_is_gone_before_the_program_starts_and_the_rest_stays(place: Place) -> None:
    volume = place.volume()
    phase_before(place, volume, "mkdir reports deep deep/er; touch reports/a.json reports/b.json reports/c d.json deep/er/e")

    run = wiped(place, volume, "work/reports/*.json", "work/deep/*", command="cd /volumes/work; ls; ls reports")

    assert run.stdout == b"d.json\ndeep\nreports\nc\n"


def test_a_star_matches_no_leading_dot_and_a_dot_star_never_leaves_the_volume(place: Place) -> None:
    volume, other = place.volume("work"), place.volume("other")
    place.run("cd /volumes/work; touch .hidden seen; mkdir .d .d/x; touch ../other/kept", volumes=(volume, other))
    assert wiped(place, volume, "work/*").stdout.split() == [b".d", b".hidden"]

    command = "ls -A /volumes/work; echo and; ls -A /volumes/other"
    run = place.run(command, volumes=(volume, other), wipe=["work/.*", "work/.*/*"])

    assert run.stdout == b"and\nkept\n"


def test_a_pattern_with_a_space_is_one_pattern(place: Place) -> None:
    volume = place.volume()
    phase_before(place, volume, "echo 1 > 'a b1'; echo 1 > a; echo 1 > b1")
    assert wiped(place, volume, "work/a b*").stdout == b"a\nb1\n"


def test_what_is_not_there_needs_no_wiping(place: Place) -> None:
    volume = place.volume()
    phase_before(place, volume, "touch file")
    run = wiped(place, volume, "work/none", "work/no/*/thing", "work/file/x", "work/*.json")
    assert run.stdout == b"file\n"


def test_a_volume_that_cannot_be_written_to_is_refused_when_something_is_to_be_wiped(place: Place) -> None:
    volume = place.volume()
    phase_before(place, volume, "echo 1 > a")
    mount = VolumeMount(name=volume.name, path=volume.path, size_mib=1, read_only=True)

    run = wiped(place, mount, "work/a")

    assert run.words == ["got", "no"]
    assert run.rest("no") == "'work/a' cannot be wiped: something is left that cannot be removed"


def test_a_volume_that_the_container_does_not_have_is_refused(place: Place) -> None:
    run = place.run("echo started", wipe=["work/a"])
    assert (run.words, run.stdout) == (["got", "no"], b"")


@REAL_ONLY
@OF_ALL_SHELLS
def test_ten_thousand_files_are_wiped(place: Place, image: str) -> None:
    place.image = image
    volume = place.volume(size_mib=256)
    long = "x" * 200
    phase_before(place, volume, f"i=0; while [ $i -lt 10000 ]; do printf '' > {long}$i; i=$((i+1)); done")
    assert wiped(place, volume, f"work/{long[:9]}*", command="ls /volumes/work | wc -l").stdout == b"0\n"


HOSTILE_NAMES = [" ", "a b", "-rf", "--", "-", "\n", "a\nb", "'", '"', "$(touch x)", "`touch x`"]
HOSTILE_NAMES += ["*", "?", "[a]", "\\", "\\*", ";", "~", "\t", "é", "a" * 255]


@REAL_ONLY
@OF_ALL_SHELLS
@pytest.mark.parametrize("place_of_it", ["{}", "d/{}", "{}/d"])
def test_hostile_names_are_names(place: Place, image: str, place_of_it: str) -> None:
    place.image = image
    volume = place.volume()
    paths = [place_of_it.format(name) for name in HOSTILE_NAMES]
    made = "; ".join(f"mkdir -p ./{shlex.quote(path.rpartition('/')[0])}; echo > ./{shlex.quote(path)}" for path in paths)
    phase_before(place, volume, f"{made}; touch .kept")
    pattern = "work/" + place_of_it.format("*")
    left = wiped(place, volume, pattern, command=f"cd /volumes/work; find . -type f; ls -d {place_of_it.format('*')} || echo none")
    assert left.stdout == b"./.kept\nnone\n"


@REAL_ONLY
@OF_ALL_SHELLS
def test_bytes_that_are_no_text_are_wiped(place: Place, image: str) -> None:
    place.image = image
    volume = place.volume()
    phase_before(place, volume, "touch $(printf '\\377\\200x') $(printf 'a\\001\\033[2J')")
    assert wiped(place, volume, "work/*").stdout == b""


@REAL_ONLY
@OF_ALL_SHELLS
def test_links_are_removed_themselves_and_never_followed(place: Place, image: str) -> None:
    place.image = image
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
@OF_ALL_SHELLS
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
def test_what_is_closed_to_its_owner_is_opened_and_wiped(place: Place, image: str, script: str) -> None:
    place.image = image
    volume = place.volume()
    phase_before(place, volume, script)
    run = wiped(place, volume, "work/d/*.json", command="cd /volumes/work; ls -ld d; ls -A d")
    assert (run.words[-1], len(run.stdout.splitlines())) == ("bye", 1), run


@REAL_ONLY
@OF_ALL_SHELLS
@pytest.mark.parametrize("mode", ["0755", "0700", "0711", "0"])
def test_what_belongs_to_another_user_is_a_refusal_and_never_seems_to_be_absent(place: Place, image: str, mode: str) -> None:
    place.image = image
    volume = place.volume()
    phase_before(place, volume, f"mkdir d; touch d/a.json; chmod {mode} d")

    run = wiped(place, volume, "work/d/*.json", command="echo started", user="0:0")

    assert (run.words, run.stdout) == (["got", "no"], b"")
    assert "'work/d/*.json' cannot be wiped" in run.rest("no")


@REAL_ONLY
@OF_ALL_SHELLS
def test_a_deep_tree_is_wiped_or_refused(place: Place, image: str) -> None:
    place.image = image
    volume = place.volume(size_mib=64)
    half = "/".join("d" * 1500)
    phase_before(place, volume, f"mkdir -p a/{half} b/{half}; mv b a/{half}")

    run = wiped(place, volume, "work/a", command="echo started; ls -A /volumes/work")

    assert (run.words[-1], run.stdout) in (("bye", b"started\n"), ("no", b""))


@pytest.mark.parametrize("user", [None, "0:0", "0:65534", "1000:1000"])
def test_secrets_are_files_that_only_the_containers_user_can_read(place: Place, user: str | None) -> None:
    secrets = {"token": b"\0s3cret\n", "other": b""}
    command = "cd .jobmanager/secrets; ls; cat token; stat -c '%a %u' . token || :"

    run = place.run(command, secrets=secrets, user=user)

    assert run.stdout.startswith(b"other\ntoken\n\0s3cret\n")
    if place.address.host != "fake":
        uid = 65534 if user is None else int(user.partition(":")[0])
        assert run.stdout.endswith(b"\n700 %d\n400 %d\n" % (uid, uid))


@REAL_ONLY
@OF_ALL_SHELLS
def test_a_container_with_little_memory_wipes(place: Place, image: str) -> None:
    place.image = image
    volume = place.volume()
    phase_before(place, volume, "touch a b c")
    assert wiped(place, volume, "work/*", limits=Limits(memory_mib=16, processes=1, workspace_mib=1)).stdout == b""
