r"""The way into a container, the same for a cold and for a warm one.

Every container starts as ``pid_1()``, a few lines of sh that wait on standard input. The job comes there as one
payload: a line ``token size`` and a tar of that size, whose last member is ``.jobmanager/command``. PID 1 unpacks
it, says ``got``, runs the program as its child, kills what is left of it, says ``end`` on both streams (each keeps
its own order, and a reader needs both to have everything), hands over a result file if there is one, and waits to
be killed. A mark is ``\x1e TOKEN word ...\x1f\n``; the token is in PID 1's memory only, so nothing that the program
prints is taken for one by accident. Its newline may be missing: of a long line an engine's log can lose it (20.10
does), and a mark stands at the end of whatever the program printed last.

Needs in the image: ``sh``, ``head -c``, ``tar``.

The program is never PID 1: the kernel drops signals that PID 1 sends to itself, so a program that raises SIGSEGV
would go on. It is no background job of the shell either, which would have SIGINT and SIGQUIT ignored.

Nothing that PID 1 needs after the program's end is shared with it. Its output is opened anew for the program: to be
non-blocking belongs to what was opened, and PID 1's last words would then fail on a full pipe. All names of the shell's
are ours alone (``_jm_``): one that the image's ENV has would be handed on to the program with the value that PID 1 gave it.
And what the ENV says to GNU tar (``TAR_OPTIONS``) is said to the program's tar, not to ours.

Once the program has ended, PID 1 must not need what the program may have used up. Processes: the dead count until
somebody has waited for them, so ``kill_all`` goes on until ``jobs`` has, and there is no fork before that. Space: it is
measured by a write of the shell's own (busybox's head does not tell that a write failed), and not when memory ran
out, as a write into the workspace could then cost PID 1 its life. Memory: files fill it without belonging to any process,
so the program begins as the kernel's first choice (``oom_score_adj``). Without that, the kernel chose PID 1 in 17 of 20
such runs; then nobody has counted, and an engine does not tell each time that memory was what PID 1 died of.

What is to be wiped from volumes PID 1 removes before it starts the program, by lines that come with the job. They go down folder
by folder, as a pattern's folder may be a link by now. A folder may have been closed to its owner, to hide what is in it: it is
opened, and one that cannot be listed is a refusal, not an empty one. These lines need ``rm`` and ``ls`` in the image.

Volumes that other containers have, too, are told by the device numbers of their mounts. If a volume had another number in a
container that still keeps it, there is another, empty one in its place: an engine that was restarted under its containers
(``live-restore``) forgets what it has mounted, and mounts it anew.
"""

from __future__ import annotations

import io
import posixpath
import re
import shlex
import tarfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from jobmanager.model.container import WORKSPACE
from jobmanager.model.volume import VOLUMES, mount_path

RESULT_FILE = ".jobmanager/result.json"
RESULT_FILE_LIMIT = 1024 * 1024
WIPE_FILE = ".jobmanager/wipe"
SECRETS_FOLDER = ".jobmanager/secrets"
NOT_DELIVERED = 125  # PID 1's own exit code when it did not get its job whole
_LONGEST_MARK = 1024
_MOST_OF_DEVICES = 700  # characters of such a mark
_DEVICE = re.compile(r"([\w.-]{1,64})=([0-9]{1,10}:[0-9]{1,10})")
_MARKS_END = re.compile(rb"[\x1f\n]")
_SECONDS = re.compile(r"[0-9]{1,12}\.[0-9]{2}")
_CLOCK_STEP_S = 0.01  # of ``/proc/uptime``: by so much a difference can be too small
_RUNNABLE = ".jobmanager/bin/"
_SCRIPT, _ELF = b"#!", b"\x7fELF"
_SIGNALS_FROM = 128  # in exit codes of most shells
SSH_READY = "ssh"  # the word of a mark: ``ssh/debug_session.py``
CANNOT_UNPACK = "its files cannot be unpacked into the workspace"
CANNOT_WIPE = "cannot be wiped: something is left that cannot be removed"  # after the pattern

