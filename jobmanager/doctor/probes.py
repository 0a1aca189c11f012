"""The doctor: what a Docker host is, and which limits are enforced there, tried with real jobs. Prints nothing.

A probe is a program that exceeds one limit, but only so far that a host without that limit takes no harm. It is plain
sh, so that it runs in every image that has one; ``runner_check.py`` needs nothing of an image. Evidence from outside the
program decides where there is any; else the kernel's own figures (``/proc``) do, as the program prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace

from jobmanager.control.standalone_engine import open_engine
from jobmanager.doctor.advice import advice
from jobmanager.doctor.report import HostReport, ProbeReport
from jobmanager.doctor.runner_check import check_runner, no_runner_left
from jobmanager.engine.docker.container_config import USER
from jobmanager.engine.labels import JOB_LABEL
from jobmanager.engine.protocol import Engine
from jobmanager.errors import UnknownEnvironment
from jobmanager.manager import JobManager
from jobmanager.model.container import Image
from jobmanager.model.host import DockerHost
from jobmanager.model.limits import Limits
from jobmanager.model.result import JobResult, Outcome
from jobmanager.model.task import Task
from jobmanager.scheduling.hosts import ENVIRONMENT_LABEL

_TIMEOUT_S = 10.0  # for each call of ours; the probes' manager has its own
_QUEUE_TIMEOUT_S = 300.0
_HOST_LOST_TIMEOUT_S = 15.0
_MAX_CONCURRENT_JOBS = 4
_MAX_IMAGES_TRIED = 5

_LIMITS = Limits(cpu_time_s=20, wall_time_s=60, memory_mib=64, processes=16, open_files=64, workspace_mib=4, output_kib=64)
_SMALL_MEMORY_MIB = 32
_SPIN_S = 2
_HALF_A_CORE = 0.5
_CPU_TOLERANCE = 1.3  # how far a program may exceed its share of a core in that time
_MAX_LEFT_BEHIND_S = 30.0

Finding = tuple[bool, str]  # whether the limit holds, and what was seen of it
Judge = Callable[[JobResult], Finding]
OnProbeEnd = Callable[[int, int, str], object]  # called with: ended probes, all probes, the name of the latest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe:
    """A program that exceeds one limit, and how its result is judged."""

    name: str
    program: str
    judge: Judge
    limits: Limits = _LIMITS

    def report(self, result: JobResult) -> ProbeReport:
        enforced, seen = self.judge(result)
        return ProbeReport(name=self.name, enforced=enforced, seen=seen, outcome=result.outcome.value, evidence=result.evidence)


def examine(host: DockerHost, *, image: str | None = None, on_probe_end: OnProbeEnd = lambda *_: None) -> HostReport:
    """Describe a host, and run the probes there.

    Args:
        host: a manager is started for it, which also sweeps the leftovers of dead managers.
        image: the image in which the probes run; None: the first labelled environment, else the smallest image that works.
        on_probe_end: is called whenever a probe has ended.

    Raises:
        EngineUnavailable: the host does not answer.
        UnknownEnvironment: it has no such image, or none at all.
    """
    with open_engine(host, timeout_s=_TIMEOUT_S) as engine:
        about = engine.about()
        images = engine.images()
        candidates = _candidates(host, images) if image is None else [image]
        with no_runner_left(engine):
            runner = check_runner(engine, host.name) if images else ()
            chosen, jobs = candidates[0], tuple[ProbeReport, ...]()
            if all(report.enforced for report in runner[:1]):
                chosen, jobs = _try_jobs(engine, host, candidates, on_probe_end)
        return HostReport(host=host.name, url=host.url, about=about, advice=advice(about), image=chosen, probes=(*runner, *jobs))


def _try_jobs(
    engine: Engine, host: DockerHost, candidates: Sequence[str], on_probe_end: OnProbeEnd
) -> tuple[str, tuple[ProbeReport, ...]]:
    """The image in which the probes ran, and what they found."""
    with _manager(host) as manager:
        chosen, trial, first = _first_that_works(manager, candidates)
        others = _run_all(manager, chosen, on_probe_end) if trial.enforced else []
    probes = [trial, *(probe.report(result) for probe, result in others)]
    return chosen, (*probes, _nothing_left(engine, [first, *(result for _, result in others)]))


def _manager(host: DockerHost) -> JobManager:
    alone = replace(host, max_concurrent_jobs=_MAX_CONCURRENT_JOBS, waiters=1, pull="never")
    return JobManager(alone, queue_timeout_s=_QUEUE_TIMEOUT_S, host_lost_timeout_s=_HOST_LOST_TIMEOUT_S)


def _candidates(host: DockerHost, images: Sequence[Image]) -> list[str]:
    """References: labelled environments by their name, then all others by their size."""
    usable = [image for image in images if image.references]
    names = {image.id: image.labels.get(ENVIRONMENT_LABEL, "") for image in usable}
    usable.sort(key=lambda image: (not names[image.id], names[image.id], image.size_bytes))
    if not usable:
        raise UnknownEnvironment(f"{host.name} has no image to run the probes in: pull or load one that has sh")
    return [image.references[0] for image in usable[:_MAX_IMAGES_TRIED]]


def _first_that_works(manager: JobManager, candidates: Sequence[str]) -> tuple[str, ProbeReport, JobResult]:
    """The first image in which a job runs; when there is none, the last one tried."""
    for image in candidates:
        result = manager.submit(_task(_TRIAL, image), launcher_name="doctor").result()
        if _TRIAL.judge(result)[0]:
            break
    return image, _TRIAL.report(result), result


def _run_all(manager: JobManager, image: str, on_probe_end: OnProbeEnd) -> list[tuple[_Probe, JobResult]]:
    running = {manager.submit(_task(probe, image), launcher_name="doctor"): probe for probe in _PROBES}
    for number, future in enumerate(as_completed(running), start=1):
        on_probe_end(number, len(running), running[future].name)  # type: ignore[index]
    return [(probe, future.result()) for future, probe in running.items()]


def _task(probe: _Probe, image: str) -> Task:
    return Task(image, command=probe.program, limits=probe.limits, name=f"doctor: {probe.name}")


def _nothing_left(engine: Engine, results: Sequence[JobResult]) -> ProbeReport:
    """Whether containers and volumes are gone, and with them every process that a probe left running."""
    ours = {result.job_id for result in results}
    containers = [each.name for each in engine.list({JOB_LABEL: None}) if each.labels[JOB_LABEL] in ours]
    volumes = [each.name for each in engine.volumes({JOB_LABEL: None}) if each.labels[JOB_LABEL] in ours]
    left = [*containers, *volumes]
    seen = f"still there: {', '.join(left)}" if left else f"no container or volume of {len(ours)} jobs is left"
    return ProbeReport(name="clean-up", enforced=not left, seen=seen)


# ---- how a result is judged


def _expect(outcome: Outcome, *kinds: str) -> Judge:
    """The limit is enforced when the job ended so, with one of these pieces of evidence."""

    def judge(result: JobResult) -> Finding:
        proof = next((evidence for evidence in result.evidence if evidence.kind in kinds), None)
        if result.outcome is outcome and proof is not None:
            return True, f"{_ending(result)} ({proof.kind} {proof.value})"
        return False, f"{_ending(result)}, without {' or '.join(kinds)}{_last_line(result)}"

    return judge


def _write_refused(result: JobResult) -> Finding:
    """The program was stopped before it could print how far it got."""
    refused = result.outcome is not Outcome.CRASH and result.exit_code != 0 and not result.stdout
    return refused, _ending(result) + _last_line(result)


def _runs(result: JobResult) -> Finding:
    return result.outcome is Outcome.SUCCESS, _ending(result)


def _children_end(result: JobResult) -> Finding:
    ended = result.outcome is Outcome.SUCCESS and (result.wall_time_s or 0) < _MAX_LEFT_BEHIND_S
    return ended, f"{_ending(result)} after {result.wall_time_s or 0:.1f} s, although its child would have run for 300 s"


def _open_files_limited(result: JobResult) -> Finding:
    most = result.stdout_text.split()
    return most == [str(_LIMITS.open_files)] * 2, f"{' and '.join(most) or _ending(result)} (soft and hard) of {_LIMITS.open_files}"


def _cpu_quota_holds(result: JobResult) -> Finding:
    if result.outcome is not Outcome.SUCCESS or result.cpu_time_s is None or not result.wall_time_s:
        return False, f"{_ending(result)}; CPU time {result.cpu_time_s}"
    used, quota = result.cpu_time_s / result.wall_time_s, _cores(result.stdout_text.split())
    seen = f"two busy loops used {used:.2f} cores; the kernel allows them {'any number' if quota is None else f'{quota:g}'}"
    return quota == _HALF_A_CORE and used <= quota * _CPU_TOLERANCE, seen


def _cores(quota_and_period: Sequence[str]) -> float | None:
    """The cores that the kernel's quota allows; None for no quota. A busy host gives less, so the use alone proves nothing."""
    try:
        quota, period = map(int, quota_and_period)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _no_route_out(result: JobResult) -> Finding:
    """No route in the kernel's tables leads out. A table's first line is its header."""
    devices = [
        line.split()[-1] if kind == "route6" else line.split()[0]
        for kind, _, line in (line.partition(" ") for line in result.stdout_text.splitlines())
        if line.strip() and line.split()[0] != "Iface" and kind in ("route", "route6")
    ]
    outside = sorted(set(devices) - {"lo"})
    if result.outcome is not Outcome.SUCCESS:
        return False, _ending(result) + _last_line(result)
    return not outside, f"routes lead out by {', '.join(outside)}" if outside else "no route leads anywhere but to itself"


