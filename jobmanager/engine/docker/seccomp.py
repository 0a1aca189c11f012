"""Which system calls a job may make: a seccomp profile that goes along with every container.

It is no wider than the engine's own default, of 20.10.24 or of 29: what both allow a container without capabilities, less
what no ordinary program needs and other programs of the same host can be reached, held up or attacked through.

- Sockets of four families only. vsock knows no network namespace, so it would lead from a job without a network to the
  hypervisor; AF_ALG and the rest are little used code of the kernel.
- No io_uring, process_vm_*, keyrings, userfaultfd, bpf, perf.
- No sync and syncfs, which write out the whole host's disks; no io_setup, whose queues are counted for the whole host.
- No calls of a 32-bit kind on a 64-bit processor. On x86 they make sockets by socketcall, whose arguments no filter can see,
  and the filter library lets socketcall pass when it is told to let socket pass. A 32-bit program ends by SIGSYS.

A call that is not named fails with EPERM; one that is newer than all that are named with ENOSYS, as the runtime adds, so that
programs take it for one that the kernel lacks. The names are those of x86_64 and of arm64; the runtime passes over one that the
host's processor or filter library does not know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache

_FILES = """
    access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate
    fchdir fchmod fchmodat fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync
    ftruncate futimesat getcwd getdents getdents64 getxattr ioctl lchown lgetxattr link linkat listxattr llistxattr lremovexattr
    lseek lsetxattr lstat mkdir mkdirat mknod mknodat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev
    pwritev2 read readahead readlink readlinkat readv removexattr rename renameat renameat2 rmdir sendfile setxattr splice stat
    statfs statx symlink symlinkat sync_file_range tee truncate umask unlink unlinkat utime utimensat utimes vmsplice write
    writev
"""
_WAITING = """
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch pipe pipe2 poll ppoll pselect6 select signalfd signalfd4
"""
_MEMORY = """
    arch_prctl brk madvise membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap msync munlock munlockall
    munmap
"""
_PROCESSES = """
    capget capset execve execveat exit exit_group fork futex futex_waitv get_robust_list getcpu getpgid getpgrp getpid getppid
    getpriority getrlimit getrusage getsid gettid ioprio_get ioprio_set landlock_add_rule landlock_create_ruleset
    landlock_restrict_self pidfd_open prctl prlimit64 rseq sched_get_priority_max sched_get_priority_min sched_getaffinity
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp set_robust_list set_tid_address setpgid setpriority setrlimit setsid sysinfo times
    uname vfork wait4 waitid
"""
_USERS = """
    getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid setgid setgroups setregid setresgid setresuid
    setreuid setuid
"""
_SIGNALS = """
    kill pause pidfd_send_signal restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sigaltstack tgkill tkill
"""
_TIME = """
    alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time timer_create timer_delete
    timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime
"""
_BETWEEN_PROCESSES = """
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop
    semtimedop shmat shmctl shmdt shmget
"""
_SOCKETS = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto
    setsockopt shutdown socketpair
"""
_RANDOM = "getrandom"
_GROUPS = (_FILES, _WAITING, _MEMORY, _PROCESSES, _USERS, _SIGNALS, _TIME, _BETWEEN_PROCESSES, _SOCKETS, _RANDOM)

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE = 0  # to list addresses; the others configure firewalls, audits and the like
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)  # Linux, 32 bits, uname as of 2.6, both, and asking which it is
_NEW_NAMESPACES = 0x7E020000
_EINVAL, _ENOSYS = 22, 38
_SCHEDULING = ("sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler")
_HOLDING_PIPES = ("splice", "sendfile")
_AGAINST_PID_1 = frozenset({"prlimit64", "setpriority", "ioprio_set", *_SCHEDULING, *_HOLDING_PIPES})
_PID_BITS = 22  # of the highest number that a process can have, on 64-bit kernels
_PRIO_PROCESS, _IOPRIO_WHO_PROCESS = 0, 1


_WITH_SPECIAL_FILES = frozenset({"symlink", "symlinkat", "mknod", "mknodat", "fcntl"})  # the last is let through in part
_OF_LINUX_ONLY = 0x400  # fcntl's commands from 1024 on; F_SETLEASE is the first, and neither of these two has its bits:
_OTHERS_OF_LINUX = (0x404, 0x408)  # F_DUPFD_CLOEXEC, pipe sizes, seals, hints


