r"""``debug="ssh"``: an SSH server in a job's container, in place of the job's command.

The image must have ``sshd`` and ``ssh-keygen``; we bring the rest. The server is the program that PID 1 starts, so it runs as
the same unprivileged user as any job, and only that user can log in. Compared with a job's profile
(``engine/docker/container_config.py``) three things differ: a network, one published port, and ``/etc`` as a volume with the
image's files, since ``/etc/passwd`` has to name the user, its shell and the hash of its password.

In a grading job the supervisor runs as always, and starts the server in place of the grader. A grader that a person starts by
hand in the session has its commands and its student containers.

``serve``, the script in place of the command, reports over the run's channel: ``ready`` when the server accepts connections, or why
it cannot start. In a grading job the channel is the supervisor's, which passes that on. The script ends, and the job with it,
when the user has left.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Mapping
from dataclasses import replace

from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model.container import SSH_USER, SSHEndpoint
from jobmanager.model.grader import Grader
from jobmanager.model.limits import MAX_PROCESSES, Limits
from jobmanager.model.network import Network
from jobmanager.model.task import Task
from jobmanager.ssh.sha512_crypt import sha512_crypt

PORT = 2222  # inside the container; the engine chooses the one outside
_UID = 65534
_GRACE_S = 15  # from the end of the last connection to the end of the job: scp and then ssh are two connections
_LOGIN_S = 30  # from a connection to a log-in
_PASSWORD_BYTES = 16
_HASH_ROUNDS = 1000  # enough for a random password
_MEMORY_MIB, _PROCESSES, _OPEN_FILES, _WORKSPACE_MIB = 64, 16, 64, 1  # for the server, beside the job
_FOLDER = ".jobmanager/ssh"
_RUN = ".jobmanager/run"
_STDIN = ".jobmanager/stdin"  # what the job's program would read

_TELL = """printf '%s' "$1" >&$JOBMANAGER_CHANNEL"""
_TELL_THE_SUPERVISOR = """python3 -c 'import json, socket, sys
tell = socket.socket(socket.AF_UNIX)
tell.connect("WORKSPACE_PATH/.jobmanager/control")
tell.sendall(json.dumps({"type": "ssh", "text": sys.argv[1]}).encode() + b"\\n")
tell.recv(1)' "$1\""""

_CONFIG = f"""
Port {PORT}
HostKey WORKSPACE_PATH/{_FOLDER}/host_key
AllowUsers {SSH_USER}
PasswordAuthentication yes
PermitEmptyPasswords no
PubkeyAuthentication no
KbdInteractiveAuthentication no
UsePAM no
AuthorizedKeysFile none
LoginGraceTime {_LOGIN_S}
MaxAuthTries 3
DisableForwarding yes
PermitTunnel no
PermitUserRC no
PermitUserEnvironment no
PrintMotd no
PrintLastLog no
UseDNS no
PidFile none
StrictModes no
Subsystem sftp internal-sftp
ForceCommand exec sh WORKSPACE_PATH/{_FOLDER}/session
"""

_SERVE = rf"""
folder=WORKSPACE_PATH/{_FOLDER}
tell() {{ TELL; }}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
for tool in sshd ssh-keygen; do
  command -v $tool >/dev/null || {{ tell "debug=\"ssh\" needs $tool, which the image does not have"; exit 1; }}
done
export -p > $folder/environment
ssh-keygen -q -t ed25519 -N '' -f $folder/host_key || {{ tell "ssh-keygen could not make a host key"; exit 1; }}
"$(command -v sshd)" -D -e -f $folder/config &
server=$!
count() {{  # connections in state $1
  found=0
  for table in /proc/net/tcp /proc/net/tcp6; do
    [ -r $table ] && while read -r number here there state rest; do
      case $here.$state in *:{PORT:04X}.$1) found=$((found + 1));; esac
    done < $table
  done
}}
while count 0A; [ $found = 0 ]; do
  kill -0 $server || {{ tell "sshd did not start: what it said is in the standard error"; exit 1; }}
  sleep 0.1 || sleep 1
done
tell ready
idle=0
while kill -0 $server && [ $idle -lt GRACE_S ]; do
  sleep 1
  count 01
  if [ $found = 0 ] && [ -e $folder/came ]; then idle=$((idle + 1)); else idle=0; fi
done
[ -e $folder/came ]
"""

