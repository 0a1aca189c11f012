r"""The way into a container, the same for a cold and for a warm one.

Every container starts as ``pid_1()``, a few lines of sh that wait on standard input. The job comes there as one
payload: a line ``token size`` and a tar of that size, whose last member is ``.jobmanager/command``. PID 1 unpacks
it, says ``got``, runs the program as its child, kills what is left of it, says ``end`` on both streams (each keeps
its own order, and a reader needs both to have everything), hands over a result file if there is one, and waits to
be killed. A mark is ``\x1e TOKEN word ...\n``; the token is in PID 1's memory only, so nothing that the program
prints is taken for one by accident.

Needs in the image: ``sh``, ``head -c``, ``tar``.

The program is never PID 1: the kernel drops signals that PID 1 sends to itself, so a program that raises SIGSEGV
would go on. It is no background job of the shell either, which would have SIGINT and SIGQUIT ignored.

Once the program has ended, PID 1 must not need what the program may have used up. Processes: the dead count until
somebody has waited for them, so ``kill_all`` goes on until ``jobs`` has, and there is no fork before that. Space: it is
measured by a write of the shell's own (busybox's head does not tell that a write failed), and not when memory ran
out, as a write into the workspace could then cost PID 1 its life. Memory: files fill it without belonging to any process,
so the program begins as the kernel's first choice (``oom_score_adj``). Without that, the kernel chose PID 1 in 17 of 20
such runs; then nobody has counted, and an engine does not tell each time that memory was what PID 1 died of.
"""

from __future__ import annotations

import io
import shlex
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

from jobmanager.model.container import WORKSPACE
from jobmanager.model.facts import EndMark

RESULT_FILE = ".jobmanager/result.json"
RESULT_FILE_LIMIT = 1024 * 1024
NOT_DELIVERED = 125  # PID 1's own exit code when it did not get its job whole
_LONGEST_MARK = 1024
_RUNNABLE = ".jobmanager/bin/"
DOOR_OPEN = "ssh"  # the word of a mark: ``ssh_debug.py``
CANNOT_UNPACK = "its files cannot be unpacked into the workspace"

