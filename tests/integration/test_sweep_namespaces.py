"""Managers in other namespaces of one machine, on one engine: the living are spared, wherever who sweeps may be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import pytest

from jobmanager import JobManager
from jobmanager.engine.connect import connect
from jobmanager.engine.labels import Owner
from jobmanager.engine.leftovers import remove_leftovers, survey
from jobmanager.engine.protocol import Engine
from jobmanager.model.host import Address
from tests.conftest import eventually, our_containers
from tests.support.daemons import PrivateDaemon

# What both ends of a test are: a process that makes a container and lives on, and one that says which containers it
# would sweep.
_MAKE = """
import secrets, sys, os
from jobmanager.engine.connect import connect
from jobmanager.engine.labels import Owner, labels
from jobmanager.model.container import ContainerSpec, ImageDefaults
from jobmanager.model.host import Address
from jobmanager import Limits

def make(url, lease_s=1000):
    engine = connect(Address(host="h", url=url), timeout_s=20)
    name = f"jobmanager-test-{secrets.token_hex(6)}"
    made_by = labels("m1", "j1", lease_s, Owner.this_process())
    spec = ContainerSpec(name=name, image="jobmanager-busybox:1", labels=made_by, limits=Limits())
    engine.create(spec, ImageDefaults(command=(), volumes=()))
    engine.close()
    print(name, flush=True)
"""
_MAKE_AND_LIVE = _MAKE + "make(sys.argv[1]); sys.stdin.read()"
_MAKE_AND_END = _MAKE + "make(sys.argv[1], float(sys.argv[2]))"
_FORK = (
    _MAKE
    + """
import ctypes
Owner.this_process()  # a manager of the parent's, as with gunicorn --preload
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x20000000) == 0, "CLONE_NEWPID"
child = os.fork()
if child == 0:
    if sys.argv[2] == "own-proc":
        import subprocess
        assert libc.unshare(0x20000) == 0, "CLONE_NEWNS"
        subprocess.run("mount --make-rprivate / && mount -t proc proc /proc", shell=True, check=True)
    make(sys.argv[1])
    sys.stdin.read()
    os._exit(0)