_PID_1 = rf"""
set +aefux
unset _jm_token _jm_size _jm_broken _jm_tool _jm_lack _jm_code _jm_cpu _jm_up
unset _jm_oom _jm_forks _jm_peak _jm_full _jm_left _jm_file _jm_key _jm_value _jm_self _jm_volumes
exec 3>&1 4>&2 2>/dev/null
_jm_say() {{ printf '\036%s %s\037\n' "$_jm_token" "$*"; }}
_jm_leave() {{ _jm_say no "$1" >&3; exit {NOT_DELIVERED}; }}
_jm_first() {{ read -r "$1" < "$2"; }}
_jm_clocks() {{
  _jm_cpu=- _jm_up=-
  _jm_first _jm_up /proc/uptime
  _jm_up=${{_jm_up%% *}}
  _jm_first _jm_cpu /sys/fs/cgroup/cpuacct/cpuacct.usage && return
  while read -r _jm_key _jm_value; do
    [ "$_jm_key" = usage_usec ] && _jm_cpu=${{_jm_value}}000
  done < /sys/fs/cgroup/cpu.stat
}}
_jm_devices() {{
  _jm_volumes=
  [ -d {VOLUMES} ] && while read -r _jm_key _jm_key _jm_value _jm_key _jm_file _jm_key; do
    case $_jm_file in {VOLUMES}/*) _jm_volumes="$_jm_volumes ${{_jm_file#{VOLUMES}/}}=$_jm_value";; esac
  done < /proc/self/mountinfo
  [ ${{#_jm_volumes}} -lt {_MOST_OF_DEVICES} ] || _jm_volumes=
}}
_jm_begin() {{
  ( {{ echo 1000 > /proc/self/oom_score_adj; }} 2>/dev/null; _jm_program ) >/proc/self/fd/3 2>/proc/self/fd/4 3>&- 4>&-
}}
_jm_kill_all() {{
  _jm_left=10000
  while kill -9 -1 && [ $_jm_left -gt 0 ]; do jobs >&2; _jm_left=$((_jm_left - 1)); done
}}
_jm_counters() {{
  _jm_oom=- _jm_forks=- _jm_peak=- _jm_full=0
  for _jm_file in /sys/fs/cgroup/memory/memory.oom_control /sys/fs/cgroup/memory.events; do
    [ -r $_jm_file ] && while read -r _jm_key _jm_value; do
      [ "$_jm_key" = oom_kill ] && _jm_oom=$_jm_value
    done < $_jm_file
  done
  for _jm_file in /sys/fs/cgroup/pids/pids.events /sys/fs/cgroup/pids.events; do
    [ -r $_jm_file ] && while read -r _jm_key _jm_value; do
      [ "$_jm_key" = max ] && _jm_forks=$_jm_value
    done < $_jm_file
  done
  _jm_first _jm_peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes || _jm_first _jm_peak /sys/fs/cgroup/memory.peak || _jm_peak=-
  case $_jm_oom in [1-9]*) return;; esac
  [ ! -w WORKSPACE_PATH ] || printf '%4096s' > "WORKSPACE_PATH/.jobmanager.$_jm_token" || _jm_full=1
  [ ! -w /dev/shm ] || printf '%4096s' > "/dev/shm/.jobmanager.$_jm_token" || _jm_full=$((_jm_full + 2))
}}
IFS=' ' read -r _jm_token _jm_size || exit {NOT_DELIVERED}
cd WORKSPACE_PATH || _jm_leave "there is no WORKSPACE_PATH"
for _jm_tool in head tar; do
  command -v $_jm_tool >/dev/null || _jm_leave "the image has no $_jm_tool"
done
true >/proc/self/fd/3 2>/proc/self/fd/4 || _jm_leave "its output cannot be opened"
head -c "$_jm_size" | {{ TAR_OPTIONS= tar -xof - || {{ head -c "$_jm_size" >/dev/null; exit 1; }}; }} || _jm_broken=1
[ -z "$_jm_broken" ] || _jm_leave "{CANNOT_UNPACK}"
[ -f .jobmanager/command ] || exit {NOT_DELIVERED}
_jm_devices
_jm_clocks
_jm_say got "$_jm_cpu" "$_jm_up$_jm_volumes" >&3
. ./.jobmanager/command
if _jm_lack=$(_jm_lacking); then
  _jm_say no "$_jm_lack" >&3
else
  if [ -f .jobmanager/stdin ]; then _jm_begin < .jobmanager/stdin; else _jm_begin; fi
  _jm_code=$?
  _jm_clocks
  _jm_kill_all
  _jm_counters
  set -- $_jm_code "$_jm_cpu" "$_jm_peak" "$_jm_oom" "$_jm_forks" $_jm_full "$_jm_up"
  _jm_say end "$@" >&4
  _jm_say end "$@" >&3
  [ -f {RESULT_FILE} ] && head -c {RESULT_FILE_LIMIT + 1} {RESULT_FILE} >&3
  _jm_say bye >&3
fi
while :; do ( _jm_first _jm_self /proc/self/stat; kill -STOP "${{_jm_self%% *}}" ); done
"""


