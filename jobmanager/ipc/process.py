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
from jobmanager.ipc.boot import error_line
from jobmanager.ipc.messages import LogMessage

_BOOT = (  # imports nothing before it has cleaned the path: `-c` puts the current folder first
    "import sys; sys.path[:] = [place for place in sys.path if place];"
    " from importlib.machinery import PathFinder; from importlib.util import module_from_spec;"
    " spec = PathFinder.find_spec('boot', [sys.argv[1]]); boot = module_from_spec(spec); spec.loader.exec_module(boot);"
    " boot.main(sys.argv[2])"
)
_IPC_FOLDER = os.path.dirname(os.path.abspath(__file__))
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(_IPC_FOLDER))
_PYTHON_NAME = re.compile(r"(?i)(python|pypy)w?[0-9.]*[a-z]?(-dbg|-intel64|-32)?(\.exe)?")
_PARENT_DEATH_S = 3.0
_PARENT_EXIT_S = 1.0  # from the end of the parent's pipes to its own
_is_child = False
_first_path: list[str] = []

ChildMain = Callable[[Connection], None]


def check_children_possible() -> None:
    """Raise NotSupported in a process that cannot start the library's children."""
    if _is_child:
        raise NotSupported("a process that the library has started cannot start a manager")
    if getattr(sys, "frozen", False):
        raise NotSupported("a frozen application has no Python for the library's processes: run it from a virtual environment")
    check_standard_library()


def check_standard_library() -> None:
    """Raise NotSupported where gevent or eventlet has patched what the library's threads need."""
    for changed in (socket.socket, _thread.start_new_thread, queue.SimpleQueue, subprocess.Popen):
        library = str(changed.__module__).partition(".")[0]
        if library in ("gevent", "eventlet"):
            raise NotSupported(f"{library} has patched the standard library, whose threads and pipes are needed here")


def command(target: str, *arguments: object, report_to: int | None = None) -> list[str]:
    """The command line of a process that calls ``target``, a "module:function" of the library, with these arguments."""
    request = {"target": target, "arguments": arguments, "home": _PACKAGE_PARENT, "path": _path(), "report_to": report_to}
    return [_python(), "-S", "-c", _BOOT, _IPC_FOLDER, json.dumps(request)]


def environment() -> dict[str, str]:
    """The environment of such a process: ours without PYTHONPATH, which Python would search before our first line runs."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def start_process(module: str) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a process that runs ``module.main(connection)``; returns it and our end of its pipe."""
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
    """The interpreter; in a server that embeds Python (uWSGI), ``sys.executable`` is the server."""
    named = os.fsdecode(spawn.get_executable() or "")
    if _PYTHON_NAME.fullmatch(os.path.basename(named)):
        return named
    return os.path.join(sys.exec_prefix, "bin", "python3")


def _path() -> list[str]:
    """The caller's path at the start of the first child, then entries added since: later children find the same modules."""
    now = _path_now()
    _first_path[:] = _first_path or now
    return list(dict.fromkeys([*_first_path, *now]))


def _path_now() -> list[str]:
    """The caller's path; the script's folder and the current one come last."""
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
    """The same pipe end with a descriptor above 2: the caller may have closed its standard streams."""
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
    """Wait ``grace_s`` for the process to end, then kill it."""
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# ---- in the child


def run_child(module: str, fd: int, parent: int, level: int) -> None:
    """The main function of every child process."""
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
    on_parent_death: Callable[[], None] | None = getattr(code, "on_parent_death", None)
    threading.Thread(target=_exit_with_parent, args=(parent, on_parent_death), name="jobmanager-parent", daemon=True).start()
    exit_code = 0
    try:
        main(connection)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        if _is_parent_ending(parent):
            _clean_up(on_parent_death)
    except Exception as error:  # the process's edge: it goes into the caller's log, and another process takes over
        exit_code = 1
        logging.getLogger(__name__).exception("%s failed", module)
        _report_failure(error, connection.send)
    finally:
        logging.shutdown()
        os._exit(exit_code)  # does not wait for threads that wait for an engine


def _report_failure(error: Exception, send: Callable[[Any], object]) -> None:
    """Send why this process ends, under the lock of the pipe's other writer, if there is one."""
    handlers = logging.getLogger("jobmanager").handlers
    sends = [handler.send for handler in handlers if isinstance(handler, _PipeHandler)]
    try:
        (sends[0] if sends else send)(error_line(error))
    except OSError:
        pass  # the parent is gone


def forward_logs(send: Callable[[Any], object], flush: Callable[[], None] = lambda: None) -> None:
    """Send this process's log records to the caller's handlers. ``flush`` waits until what was sent is written."""
    logger = logging.getLogger("jobmanager")
    logger.handlers[:] = [_PipeHandler(send, flush)]
    logger.propagate = False


class _PipeHandler(logging.Handler):
    def __init__(self, send: Callable[[Any], object], flush: Callable[[], None]) -> None:
        super().__init__()
        self.send = send
        self._flush = flush

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):  # an error costs this record only: a loop's last guard may be logging
            record.msg, record.args = record.getMessage(), None
            if record.exc_info:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
                record.exc_info = None
            self.send(LogMessage(record=record))

    def flush(self) -> None:
        self._flush()


def _exit_with_parent(parent: int, on_parent_death: Callable[[], None] | None) -> None:
    """End this process when its parent ends. The pipe's end is not enough: a forked sibling may hold it open."""
    try:
        _wait_for_end(parent)
        _clean_up(on_parent_death)
    finally:
        os._exit(0)


def _is_parent_ending(parent: int) -> bool:
    """Whether the parent is ending, and did not just close our pipe: the kernel closes pipes before it reparents children."""
    until = time.monotonic() + _PARENT_EXIT_S
    while os.getppid() == parent and time.monotonic() < until:
        time.sleep(0.01)
    return os.getppid() != parent


def _clean_up(on_parent_death: Callable[[], None] | None) -> None:
    """A child's own clean-up after its parent's sudden end, for a bounded time."""
    if on_parent_death is not None:
        last = threading.Thread(target=on_parent_death, daemon=True)
        last.start()
        last.join(_PARENT_DEATH_S)


def _wait_for_end(parent: int) -> None:
    try:
        watched = os.pidfd_open(parent)
    except (AttributeError, OSError):  # not Linux, an old kernel, or gone already
        while os.getppid() == parent:
            time.sleep(0.5)
        return
    if os.getppid() == parent:
        select.select([watched], [], [])