os.waitpid(child, 0)
"""
)
_SURVEY = """
import json, sys
from jobmanager.engine.leftovers import survey
from jobmanager.engine.connect import connect
from jobmanager.model.host import Address
engine = connect(Address(host="h", url=sys.argv[1]), timeout_s=20)
print(json.dumps({each.name: each.why for each in survey(engine).leftovers}))
engine.close()
"""

HERE: list[str] = []
NEW_PID = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
NEW_PID_OLD_PROC = ["unshare", "--pid", "--fork", "--kill-child"]
NEW_TIME = ["unshare", "--time", "--boottime", "1000000", "--fork", "--kill-child"]
NEW_BOTH = ["unshare", "--time", "--boottime", "5", "--pid", "--fork", "--kill-child", "--mount-proc"]
PLACES = {"here": HERE, "pid": NEW_PID, "pid, old /proc": NEW_PID_OLD_PROC, "time": NEW_TIME, "pid and time": NEW_BOTH}

pytestmark = pytest.mark.daemon


@pytest.fixture
def url(private_engine: PrivateDaemon) -> Iterator[str]:
    yield private_engine.url
    engine = connect(Address(host="private", url=private_engine.url), timeout_s=20)
    for found in engine.list({"jobmanager.manager": None}):
        engine.remove(found.id)
    engine.close()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = connect(Address(host="private", url=url), timeout_s=20)
    yield engine
    engine.close()


@contextmanager
def living(command: list[str], url: str, *more: str) -> Iterator[str]:
    """A process that has made a container and lives; the container's name."""
    process = subprocess.Popen([*command, url, *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def would_be_swept(place: list[str], url: str) -> dict[str, str]:
    found = subprocess.run([*place, *python(_SURVEY), url], stdout=subprocess.PIPE, check=True, timeout=60)
    names: dict[str, str] = json.loads(found.stdout)
    return names


@pytest.mark.parametrize(
    ("owner", "sweeper"),
    [pair for pair in product(PLACES, PLACES) if "here" in pair or pair[0] == pair[1]],
    ids=lambda place: place,
)
def test_a_living_owners_container_is_spared_from_everywhere(url: str, owner: str, sweeper: str) -> None:
    with living([*PLACES[owner], *python(_MAKE_AND_LIVE)], url) as name:
        assert name
        assert would_be_swept(PLACES[sweeper], url) == {}


@pytest.mark.parametrize("sweeper", [HERE, NEW_PID, NEW_TIME], ids=["here", "pid", "time"])
@pytest.mark.parametrize("proc", ["own-proc", "old-proc"])
def test_a_process_that_was_forked_into_a_new_pid_namespace_owns_what_it_makes(url: str, proc: str, sweeper: list[str]) -> None:
    with living(python(_FORK), url, proc) as name:
        assert name
        assert would_be_swept(sweeper, url) == {}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_dead_owner_is_found_by_who_could_see_it_and_by_lease_from_elsewhere(url: str, place: list[str]) -> None:
    """In one namespace one after the other: who made it has ended when the other looks."""
    both = f"{sys.executable} -c '{_MAKE_AND_END}' {url} 1000 && exec {sys.executable} -c '{_SURVEY}' {url}"
    told = subprocess.run([*place, "sh", "-c", both], stdout=subprocess.PIPE, check=True, timeout=60, text=True).stdout
    name, found = told.strip().split("\n")
    seen: dict[str, str] = json.loads(found)

    if place is NEW_PID_OLD_PROC:
        assert seen == {}, "nobody there can be seen"
    else:
        assert seen.keys() == {name} and "has ended" in seen[name]
    assert would_be_swept(HERE if place is not HERE else NEW_TIME, url) == {}, "not proven elsewhere, and its lease runs"


@pytest.mark.parametrize("place", [NEW_PID, NEW_PID_OLD_PROC, NEW_TIME], ids=["pid", "pid, old /proc", "time"])
def test_what_was_left_elsewhere_is_removed_when_its_lease_is_over(url: str, engine: Engine, place: list[str]) -> None:
    subprocess.run([*place, *python(_MAKE_AND_END), url, "0"], stdout=subprocess.DEVNULL, check=True, timeout=60)

    def over() -> bool:
        return [each.why for each in survey(engine).leftovers] == ["its lease of 0 s is over"]

    eventually(over, what="the lease is over")
    assert [removal.error for removal in remove_leftovers(engine, survey(engine).leftovers)] == [""]
    assert not our_containers(url)


def test_a_manager_sweeps_the_dead_beside_a_living_neighbour_of_another_namespace(url: str) -> None:
    with living(python(_FORK), url, "own-proc") as forked, living([*NEW_TIME, *python(_MAKE_AND_LIVE)], url) as in_time:
        subprocess.run([*python(_MAKE_AND_END), url, "1000"], stdout=subprocess.DEVNULL, check=True, timeout=60)
        assert len(our_containers(url)) == 3

        with JobManager(url):
            eventually(lambda: sorted(our_containers(url)) == sorted([forked, in_time]), what="the dead one's is swept")


def test_what_a_former_version_left_is_judged_by_its_lease_only(url: str, engine: Engine) -> None:
    former = replace(Owner.this_process(), started="1", time_namespace="")
    code = _MAKE.replace("Owner.this_process()", f"Owner.parse({former.label().rstrip('/')!r})")
    for lease in ("1000", "0"):
        subprocess.run([*python(code + "make(sys.argv[1], float(sys.argv[2]))"), url, lease], stdout=subprocess.DEVNULL, check=True)

    eventually(lambda: survey(engine).leftovers, what="one lease is over")
    assert [each.why for each in survey(engine).leftovers] == ["its lease of 0 s is over"]