_WIPE = rf"""
IFS=
_jm_refuse() {{ printf '%s' "$1"; exit 0; }}
_jm_left() {{ _jm_refuse "$_jm_what {CANNOT_WIPE}"; }}
_jm_there() {{ [ -e "$1" ] || [ -L "$1" ]; }}
_jm_each() {{ _jm_what=$1; shift; _jm_wipe "$@"; }}
_jm_wipe() {{
  chmod u+rwx "$1"
  ls "$1/." >/dev/null || _jm_left
  if [ $# -eq 2 ]; then _jm_last "$@"; return; fi
  _jm_folder=$1 _jm_part=$2
  shift 2
  for _jm_found in "$_jm_folder"/$_jm_part; do
    case ${{_jm_found##*/}} in .|..) continue;; esac
    if [ -L "$_jm_found" ]; then
      rm -f -- "$_jm_found"
      ! [ -L "$_jm_found" ] || _jm_left
    elif [ -d "$_jm_found" ]; then
      _jm_wipe "$_jm_found" "$@"
    fi
  done
}}
_jm_last() {{
  case $2 in .*) ;; *) rm -rf -- "$1"/$2;; esac
  for _jm_found in "$1"/$2; do
    case ${{_jm_found##*/}} in .|..) continue;; esac
    _jm_there "$_jm_found" || continue
    [ -L "$_jm_found" ] || chmod -R u+rwx "$_jm_found"
    rm -rf -- "$_jm_found"
    ! _jm_there "$_jm_found" || _jm_left
  done
}}
for _jm_tool in rm ls; do
  command -v $_jm_tool >/dev/null || _jm_refuse "the image has no $_jm_tool, which is needed to wipe volumes"
done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndMark:
    """PID 1's report that the program has ended. Counters are None where the kernel has none."""

    exit_code: int
    cpu_ns: int | None = None  # of the whole container since the program started
    peak_memory_bytes: int | None = None
    oom_kills: int | None = None
    fork_refusals: int | None = None  # how often the limit of processes was hit
    workspace_full: bool = False
    shm_full: bool = False  # /dev/shm
    wall_s: float | None = None  # from the program's start to its end, by the container's own clock


def pid_1(workspace: str = WORKSPACE) -> str:
    """The script that a container starts as; it works in the given folder."""
    return _PID_1.replace("WORKSPACE_PATH", workspace)


def trace_of_the_end(token: str, workspace: str = WORKSPACE) -> str:
    """A file that PID 1 leaves once the program has ended: it measures space with it, unless memory had run out."""
    return f"{workspace}/.jobmanager.{token}"


def payload(
    token: str,
    *,
    command: str | tuple[str, ...],
    env: Mapping[str, str],
    files: Mapping[str, bytes],
    stdin: bytes | None,
    executables: Collection[str] = (),
    made_at_s: float = 0.0,
    wipe: Sequence[str] = (),
    secrets: Mapping[str, bytes] = MappingProxyType({}),
    volume_devices: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """What is written to a container's standard input to give it its job.

    ``wipe``: shell patterns, each ``VOLUME/PART/...``, of what PID 1 removes from ``/volumes/VOLUME`` before it starts the program;
    ``*`` matches no leading dot. Links on the way are removed, not followed. If something is left, the program is not started.
    ``secrets``: files by name, in a folder of their own that only the container's user can read.
    ``volume_devices``: the devices that volumes must have, by name, or the program is not started.

    ``executables`` names files that may be run although they do not look like it. ``made_at_s`` (seconds since 1970; 0: now) is
    the time of all files: one moment, so that ``make`` takes none for newer, and one that lies in the past of the container's host.
    Without ``stdin`` the program reads the container's own, whatever is written after this; but only from PID 1's ``got`` on,
    as some images' ``head`` reads ahead and throws away what it does not need.
    """
    packed, made_at_s = io.BytesIO(), made_at_s or time.time()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
        for name, content in files.items():
            runs = content.startswith((_SCRIPT, _ELF)) or name in executables or name.startswith(_RUNNABLE)
            _add(tar, name, content, 0o755 if runs else 0o644, made_at_s)
        if stdin is not None:
            _add(tar, ".jobmanager/stdin", stdin, 0o644, made_at_s)
        if secrets:
            _add_folder(tar, SECRETS_FOLDER, 0o700, made_at_s)
        for name, content in secrets.items():
            _add(tar, f"{SECRETS_FOLDER}/{name}", content, 0o400, made_at_s)
        if wipe:
            _add(tar, WIPE_FILE, _wipe_file(wipe), 0o644, made_at_s)
        _add(tar, ".jobmanager/command", _command_file(command, env, files, volume_devices, wipes=bool(wipe)), 0o644, made_at_s)
    tarred = packed.getvalue()
    return b"%s %d\n%s" % (token.encode(), len(tarred), tarred)


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int, made_at_s: float) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), mode, int(made_at_s)
    tar.addfile(member, io.BytesIO(content))


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """Why PID 1 does not start a program, in words."""

    absent: str
    folder: str
    barred: str

    @classmethod
    def of(cls, program: str) -> Refusals:
        """For a program of this name."""
        name = ascii(program[:100])
        return cls(
            absent=f"there is no {name} that can be run",
            folder=f"{name} is a folder, not a program",
            barred=f"{name} is there, but may not be executed",
        )