def _unprivileged_user(result: JobResult) -> Finding:
    ids = {key: _status(result).get(key, "").split() for key in ("Uid", "Gid", "Groups")}
    user, _, group = USER.partition(":")
    good = set(ids["Uid"]) == {user} and set(ids["Gid"]) == {group} and set(ids["Groups"]) <= {group}
    return good, "; ".join(f"{key} {' '.join(numbers) or 'none'}" for key, numbers in ids.items())


def _no_privileges(result: JobResult) -> Finding:
    status = _status(result)
    wanted = {"CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
    good = all(status.get(key) == value for key, value in wanted.items())
    return good, ", ".join(f"{key} {status.get(key, 'unknown')}" for key in wanted)


def _read_only_root(result: JobResult) -> Finding:
    lines = result.stdout_text.splitlines()
    written = [line.partition(" ")[2] for line in lines if line.startswith("wrote ")]
    options = next((line.partition(" ")[2] for line in lines if line.startswith("root ")), "")
    read_only = "ro" in options.split(",")
    seen = f"written: {', '.join(written)}" if written else "every write outside /job and /tmp was refused"
    return read_only and not written, f"{seen}; mounted {'read-only' if read_only else options or 'unknown'}"


def _workspace_rights(result: JobResult) -> Finding:
    """It belongs to the program's user, who may write there."""
    mode, _, owner, group, *_ = [*result.stdout_text.split(), *[""] * 4]
    good = (mode[:4], f"{owner}:{group}") == ("drwx", USER)
    is_written = result.stdout_text.endswith("written\n")
    seen = f"{mode} of user {owner} and group {group}" if mode else _ending(result) + _last_line(result)
    return good and is_written, seen if is_written else f"{seen}; nothing can be written there"


def _status(result: JobResult) -> dict[str, str]:
    """``/proc/self/status`` of the program."""
    pairs = (line.partition(":") for line in result.stdout_text.splitlines())
    return {key: value.strip() for key, _, value in pairs}


def _ending(result: JobResult) -> str:
    return f"{result.outcome}: {result.text}" if result.text else result.outcome.value


def _last_line(result: JobResult) -> str:
    lines = [line for line in (result.stdout_text + "\n" + result.stderr_text)[-1000:].splitlines() if line.strip("\0 ")]
    return f"; it printed {lines[-1][:100]!r}" if lines else ""


# ---- the probes

_TRIAL = _Probe(name="a job runs", program="echo ready", judge=_runs)
_SHOW_STATUS = 'while read -r line; do echo "$line"; done < /proc/self/status'
_A_MEBIBYTE = """
    text=0123456789abcdef doublings=0
    while [ $doublings -lt 16 ]; do text=$text$text doublings=$((doublings + 1)); done
"""


def _fill(path: str) -> str:
    """A program that writes 16 MiB to a file, or ends with 1."""
    return f"""{_A_MEBIBYTE}
        for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do echo "$text" >> {path} || exit 1; done
        echo 16 MiB written
    """


_PROBES = (
    _Probe(
        name="workspace rights",
        program="ls -ldn /job && ( : > file ) && echo written",
        judge=_workspace_rights,
    ),
    _Probe(
        name="memory",
        limits=replace(_LIMITS, memory_mib=_SMALL_MEMORY_MIB),
        program="""
            text=0123456789abcdef doublings=0
            while [ $doublings -lt 22 ]; do text=$text$text doublings=$((doublings + 1)); done
            echo "64 MiB filled"
        """,
        judge=_expect(Outcome.OVERFLOW, "oom_kills", "oom_killed"),
    ),
    _Probe(
        name="processes",
        program="""
            started=0
            while [ $started -lt 64 ]; do sleep 60 & started=$((started + 1)); echo $started processes started; done
        """,
        judge=_expect(Outcome.OVERFLOW, "fork_refusals"),
    ),
    _Probe(
        name="workspace size",
        program=_fill("full"),
        judge=_expect(Outcome.OVERFLOW, "workspace_full"),
    ),
    _Probe(
        name="workspace files",
        program="made=0; while [ $made -lt 3000 ]; do : > f$made || exit 1; made=$((made + 1)); done; echo $made files made",
        judge=_write_refused,
    ),
    _Probe(name="size of /tmp", program=_fill("/tmp/full"), judge=_write_refused),
    _Probe(name="open files", program="ulimit -n; ulimit -Hn", judge=_open_files_limited),
    _Probe(
        name="output",
        program=_A_MEBIBYTE + 'for n in 1 2 3 4 5 6 7 8; do echo "$text"; done; echo 8 MiB printed',
        judge=_expect(Outcome.OVERFLOW, "output_bytes"),
    ),
    _Probe(
        name="wall clock",
        limits=replace(_LIMITS, wall_time_s=2),
        program="trap '' TERM INT HUP; sleep 30; echo 30 s slept",
        judge=_expect(Outcome.TIMEOUT, "wall_time_s"),
    ),
    _Probe(
        name="CPU time",
        limits=replace(_LIMITS, cpu_time_s=1),
        program="while :; do :; done & while :; do :; done",
        judge=_expect(Outcome.TIMEOUT, "cpu_time_s"),
    ),
    _Probe(
        name="cores",
        limits=replace(_LIMITS, cpus=_HALF_A_CORE),
        program=f"""
            while :; do :; done & while :; do :; done & sleep {_SPIN_S}
            for file in cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu.max; do
                [ -r /sys/fs/cgroup/$file ] && read -r line < /sys/fs/cgroup/$file && echo $line
            done
            exit 0
        """,
        judge=_cpu_quota_holds,
    ),
    _Probe(
        name="children left behind",
        program="""
            if command -v setsid; then setsid sleep 300; else sleep 300; fi < /dev/null > /dev/null 2>&1 &
            exit 0
        """,
        judge=_children_end,
    ),
    _Probe(
        name="network",
        program="""
            while read -r line; do echo "route $line"; done < /proc/net/route
            while read -r line; do echo "route6 $line"; done 2>/dev/null < /proc/net/ipv6_route
            exit 0
        """,
        judge=_no_route_out,
    ),
    _Probe(name="user", program=_SHOW_STATUS, judge=_unprivileged_user),
    _Probe(name="privileges", program=_SHOW_STATUS, judge=_no_privileges),
    _Probe(
        name="root filesystem",
        program="""
            for folder in / /bin /dev /etc /home /opt /root /run /usr /var /var/tmp /proc/sys /sys; do
                [ -d $folder ] && ( : > $folder/jobmanager-doctor ) 2>/dev/null && echo "wrote $folder"
            done
            while read -r device place kind options rest; do [ "$place" = / ] && echo "root $options"; done < /proc/self/mounts
            exit 0
        """,
        judge=_read_only_root,
    ),
)
