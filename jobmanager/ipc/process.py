"""Child processes of the library: started without the user's main module, ended with their parent.

A child is ``python -c`` with one pipe. It is not forked (threads may be running), not spawned by multiprocessing
(which imports the user's main module, and refuses inside daemonic processes), and has a session of its own, so that
ctrl-C on a terminal reaches the user's program only. It imports the library and what that needs, from where they were
installed, and nothing else (``ipc/boot.py``).
"""

from __future__ import annotations

import _thread
import fcntl
import json
import logging
import os
import queue
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import spawn
from multiprocessing.connection import Connection, Pipe
from typing import Any

from jobmanager.errors import NotSupported
from jobmanager.ipc.boot import said_of
from jobmanager.ipc.messages import LogMessage

_BOOT = (  # imports nothing before the path is ours: `-c` puts the current folder first, whatever lies there
    "import sys; sys.path[:] = [place for place in sys.path if place];"
    " from importlib.machinery import PathFinder; from importlib.util import module_from_spec;"
    " spec = PathFinder.find_spec('boot', [sys.argv[1]]); boot = module_from_spec(spec); spec.loader.exec_module(boot);"
    " boot.main(sys.argv[2])"
)
_OURS = os.path.dirname(os.path.abspath(__file__))
_HOME = os.path.dirname(os.path.dirname(_OURS))
_PYTHON = re.compile(r"(?i)(python|pypy)w?[0-9.]*[a-z]?(-dbg|-intel64|-32)?(\.exe)?")
_ORPHAN_S = 3.0
_ENDING_S = 1.0  # between the end of its pipes and its own
_is_child = False
_first_path: list[str] = []

ChildMain = Callable[[Connection], None]


def refuse_where_impossible() -> None:
    """Raise NotSupported in a process that can have no children of ours."""
    if _is_child:
        raise NotSupported("a process that the library has started cannot start a manager")
    if getattr(sys, "frozen", False):
        raise NotSupported("a frozen application has no Python for the library's processes: run it from a virtual environment")
    for changed in (socket.socket, _thread.start_new_thread, queue.SimpleQueue, subprocess.Popen):
        library = str(changed.__module__).partition(".")[0]
        if library in ("gevent", "eventlet"):
            raise NotSupported(f"{library} has patched the standard library, whose threads and pipes are needed here")


def command(target: str, *arguments: object, report_to: int | None = None) -> list[str]:
    """The command of a process that calls ``target``, "module:function" of ours, with these arguments."""
    asked = {"target": target, "arguments": arguments, "home": _HOME, "path": _path(), "report_to": report_to}
    return [_python(), "-S", "-c", _BOOT, _OURS, json.dumps(asked)]


def environment() -> dict[str, str]:
    """What such a process is given of ours: all but a path of the caller's, which would be searched before we can say a word."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def start_process(module: str) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a process that runs ``module.main(connection)``, and our end of its pipe."""
    ours, theirs = (_above_standard_streams(end) for end in Pipe(duplex=True))
    level = logging.getLogger("jobmanager").getEffectiveLevel()
    pipe = theirs.fileno()
    try:
        process = subprocess.Popen(
            command("jobmanager.ipc.process:run_child", module, pipe, os.getpid(), level, report_to=pipe),
            env=environment(),
            pass_fds=[pipe],
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
    named = os.fsdecode(spawn.get_executable() or "")
    if _PYTHON.fullmatch(os.path.basename(named)):
        return named
    return os.path.join(sys.exec_prefix, "bin", "python3")


def _path() -> list[str]:
    """The caller's path as it was when the first child was started, then what has come since: later ones find the same."""
    now = _path_now()
    _first_path[:] = _first_path or now
    return list(dict.fromkeys([*_first_path, *now]))


def _path_now() -> list[str]:
    """The caller's path, with the script's and the current folder last."""
    path = [entry for entry in sys.path if isinstance(entry, str) and os.path.isabs(entry)]
    try:
        here = os.getcwd()
    except OSError:  # it was removed
        return path
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    own = {here} if script is None else {here, os.path.dirname(os.path.join(here, script))}
    relative = [os.path.join(here, entry) for entry in sys.path if isinstance(entry, str) and not os.path.isabs(entry)]
    return sorted([*path, *relative], key=own.__contains__)


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
    global _is_child
    _is_child = True
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
    exit_code = 0
    try:
        main(connection)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        if _is_ending(parent):
            _tidy_up(orphaned)
    except Exception as error:  # the process's edge: said in the caller's log, then another takes over
        exit_code = 1
        logging.getLogger(__name__).exception("%s failed", module)
        _say_last(error, connection.send)
    finally:
        logging.shutdown()
        os._exit(exit_code)  # threads that wait for an engine do not hold us up


def _say_last(error: Exception, send: Callable[[Any], None]) -> None:
    """Why this process ends, through the lock of whoever writes to the pipe beside us."""
    handlers = logging.getLogger("jobmanager").handlers
    sends = [handler.send for handler in handlers if isinstance(handler, _PipeHandler)]
    try:
        (sends[0] if sends else send)(said_of(error))
    except OSError:
        pass  # nobody is left to read it


def forward_logs(send: Callable[[Any], None], flush: Callable[[], None] = lambda: None) -> None:
    """Let this process's log records come out of the caller's handlers. ``flush``: see to it that what was sent is out."""
    logger = logging.getLogger("jobmanager")
    logger.handlers[:] = [_PipeHandler(send, flush)]
    logger.propagate = False


class _PipeHandler(logging.Handler):
    def __init__(self, send: Callable[[Any], None], flush: Callable[[], None]) -> None:
        super().__init__()
        self.send = send
        self._flush = flush

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):  # whatever it is, it costs this record: whoever logs here may be a loop's last guard
            record.msg, record.args = record.getMessage(), None
            if record.exc_info:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
                record.exc_info = None
            self.send(LogMessage(record=record))

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