@cache
def seccomp_profile(*, special_files: bool = True, protects_pid_1: bool = False) -> str:
    """The profile as JSON, as the Docker API takes it behind ``seccomp=``.

    Without ``special_files`` no symbolic link, fifo or device node can be made, and no lease taken: what a submitter's program
    leaves for a grader then leads nowhere else, and blocks nobody who opens it.

    With ``protects_pid_1`` no call of a program of the same user can slow down PID 1, lower its limits, or make it stand still:
    rlimits, nice and I/O priority can be set for the caller itself only, and how a process is scheduled for all but PID 1.
    """
    left_out = (frozenset() if special_files else _WITH_SPECIAL_FILES) | (_AGAINST_PID_1 if protects_pid_1 else frozenset())
    rules = [
        *(_allowed(_without(left_out, group)) for group in _GROUPS),
        *(() if special_files else _fcntl_without_leases()),
        *(_away_from_pid_1() if protects_pid_1 else ()),
        *(_allowed("socket", _equals(0, family)) for family in (_AF_UNIX, _AF_INET, _AF_INET6)),
        _allowed("socket", _equals(0, _AF_NETLINK), _equals(2, _NETLINK_ROUTE)),
        *(_allowed("personality", _equals(0, value)) for value in _PERSONALITIES),
        _allowed("clone", _has_none_of(0, _NEW_NAMESPACES)),
        _ptrace(),
        # its flags are out of a filter's sight: C libraries then fall back on clone
        _refused(_ENOSYS, "clone3"),
    ]
    architectures = [{"architecture": f"SCMP_ARCH_{name}", "subArchitectures": []} for name in ("X86_64", "AARCH64")]
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "archMap": architectures, "syscalls": rules}, separators=(",", ":"))


def _without(left_out: frozenset[str], group: str) -> str:
    return " ".join(name for name in group.split() if name not in left_out)


def _fcntl_without_leases() -> list[dict[str, object]]:
    """Who opens a file that somebody has a lease on waits for him. The kernel reads the lower half of the argument only."""
    return [
        _allowed("fcntl", _has_none_of(1, _OF_LINUX_ONLY)),
        *(_allowed("fcntl", _has_all_of(1, bits)) for bits in _OTHERS_OF_LINUX),
    ]


def _away_from_pid_1() -> Iterator[dict[str, object]]:
    """The scheduling calls are let through for all numbers but 1: OpenMP and the JVM call them for single threads.

    The kernel reads the lower 32 bits of a process's number, so "is not 1" would let 0x100000001 through, which is PID 1, too.
    Each bit that a number can have has a rule of its own: that it is not as in 1. Each rule costs time at each start.

    splice and sendfile wait for a socket while they hold a pipe's lock, and whoever then reads from the pipe or writes to it
    cannot even be killed: it would be PID 1. They fail as for a kind of file that cannot be spliced: programs then copy.
    """
    yield _allowed("prlimit64", _equals(0, 0))
    yield _allowed("setpriority", _equals(0, _PRIO_PROCESS), _equals(1, 0))
    yield _allowed("ioprio_set", _equals(0, _IOPRIO_WHO_PROCESS), _equals(1, 0))
    yield _refused(_EINVAL, *_HOLDING_PIPES)
    scheduling = " ".join(_SCHEDULING)
    yield _allowed(scheduling, _has_none_of(0, 1))
    for bit in range(1, _PID_BITS):
        yield _allowed(scheduling, _has_all_of(0, 1 << bit))


def _allowed(names: str, *arguments: dict[str, object]) -> dict[str, object]:
    """A rule for calls whose arguments all fit."""
    return {"names": names.split(), "action": "SCMP_ACT_ALLOW", "args": arguments}


def _refused(error: int, *names: str) -> dict[str, object]:
    return {"names": list(names), "action": "SCMP_ACT_ERRNO", "errnoRet": error}


def _ptrace() -> dict[str, object]:
    """As engines allow it: sanitizers and debuggers need it. Older kernels let a tracer change calls behind the filter's back."""
    return {**_allowed("ptrace"), "includes": {"minKernel": "4.8"}}


def _equals(argument: int, value: int) -> dict[str, object]:
    return {"index": argument, "value": value, "op": "SCMP_CMP_EQ"}


def _has_none_of(argument: int, flags: int) -> dict[str, object]:
    return {"index": argument, "value": flags, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}


def _has_all_of(argument: int, flags: int) -> dict[str, object]:
    return {"index": argument, "value": flags, "valueTwo": flags, "op": "SCMP_CMP_MASKED_EQ"}
