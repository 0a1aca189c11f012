"""Child processes of the library: started without the user's main module, ended with their parent.

A child is ``python -c`` with one pipe. It is not forked (threads may be running), not spawned by multiprocessing
(which imports the user's main module, and refuses inside daemonic processes), and has a session of its own, so that
ctrl-C on a terminal reaches the user's program only.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import spawn
from multiprocessing.connection import Connection, Pipe
from typing import Any

from jobmanager.model.messages import LogLine

_BOOT = (  # imports nothing before the path is ours: `-c` puts the current folder first, whatever lies there
    "import sys; module, fd, parent, level, *sys.path[:] = sys.argv[1:];"
    " from jobmanager.engine.processes import run_child; run_child(module, int(fd), int(parent), int(level))"
)
_ORPHAN_S = 3.0
_ENDING_S = 1.0  # between the end of its pipes and its own

ChildMain = Callable[[Connection], None]


def start_process(module: str) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a process that runs ``module.main(connection)``, and our end of its pipe."""
    ours, theirs = (_above_standard_streams(end) for end in Pipe(duplex=True))
    level = logging.getLogger("jobmanager").getEffectiveLevel()
    path = [entry or os.getcwd() for entry in sys.path if isinstance(entry, str)]
    try:
        process = subprocess.Popen(
            [_python(), "-c", _BOOT, module, *map(str, (theirs.fileno(), os.getpid(), level)), *path],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if _is_open(2) else subprocess.DEVNULL,
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, ours


def _python() -> str:
    """The interpreter; inside a server that embeds one (uWSGI), ``sys.executable`` is that server."""
    named = os.fsdecode(spawn.get_executable())
    if re.match(r"(?i)(python|pypy)", os.path.basename(named)):
        return named
    return os.path.join(sys.exec_prefix, "bin", "python3")


def _above_standard_streams(end: Connection) -> Connection:
    """The same end of a pipe, with a number that is none of the standard streams': a caller may have closed those."""
    if end.fileno() > 2:
        return end
    with end:
        return Connection(fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def end_process(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Wait a little for a process that was told to leave, then make it."""
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# ---- in the child


def run_child(module: str, fd: int, parent: int, level: int) -> None:
    """What a child process does from its first line to its last."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.getLogger("jobmanager").setLevel(level)
    connection = Connection(fd)
    os.set_inheritable(fd, False)
    __import__(module)
    code = sys.modules[module]
    main: ChildMain = code.main
    orphaned: Callable[[], None] | None = getattr(code, "orphaned", None)
    threading.Thread(target=_leave_with, args=(parent, orphaned), name="jobmanager-parent-watch", daemon=True).start()
    try:
        main(connection)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        if _is_ending(parent):
            _tidy_up(orphaned)
    except Exception:  # the process's edge: said in the caller's log, then another takes over
        logging.getLogger(__name__).exception("%s failed", module)
    finally:
        logging.shutdown()
        os._exit(0)  # threads that wait for an engine do not hold us up


def forward_logs(send: Callable[[Any], None], flush: Callable[[], None] = lambda: None) -> None:
    """Let this process's log records come out of the caller's handlers. ``flush``: see to it that what was sent is out."""
    logger = logging.getLogger("jobmanager")
    logger.handlers[:] = [_PipeHandler(send, flush)]
    logger.propagate = False


class _PipeHandler(logging.Handler):
    def __init__(self, send: Callable[[Any], None], flush: Callable[[], None]) -> None:
        super().__init__()
        self._send = send
        self._flush = flush

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):  # whatever it is, it costs this record: whoever logs here may be a loop's last guard
            record.msg, record.args = record.getMessage(), None
            if record.exc_info:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
                record.exc_info = None
            self._send(LogLine(record=record))

    def flush(self) -> None:
        self._flush()


def _leave_with(parent: int, orphaned: Callable[[], None] | None) -> None:
    """End this process when its parent ends. End of file on the pipe is not enough: a forked sibling may hold it."""
    try:
        _wait_for_end_of(parent)
        _tidy_up(orphaned)
    finally:
        os._exit(0)


def _is_ending(parent: int) -> bool:
    """Whether it ends, and has not just closed our pipe: the kernel closes a process's pipes before it gives its children away."""
    until = time.monotonic() + _ENDING_S
    while os.getppid() == parent and time.monotonic() < until:
        time.sleep(0.01)
    return os.getppid() != parent


def _tidy_up(orphaned: Callable[[], None] | None) -> None:
    """A child's own clean-up after its parent's sudden end, as far as it can be done in time."""
    if orphaned is not None:
        last = threading.Thread(target=orphaned, daemon=True)
        last.start()
        last.join(_ORPHAN_S)


def _wait_for_end_of(parent: int) -> None:
    try:
        watched = os.pidfd_open(parent)
    except (AttributeError, OSError):  # not Linux, an old kernel, or gone already
        while os.getppid() == parent:
            time.sleep(0.5)
        return
    if os.getppid() == parent:
        select.select([watched], [], [])