_PID_1 = rf"""
exec 3>&1 4>&2 2>/dev/null
say() {{ printf '\036%s %s\n' "$token" "$*"; }}
first() {{ read -r "$1" < "$2"; }}
cpu() {{
  cpu=-
  first cpu /sys/fs/cgroup/cpuacct/cpuacct.usage && return
  while read -r key value; do [ "$key" = usage_usec ] && cpu=${{value}}000; done < /sys/fs/cgroup/cpu.stat
}}
begin() {{ ( {{ echo 1000 > /proc/self/oom_score_adj; }} 2>/dev/null; program ) >&3 2>&4 3>&- 4>&-; }}
kill_all() {{
  left=10000
  while kill -9 -1 && [ $left -gt 0 ]; do jobs >&2; left=$((left - 1)); done
}}
counters() {{
  oom=- forks=- peak=- full=0
  for file in /sys/fs/cgroup/memory/memory.oom_control /sys/fs/cgroup/memory.events; do
    [ -r $file ] && while read -r key value; do [ "$key" = oom_kill ] && oom=$value; done < $file
  done
  for file in /sys/fs/cgroup/pids/pids.events /sys/fs/cgroup/pids.events; do
    [ -r $file ] && while read -r key value; do [ "$key" = max ] && forks=$value; done < $file
  done
  first peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes || first peak /sys/fs/cgroup/memory.peak || peak=-
  case $oom in [1-9]*) return;; esac
  [ ! -w WORKSPACE_PATH ] || printf '%4096s' > "WORKSPACE_PATH/.jobmanager.$token" || full=1
  [ ! -w /dev/shm ] || printf '%4096s' > "/dev/shm/.jobmanager.$token" || full=$((full + 2))
}}
IFS=' ' read -r token size || exit {NOT_DELIVERED}
cd WORKSPACE_PATH || {{ say no "there is no WORKSPACE_PATH" >&3; exit {NOT_DELIVERED}; }}
for tool in head tar; do
  command -v $tool >/dev/null || {{ say no "the image has no $tool" >&3; exit {NOT_DELIVERED}; }}
done
head -c "$size" | {{ tar -xf - || {{ head -c "$size" >/dev/null; exit 1; }}; }} || broken=1
if [ -n "$broken" ] || [ ! -f .jobmanager/command ]; then
  [ -z "$broken" ] || say no "{CANNOT_UNPACK}" >&3
  exit {NOT_DELIVERED}
fi
cpu
say got "$cpu" >&3
. ./.jobmanager/command
if missing=$(lacking); then
  say no "$missing" >&3
else
  if [ -f .jobmanager/stdin ]; then begin < .jobmanager/stdin; else begin; fi
  code=$?
  cpu
  kill_all
  counters
  say end $code "$cpu" "$peak" "$oom" "$forks" $full >&4
  say end $code "$cpu" "$peak" "$oom" "$forks" $full >&3
  [ -f {RESULT_FILE} ] && head -c {RESULT_FILE_LIMIT + 1} {RESULT_FILE} >&3
  say bye >&3
fi
while :; do ( first self /proc/self/stat; kill -STOP "${{self%% *}}" ); done
"""


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
) -> bytes:
    """What is written to a container's standard input to give it its job.

    Without ``stdin`` the program reads the container's own, whatever is written after this; but only from PID 1's ``got`` on,
    as some images' ``head`` reads ahead and throws away what it does not need.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            _add(tar, name, content, 0o755 if content.startswith(b"#!") or name.startswith(_RUNNABLE) else 0o644)
        if stdin is not None:
            _add(tar, ".jobmanager/stdin", stdin, 0o644)
        _add(tar, ".jobmanager/command", _command_file(command, env), 0o644)
    tarred = packed.getvalue()
    return b"%s %d\n%s" % (token.encode(), len(tarred), tarred)


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    tar.addfile(member, io.BytesIO(content))


def _command_file(command: str | tuple[str, ...], env: Mapping[str, str]) -> bytes:
    """Shell functions that PID 1 reads: ``lacking`` says what the image lacks, ``program`` becomes the program."""
    words = ("sh", "-c", command) if isinstance(command, str) else command
    if not words:
        return b"lacking() { printf '%s' 'neither the task nor its image has a command'; }\n"
    name = shlex.quote(words[0])
    found = f"[ -f {name} ] && [ -x {name} ]" if "/" in words[0] else f"command -v {name} >/dev/null"
    exports = "".join(f"export {key}={shlex.quote(value)}; " for key, value in env.items())
    return (
        f"lacking() {{ {exports}{found} && return 1;"
        f" printf '%s' {shlex.quote(f'there is no {words[0][:100]!a} that can be run')}; }}\n"
        f"program() {{ {exports}exec {shlex.join(words)}; }}\n"
    ).encode()


@dataclass(frozen=True, slots=True)
class Mark:
    """A line that PID 1 wrote."""

    word: str  # got, no, end, bye
    rest: str


class MarkedStream:
    """Tells one stream's output from marks with a token. Holds back at most a token's length."""

    def __init__(self, token: str, *, longest: int = _LONGEST_MARK) -> None:
        self._begin = b"\x1e" + token.encode() + b" "
        self._longest = longest
        self._held = b""

    def feed(self, data: bytes) -> list[bytes | Mark]:
        """Output and marks in their order."""
        self._held += data
        found: list[bytes | Mark] = []
        while True:
            at = self._held.find(self._begin)
            if at < 0:
                found += self._output_before_a_possible_mark()
                return found
            if at > 0:
                found.append(self._held[:at])
                self._held = self._held[at:]
            line_end = self._held.find(b"\n", 0, self._longest)
            if line_end < 0 and len(self._held) < self._longest:
                return found
            if line_end < 0:  # a program that has found the token out, and would have us hold its output for ever
                found.append(self._held[:1])
                self._held = self._held[1:]
                continue
            words = self._held[len(self._begin) : line_end].decode("utf-8", "replace").split(" ", 1)
            found.append(Mark(words[0], words[1] if len(words) > 1 else ""))
            self._held = self._held[line_end + 1 :]

    def rest(self) -> bytes:
        """What was held back, at the end of the stream."""
        held, self._held = self._held, b""
        return held

    def _output_before_a_possible_mark(self) -> list[bytes]:
        at = self._held.rfind(b"\x1e", max(0, len(self._held) - len(self._begin) + 1))
        if at < 0 or not self._begin.startswith(self._held[at:]):
            at = len(self._held)
        output, self._held = self._held[:at], self._held[at:]
        return [output] if output else []


def cpu_before(rest: str) -> int | None:
    """The CPU counter (ns) that a ``got`` mark carries: what it took to make the container."""
    return _counter(rest)


def end_mark(rest: str, cpu_before_ns: int | None) -> EndMark | None:
    """The ``end`` mark's fields; None when they are not what PID 1 writes."""
    words = rest.split(" ")
    if len(words) != 6 or not (words[0].isascii() and words[0].isdigit()) or len(words[0]) > 3:
        return None
    cpu = _counter(words[1])
    return EndMark(
        exit_code=int(words[0]),
        cpu_ns=None if cpu is None or cpu_before_ns is None else max(0, cpu - cpu_before_ns),
        peak_memory_bytes=_counter(words[2]),
        oom_kills=_counter(words[3]),
        fork_refusals=_counter(words[4]),
        workspace_full=words[5] in ("1", "3"),
        shm_full=words[5] in ("2", "3"),
    )


def _counter(word: str) -> int | None:
    """A kernel counter; None for ``-`` and for anything that no 64-bit counter holds."""
    return int(word) if word.isascii() and word.isdigit() and len(word) < 20 else None
