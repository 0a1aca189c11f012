"""The seccomp profile that goes along with every container: what it leaves out, and that an engine can read it."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest

from jobmanager.engine.docker.seccomp import seccomp_profile

F_SETLEASE = 1024
PROFILE = json.loads(seccomp_profile())
ALLOWED = [rule for rule in PROFILE["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW"]
FREELY = [name for rule in ALLOWED if not rule["args"] for name in rule["names"]]
NEVER = """
    acct add_key adjtimex bpf chroot clock_adjtime clock_settime delete_module fanotify_init finit_module fsconfig fsmount fsopen
    fspick init_module io_setup io_submit io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load
    kexec_load keyctl lookup_dcookie mbind migrate_pages modify_ldt mount mount_setattr move_mount move_pages name_to_handle_at
    nfsservctl open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_madvise process_vm_readv
    process_vm_writev query_module quotactl quotactl_fd reboot request_key set_mempolicy setdomainname sethostname setns
    settimeofday socketcall stime swapoff swapon sync syncfs syslog umount umount2 unshare userfaultfd uselib vhangup
"""


@pytest.mark.parametrize("name", NEVER.split())
def test_a_call_that_no_ordinary_program_needs_is_not_allowed(name):
    assert name not in {name for rule in ALLOWED for name in rule["names"]}


def test_what_is_not_named_is_refused():
    assert PROFILE["defaultAction"] == "SCMP_ACT_ERRNO"


def test_tracing_is_allowed_where_the_kernel_filters_what_a_tracer_changes() -> None:
    (rule,) = (rule for rule in ALLOWED if "ptrace" in rule["names"])
    assert (rule["names"], rule["includes"]) == (["ptrace"], {"minKernel": "4.8"})


def test_no_call_is_named_twice():
    assert len(FREELY) == len(set(FREELY))


def test_sockets_are_allowed_by_family_and_new_namespaces_never():
    arguments = {name: [rule["args"] for rule in ALLOWED if name in rule["names"]] for name in ("socket", "clone")}

    assert [[(item["index"], item["value"]) for item in items] for items in arguments["socket"]] == [
        [(0, 1)],
        [(0, 2)],
        [(0, 10)],
        [(0, 16), (2, 0)],
    ]
    assert arguments["clone"] == [[{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]]


def test_only_the_processors_own_kind_of_calls_is_allowed():
    assert {entry["architecture"]: entry["subArchitectures"] for entry in PROFILE["archMap"]} == {
        "SCMP_ARCH_X86_64": [],
        "SCMP_ARCH_AARCH64": [],
    }


def test_a_student_container_can_make_no_file_that_leads_elsewhere_or_blocks() -> None:
    narrow = json.loads(seccomp_profile(special_files=False))["syscalls"]
    names = {name for rule in narrow for name in rule["names"]}
    assert {name for rule in PROFILE["syscalls"] for name in rule["names"]} - names == {"symlink", "symlinkat", "mknod", "mknodat"}


def test_a_student_container_can_take_no_lease_and_do_all_else_with_a_descriptor() -> None:
    rules = [rule for rule in json.loads(seccomp_profile(special_files=False))["syscalls"] if "fcntl" in rule["names"]]
    assert all(len(rule["args"]) == 1 and rule["args"][0]["index"] == 1 for rule in rules)
    masks = [(rule["args"][0]["value"], rule["args"][0]["valueTwo"]) for rule in rules]

    def is_allowed(command: int) -> bool:
        return any(command & mask == wanted for mask, wanted in masks)

    assert not any(map(is_allowed, (F_SETLEASE, F_SETLEASE | 1 << 32)))
    assert all(map(is_allowed, (*range(64), *range(1028, 1040))))


GUARDED = json.loads(seccomp_profile(protects_pid_1=True))["syscalls"]
SCHEDULING = ("sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler")
HIGHEST_PROCESS = 2**22 - 1  # of 64-bit kernels
OTHER_PROCESSES = (2, 3, 7, 1000, HIGHEST_PROCESS, *(1 << bit for bit in range(1, 22)), *(1 | 1 << bit for bit in range(1, 22)))
FIRST_PROCESS = (1, 1 | 1 << 32, 1 | 1 << 63, 0xFFFFFFFF_00000001)  # the kernel reads 32 bits


def is_let_through(name: str, *arguments: int) -> bool:
    """What the kernel's filter would say."""
    rules = [rule for rule in GUARDED if name in rule["names"] and rule["action"] == "SCMP_ACT_ALLOW"]
    return any(all(_fits(condition, arguments[condition["index"]]) for condition in rule["args"]) for rule in rules)


def _fits(condition: dict[str, Any], argument: int) -> bool:
    if condition["op"] == "SCMP_CMP_EQ":
        return bool(argument == condition["value"])
    assert condition["op"] == "SCMP_CMP_MASKED_EQ"
    return bool(argument & condition["value"] == condition["valueTwo"])


@pytest.mark.parametrize("name", SCHEDULING)
def test_threads_can_be_scheduled_and_pid_1_cannot(name: str) -> None:
    assert all(is_let_through(name, number) for number in (0, *OTHER_PROCESSES))
    assert not any(is_let_through(name, number) for number in FIRST_PROCESS)


def test_each_rule_on_scheduling_allows_what_differs_from_1_in_one_bit() -> None:
    rules = [rule["args"] for rule in GUARDED if SCHEDULING[0] in rule["names"]]
    masks = [(condition["value"], condition["valueTwo"]) for (condition,) in rules]
    assert masks == [(1, 0), *((1 << bit, 1 << bit) for bit in range(1, 22))]


def test_limits_and_priorities_can_be_set_for_the_caller_only() -> None:
    process, group, user = 0, 1, 2
    assert is_let_through("prlimit64", 0) and is_let_through("setpriority", process, 0)
    assert is_let_through("ioprio_set", 1, 0)
    for number in (*FIRST_PROCESS, *OTHER_PROCESSES):
        assert not is_let_through("prlimit64", number)
        assert not is_let_through("setpriority", process, number) and not is_let_through("ioprio_set", 1, number)
    for number in (0, 1, 65534):
        assert not any(is_let_through("setpriority", kind, number) for kind in (group, user, group | 1 << 32))
        assert not any(is_let_through("ioprio_set", kind, number) for kind in (2, 3))


def test_no_pipe_that_pid_1_reads_can_be_held() -> None:
    assert not is_let_through("splice") and not is_let_through("sendfile")
    refusals = [rule for rule in GUARDED if "splice" in rule["names"]]
    assert [(rule["names"], rule["action"], rule["errnoRet"]) for rule in refusals] == [
        (["splice", "sendfile"], "SCMP_ACT_ERRNO", errno.EINVAL)
    ]


def test_the_protection_of_pid_1_changes_nothing_else() -> None:
    changed = {*SCHEDULING, "prlimit64", "setpriority", "ioprio_set", "splice", "sendfile"}

    def others(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
        left = [{**rule, "names": [name for name in rule["names"] if name not in changed]} for rule in rules]
        return [rule for rule in left if rule["names"]]

    assert others(GUARDED) == others(PROFILE["syscalls"])
    assert {name for rule in GUARDED for name in rule["names"]} == {name for rule in PROFILE["syscalls"] for name in rule["names"]}