def _add_folder(tar: tarfile.TarFile, name: str, mode: int, made_at_s: float) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.mtime = tarfile.DIRTYPE, mode, int(made_at_s)
    tar.addfile(member)


def _wipe_file(patterns: Sequence[str]) -> bytes:
    """Lines that PID 1 reads: they say what cannot be wiped, and end the shell that reads them then."""
    lines = []
    for pattern in patterns:
        volume, *parts = pattern.split("/")
        lines.append(shlex.join(["_jm_each", ascii(pattern[:100]), mount_path(volume), *parts]))
    return "\n".join([_WIPE, *lines, ""]).encode()


def _command_file(
    command: str | tuple[str, ...],
    env: Mapping[str, str],
    files: Mapping[str, bytes],
    volume_devices: Mapping[str, str],
    *,
    wipes: bool,
) -> bytes:
    """Shell functions that PID 1 reads: the one says why the program cannot be started, the other becomes the program."""
    words = ("sh", "-c", command) if isinstance(command, str) else command
    if not words:
        return b"_jm_lacking() { printf '%s' 'neither the task nor its image has a command'; }\n"
    exports = "".join(f"export {key}={shlex.quote(value)}; " for key, value in env.items())
    wiping = f". ./{WIPE_FILE}; " if wipes else ""
    return (
        f"_jm_lacking() {{ {_without_volumes(volume_devices)}{wiping}{exports}{_lacking(words[0])}; }}\n"
        f"_jm_program() {{ {exports}{_without_interpreter(words[0], files)}exec {shlex.join(words)}; }}\n"
    ).encode()


def _without_volumes(volume_devices: Mapping[str, str]) -> str:
    """Says which volume is another one than it was."""
    checks = []
    for name, device in volume_devices.items():
        lost = f"what was in the volume {name!r} is lost: its engine has mounted another one"
        kept = shlex.quote(f" {name}={device} ")
        checks.append(f"case \"$_jm_volumes \" in *{kept}*) ;; *) printf '%s' {shlex.quote(lost)}; return 0;; esac; ")
    return "".join(checks)


def _lacking(program: str) -> str:
    name, refusals = shlex.quote(program), Refusals.of(program)
    absent, folder, barred = (f"printf '%s' {shlex.quote(words)}" for words in (refusals.absent, refusals.folder, refusals.barred))
    if "/" not in program:
        return f"command -v {name} >/dev/null && return 1; {absent}"
    return (
        f"[ -f {name} ] && [ -x {name} ] && return 1; [ -e {name} ] || {{ {absent}; return 0; }};"
        f" [ -d {name} ] && {{ {folder}; return 0; }}; {barred}"
    )


def _without_interpreter(program: str, files: Mapping[str, bytes]) -> str:
    """Says what is lacking where a script's interpreter is: shells say of the script that it is not found."""
    script = files.get(posixpath.normpath(program), b"") if "/" in program else b""
    line = script[: len(_SCRIPT) + 200].removeprefix(_SCRIPT).split(b"\n", 1)[0].decode("utf-8", "replace").strip(" \t")
    interpreter = re.split("[ \t]", line)[0]
    if not script.startswith(_SCRIPT) or not interpreter:
        return ""
    why = "; its lines end in CR LF" if interpreter.endswith("\r") else ""
    words = f"{program[:100]}: its interpreter {interpreter!a} does not exist{why}"
    return f"[ -e {shlex.quote(interpreter)} ] || {{ printf '%s\\n' {shlex.quote(words)} >&2; exit 127; }}; "