_SESSION = f"""
cd WORKSPACE_PATH
. WORKSPACE_PATH/{_FOLDER}/environment
: > WORKSPACE_PATH/{_FOLDER}/came
export USER={SSH_USER} LOGNAME={SSH_USER} SHELL=/bin/sh
if [ "$SSH_ORIGINAL_COMMAND" = internal-sftp ]; then
  for server in /usr/lib/openssh /usr/libexec/openssh /usr/lib/ssh /usr/libexec; do
    [ ! -x $server/sftp-server ] || exec $server/sftp-server
  done
  exit 127
fi
[ -z "$SSH_ORIGINAL_COMMAND" ] || exec sh -c "$SSH_ORIGINAL_COMMAND"
echo 'The files are in WORKSPACE_PATH. The job itself has not been run: sh {_RUN} runs it.'
! command -v bash >/dev/null || exec bash
exec sh
"""


def debug_task(task: Task, *, session_s: float) -> Task:
    """The task as it runs in a debug session: with a network, and with time and memory for the server."""
    limits = task.limits
    return replace(
        task,
        directory=None,  # its files have been read
        grader=None if task.grader is None else _with_its_budget(task.grader, limits),
        limits=replace(
            limits,
            cpu_time_s=session_s,
            wall_time_s=session_s,
            memory_mib=limits.memory_mib + _MEMORY_MIB,
            processes=min(limits.processes + _PROCESSES, MAX_PROCESSES),
            open_files=max(limits.open_files, _OPEN_FILES),
            workspace_mib=limits.workspace_mib + _WORKSPACE_MIB,
        ),
        network=Network.BRIDGE if task.network in (Network.OFF, Network.LOOPBACK) else task.network,
        retries=0,  # a session that was cut off is not repeated, as its callback has been called
    )


def _with_its_budget(grader: Grader, limits: Limits) -> Grader:
    """Keep the student containers' budget as it is without a session."""
    cpu_time_s, memory_mib = grader.students_cpu_time_s(limits), grader.students_memory_mib(limits)
    return replace(grader, student_cpu_time_s=cpu_time_s, student_memory_mib=memory_mib)


def new_password() -> str:
    """A password for one session."""
    return secrets.token_urlsafe(_PASSWORD_BYTES)


def ssh_endpoint(password: str, *, workspace: str, loopback_only: bool) -> SSHEndpoint:
    """The port of a session's container. The hash is in ``/etc/passwd``, as the server may not read ``/etc/shadow``."""
    hashed = sha512_crypt(password, secrets.token_hex(8), rounds=_HASH_ROUNDS)
    accounts = f"root:x:0:0:root:/root:/bin/sh\n{SSH_USER}:{hashed}:{_UID}:{_UID}::{workspace}:/bin/sh\n"
    return SSHEndpoint(port=PORT, loopback_only=loopback_only, accounts=accounts.encode())


def with_ssh_server(job: MonitorContainer) -> MonitorContainer:
    """The job with the SSH server in the place of its command, which becomes a script beside it."""
    words = ("sh", "-c", job.command) if isinstance(job.command, str) else job.command
    stdin = "/dev/null" if job.stdin is None else _STDIN
    run = f"cd {job.workspace} && exec {shlex.join(words)} < {stdin}\n"
    brought = {f"{_FOLDER}/config": _CONFIG, f"{_FOLDER}/serve": _SERVE, f"{_FOLDER}/session": _SESSION}
    tell = _TELL if job.grading is None else _TELL_THE_SUPERVISOR
    known = {"TELL": tell, "WORKSPACE_PATH": job.workspace, "GRACE_S": str(_GRACE_S)}
    filled = {name: _filled(text, known).encode() for name, text in brought.items()}
    files = {**job.files, **filled, _RUN: run.encode(), **({} if job.stdin is None else {_STDIN: job.stdin})}
    return replace(job, command=("sh", f"{_FOLDER}/serve"), files=files, stdin=job.stdin and b"", with_ssh=True)


def _filled(text: str, known: Mapping[str, str]) -> str:
    for word, value in known.items():
        text = text.replace(word, value)
    return text
