"""What a container may be opened for: another user, devices, and all rights. The fake engine has neither users nor devices."""

from __future__ import annotations

from contextlib import suppress

import pytest

from jobmanager.engine.protocol import EngineFailed, Refused
from tests.contract.conftest import REAL_ONLY
from tests.contract.place import Place

USERS = ["0:0", "1000:1000", "1000", "root", "nobody"]
KINDS = ("/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/loop-control")  # some machines have one, some another
SHOW = "id -u; cat /proc/self/status"


def a_device(place: Place) -> str:
    """One that the engine's machine has, which may be another than this one."""
    for path in KINDS:
        with suppress(EngineFailed, Refused):
            place.started(devices=(path,))
            return path
    pytest.skip(f"the engine's machine has none of {', '.join(KINDS)}")


def status(text: bytes) -> dict[str, str]:
    return {line.split(":")[0]: line.partition(":")[2].strip() for line in text.decode().splitlines() if ":" in line}


@REAL_ONLY
@pytest.mark.parametrize("user", USERS)
def test_a_program_of_any_user_can_write_where_programs_may(place: Place, user: str) -> None:
    volume = place.volume()
    run = place.run(
        "for d in /job /tmp /volumes/work; do echo $d > $d/a && cat $d/a; done; mkdir /tmp/d && rm -rf /tmp/d a",
        user=user,
        files={"deep/b": b""},
        volumes=(volume,),
    )
    assert (run.stdout, run.stderr, run.ended.code) == (b"/job\n/tmp\n/volumes/work\n", b"", 0)


@REAL_ONLY
@pytest.mark.parametrize(("user", "ids"), [("0:0", "0 0"), ("1000:1001", "1000 1001"), (None, "65534 65534"), ("root", "0 0")])
def test_a_program_has_the_user_that_was_asked_for_and_no_capabilities(place: Place, user: str | None, ids: str) -> None:
    run = place.run("echo $(id -u) $(id -g); cat /proc/self/status; touch /x /etc/x", user=user)
    found = status(run.stdout)
    assert run.stdout.partition(b"\n")[0].decode() == ids
    assert {found[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapInh")} == {"0" * 16}
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert run.stderr.count(b"Read-only file system") == 2


@REAL_ONLY
def test_tmp_belongs_to_the_containers_user(place: Place) -> None:
    assert place.run("stat -c %u /tmp", user="1000:1000").stdout == b"1000\n"
    assert place.run("stat -c %u /tmp").stdout == b"65534\n"


@REAL_ONLY
@pytest.mark.parametrize("user", [None, *USERS])
def test_a_program_of_any_user_can_write_to_the_volumes_of_its_image(place: Place, user: str | None) -> None:
    run = place.run("echo 1 > /data/deep/a && cat /data/deep/a", user=user, image_volumes=("/data/deep", "/tmp/"))
    assert (run.stdout, run.stderr) == (b"1\n", b"")


@REAL_ONLY
def test_a_user_that_the_image_does_not_know_is_refused_in_words(place: Place) -> None:
    with pytest.raises((Refused, EngineFailed), match="no-such-user"):
        place.started(user="no-such-user")


@REAL_ONLY
def test_a_container_may_have_a_device_of_the_host(place: Place) -> None:
    device = a_device(place)
    tries = f"[ -c {device} ] && echo there && : 3<>{device} && echo opened"
    assert place.run(tries, user="0:0", devices=(device,)).stdout == b"there\nopened\n"
    assert place.run(tries, user="0:0").stdout == b""


@REAL_ONLY
def test_a_device_that_the_host_lacks_is_refused_in_words(place: Place) -> None:
    with pytest.raises((Refused, EngineFailed), match="/dev/no-such-device"):
        place.started(devices=("/dev/no-such-device",))


@REAL_ONLY
def test_a_privileged_container_has_all_rights_but_new_ones_and_its_root_stays_read_only(place: Place) -> None:
    try:
        run = place.run(f"{SHOW}; ls /dev | wc -l; mount -t tmpfs none /tmp && echo mounted; touch /x", user="0:0", privileged=True)
    except EngineFailed as error:
        if "unable to apply caps" not in str(error):
            raise
        pytest.skip("this machine does not give all capabilities to its engine")
    found = status(run.stdout)
    assert int(found["CapEff"], 16) & (1 << 21)  # CAP_SYS_ADMIN
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "0")
    assert run.stdout.endswith(b"mounted\n")
    assert b"Read-only file system" in run.stderr
