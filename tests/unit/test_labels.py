"""Who owns a container: an owner is dead only when that is proven, or by lease where nobody here could see it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from dataclasses import replace

import pytest

from jobmanager.engine import labels as module
from jobmanager.engine.labels import JOB_LABEL, LEASE_LABEL, MANAGER_LABEL, OWNER_LABEL, Owner, abandonment_reason, labels
from jobmanager.model.container import ContainerInfo, ContainerStatus

ME = Owner.this_process()
ELSEWHERE = [
    replace(ME, boot="another boot"),
    replace(ME, pid_namespace="4026531999"),
    replace(ME, time_namespace="4026531999"),
    replace(ME, time_namespace=""),  # as labels were before they told it
    replace(ME, boot="b", pid_namespace="n", pid=1),
]


def container(owner, *, lease="100", created_at_s=1000.0):
    label = owner.label() if isinstance(owner, Owner) else owner
    given = {OWNER_LABEL: label, LEASE_LABEL: lease}
    return ContainerInfo(id="1", name="n", status=ContainerStatus.RUNNING, created_at_s=created_at_s,
                          labels={key: value for key, value in given.items() if value is not None})  # fmt: skip


def is_abandoned(found, now_s, closed=()):
    return abandonment_reason(found.labels, found.created_at_s, now_s, closed)


@pytest.fixture
def child():
    """A process that lives until its standard input is closed."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    yield process
    process.kill()
    process.communicate()


def owner_of(process):
    return replace(ME, pid=process.pid, started=module._started(process.pid))


def test_this_process_is_alive():
    assert ME.pid == os.getpid()
    assert ME.started
    assert not ME.is_proven_dead()


def test_a_label_gives_the_owner_back():
    assert Owner.parse(ME.label()) == ME


def test_a_label_of_a_version_that_told_no_time_namespace_is_read_and_proves_nothing(child):
    former = Owner.parse(f"{ME.boot}/{ME.pid_namespace}/{child.pid}/1")

    assert former == replace(ME, pid=child.pid, started="1", time_namespace="")
    assert not former.is_proven_dead()


def test_where_a_process_is_is_read_anew_after_a_fork(monkeypatch):
    """As after ``unshare(CLONE_NEWPID)``, which only the next child is in."""
    real, numbers = os.readlink, iter(["pid:[1]", "time:[2]", "pid:[3]", "time:[4]"])
    monkeypatch.setattr(module.os, "readlink", lambda path: next(numbers) if "/ns/" in path else real(path))

    before, after = Owner.this_process(), Owner.this_process()
    assert (before.pid_namespace, before.time_namespace) == ("1", "2")
    assert (after.pid_namespace, after.time_namespace) == ("3", "4")


def _status(monkeypatch, tmp_path, text):
    (tmp_path / "status").write_text(text)

    def opened(path, *args, **kwargs):
        return open(tmp_path / "status" if path == "/proc/self/status" else path, *args, **kwargs)

    monkeypatch.setattr(module, "open", opened, raising=False)


@pytest.mark.parametrize("text", ["NSpid:\t489\t3\n", "Name:\tpython\n", ""])
def test_where_proc_shows_another_pid_namespace_nobody_is_proven_dead(monkeypatch, tmp_path, text):
    _status(monkeypatch, tmp_path, text)

    assert not replace(ME, started="1").is_proven_dead()
    assert not is_abandoned(container(replace(ME, started="1")), now_s=1100.0)
    assert is_abandoned(container(replace(ME, started="1")), now_s=1100.1) == "its lease of 100 s is over"


def test_a_process_without_proc_owns_what_it_makes_and_judges_nobody(monkeypatch):
    def missing(path, *args, **kwargs):
        raise FileNotFoundError(path)

    module._boot.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(module, "open", missing, raising=False)
        patched.setattr(module.os, "readlink", missing)
        patched.setattr(module.os.path, "exists", lambda path: False)
        blind = Owner.this_process()
        assert Owner.parse(blind.label()) == blind
        assert not blind.is_proven_dead()
        assert not replace(blind, started="1").is_proven_dead()
    module._boot.cache_clear()
    assert not replace(blind, started="1").is_proven_dead()


@pytest.mark.parametrize(
    "label", ["", "/", "a/b/c", "a/b/c/d", "a/b/-1/d", "a/b/1.5/d", "a/b/1/d/e/f",
     "a/b/-/d/e", "a/b/²/d", "a/b/٣/d", "a/b/" + "9" * 5000 + "/d"]
)
def test_what_is_no_owners_label_is_nobodys_and_raises_nothing(label):
    assert Owner.parse(label) is None
    assert not is_abandoned(container(label), now_s=1e12)


def test_a_process_that_lives_is_no_dead_owner(child):
    assert not owner_of(child).is_proven_dead()
    assert not is_abandoned(container(owner_of(child)), now_s=1e12)  # not by lease either: it can be seen