@dataclass(frozen=True, slots=True)
class Mark:
    """A line that PID 1 wrote."""

    word: str  # got, no, end, bye
    rest: str
    line: bytes = field(default=b"", repr=False, compare=False)  # as it came


class MarkedStream:
    """Tells one stream's output from marks with a token. Holds back at most a token's length."""

    def __init__(self, token: str, *, longest: int = _LONGEST_MARK) -> None:
        self._begin = b"\x1e" + token.encode() + b" "
        self._longest = longest
        self._held = b""
        self._newline_is_due = False  # of a mark whose end has come

    def feed(self, data: bytes) -> list[bytes | Mark]:
        """Output and marks in their order."""
        self._held += data
        found: list[bytes | Mark] = []
        while True:
            self._take_the_newline()
            at = self._held.find(self._begin)
            if at < 0:
                found += self._output_before_a_possible_mark()
                return found
            if at > 0:
                found.append(self._held[:at])
                self._held = self._held[at:]
            end = _MARKS_END.search(self._held, 0, self._longest)
            if end is None and len(self._held) < self._longest:
                return found
            if end is None:  # a program that has found the token out, and would have us hold its output for ever
                found.append(self._held[:1])
                self._held = self._held[1:]
                continue
            words = self._held[len(self._begin) : end.start()].decode("utf-8", "replace").split(" ", 1)
            found.append(Mark(words[0], words[1] if len(words) > 1 else "", self._held[: end.end()]))
            self._held = self._held[end.end() :]
            self._newline_is_due = end.group() == b"\x1f"

    def rest(self) -> bytes:
        """What was held back, at the end of the stream."""
        held, self._held = self._held, b""
        return held

    def _take_the_newline(self) -> None:
        if self._newline_is_due and self._held:
            self._newline_is_due = False
            self._held = self._held.removeprefix(b"\n")

    def _output_before_a_possible_mark(self) -> list[bytes]:
        at = self._held.rfind(b"\x1e", max(0, len(self._held) - len(self._begin) + 1))
        if at < 0 or not self._begin.startswith(self._held[at:]):
            at = len(self._held)
        output, self._held = self._held[:at], self._held[at:]
        return [output] if output else []


def cpu_before(rest: str) -> int | None:
    """The CPU counter (ns) that a ``got`` mark carries: what it took to make the container."""
    return _counter(rest.partition(" ")[0])


def clock_before(rest: str) -> float | None:
    """The container's clock (s) that a ``got`` mark carries: when the program began."""
    return _clock(rest.partition(" ")[2].partition(" ")[0])


def devices_of_volumes(rest: str) -> dict[str, str]:
    """The devices of shared volumes by their names, as a ``got`` mark carries them."""
    return {found[1]: found[2] for word in rest.split(" ")[2:] if (found := _DEVICE.fullmatch(word))}


def end_mark(rest: str, cpu_before_ns: int | None, clock_before_s: float | None = None) -> EndMark | None:
    """The ``end`` mark's fields; None when they are not what PID 1 writes."""
    words = rest.split(" ")
    if len(words) != 7 or not (words[0].isascii() and words[0].isdigit()) or len(words[0]) > 3:
        return None
    cpu, clock_s = _counter(words[1]), _clock(words[6])
    return EndMark(
        exit_code=_exit_code(int(words[0])),
        cpu_ns=None if cpu is None or cpu_before_ns is None else max(0, cpu - cpu_before_ns),
        peak_memory_bytes=_counter(words[2]),
        oom_kills=_counter(words[3]),
        fork_refusals=_counter(words[4]),
        workspace_full=words[5] in ("1", "3"),
        shm_full=words[5] in ("2", "3"),
        wall_s=None if clock_s is None or clock_before_s is None else max(0.0, clock_s - clock_before_s) + _CLOCK_STEP_S,
    )


def _exit_code(status: int) -> int:
    """The exit code for a shell's ``$?``: for signals ksh93 counts from 256 on, yash from 384 on."""
    return status if status < 256 else _SIGNALS_FROM + status % _SIGNALS_FROM


def _counter(word: str) -> int | None:
    """A kernel counter; None for ``-`` and for anything that no 64-bit counter holds."""
    return int(word) if word.isascii() and word.isdigit() and len(word) < 20 else None


def _clock(word: str) -> float | None:
    """Seconds with hundredths, as ``/proc/uptime`` has them; None for anything else."""
    return float(word) if _SECONDS.fullmatch(word) else None