def test_a_process_that_has_ended_is_proven_dead(child):
    owner = owner_of(child)
    child.kill()
    child.wait(10)

    assert owner.is_proven_dead()
    assert is_abandoned(container(owner, lease="1000000"), now_s=0.0) == f"its process {child.pid} has ended"


def test_a_zombie_is_dead(child):
    owner = owner_of(child)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has taken its exit code

    assert owner.is_proven_dead()


def test_another_process_with_the_same_number_is_not_the_owner(child):
    assert replace(owner_of(child), started="1").is_proven_dead()


@pytest.mark.parametrize("owner", ELSEWHERE)
def test_an_owner_that_cannot_be_seen_from_here_is_never_proven_dead(owner):
    assert not replace(owner, started="1").is_proven_dead()


@pytest.mark.parametrize("owner", ELSEWHERE)
def test_an_owner_elsewhere_is_dead_by_lease_only_and_by_the_engines_clock(owner):
    assert not is_abandoned(container(owner), now_s=1100.0)
    assert is_abandoned(container(owner), now_s=1100.1) == "its lease of 100 s is over"


@pytest.mark.parametrize("lease", [None, "", "x", "-1", "1.5", "inf", "²", "٣", "9" * 5000])
def test_without_a_lease_that_can_be_read_nobody_elsewhere_is_ever_dead(lease):
    assert not is_abandoned(container(ELSEWHERE[0], lease=lease), now_s=1e12)


def test_without_the_time_of_its_making_no_container_is_past_its_lease():
    assert not is_abandoned(container(ELSEWHERE[0], created_at_s=0.0), now_s=1e12)
    assert not is_abandoned(container(ELSEWHERE[0]), now_s=0.0)


def test_a_container_without_our_labels_is_left_alone():
    assert not is_abandoned(ContainerInfo(id="1", name="n", status=ContainerStatus.ENDED, created_at_s=1.0), now_s=1e12)


def test_the_labels_of_a_job_tell_everything_that_a_sweep_needs():
    given = labels("manager", "job", 930.7, ME)

    assert given == {MANAGER_LABEL: "manager", JOB_LABEL: "job", OWNER_LABEL: ME.label(), LEASE_LABEL: "930"}
    assert all(isinstance(value, str) for value in given.values())


# ---- managers that have closed in a process that lives


def test_what_a_closed_manager_of_a_living_process_left_is_abandoned():
    owned = labels("old", "job", 100, ME)
    found = ContainerInfo(id="1", name="n", status=ContainerStatus.RUNNING, created_at_s=1000.0, labels=owned)

    assert is_abandoned(found, 1000.0, {"old"}) == "its manager has closed"
    assert is_abandoned(found, 1e12, {"another"}) == ""


def test_without_an_owners_label_even_a_closed_managers_id_makes_nothing_abandoned():
    found = ContainerInfo(id="1", name="n", status=ContainerStatus.RUNNING, labels={MANAGER_LABEL: "old"})

    assert not is_abandoned(found, 1e12, {"old"})


def test_the_latest_thousand_closed_managers_are_remembered(monkeypatch):
    monkeypatch.setattr(module, "_closed", deque(maxlen=1000))
    for number in range(1001):
        module.mark_closed(f"m{number}")

    assert module.closed_managers() == {f"m{number}" for number in range(1, 1001)}


# ---- /proc mounted with hidepid: other users' processes are there and cannot be seen


def _proc_that_hides(monkeypatch, error, signal_error):
    """A /proc that tells nothing of others, and a kernel that knows them."""

    def hidden(path, *args):
        if path.startswith("/proc/self/"):
            return open(path, *args)
        raise error

    def signal_0(pid, signal):
        if signal_error is not None:
            raise signal_error

    monkeypatch.setattr(module, "open", hidden, raising=False)
    monkeypatch.setattr(module.os, "kill", signal_0)


@pytest.mark.parametrize("error", [FileNotFoundError(), PermissionError(), ProcessLookupError()], ids=repr)
def test_another_users_living_process_that_is_hidden_is_not_dead(monkeypatch, error):
    _proc_that_hides(monkeypatch, error, PermissionError())

    assert not replace(ME, pid=123, started="5").is_proven_dead()
    assert not is_abandoned(container(replace(ME, pid=123, started="5")), now_s=1e12)


@pytest.mark.skipif(sys.platform != "linux", reason="hidepid is Linux's")
@pytest.mark.parametrize("error", [FileNotFoundError(), PermissionError()], ids=repr)
def test_our_own_users_living_process_that_is_hidden_as_it_cannot_be_dumped_is_not_dead(monkeypatch, error):
    _proc_that_hides(monkeypatch, error, None)

    assert not replace(ME, pid=123, started="5").is_proven_dead()


def test_a_number_that_no_process_can_have_is_nobodys():
    assert replace(ME, pid=10**17, started="5").is_proven_dead()


def test_a_process_that_the_kernel_does_not_know_is_dead_even_where_proc_hides(monkeypatch):
    _proc_that_hides(monkeypatch, FileNotFoundError(), ProcessLookupError())

    assert replace(ME, pid=123, started="5").is_proven_dead()
