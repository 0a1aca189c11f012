"""The supervisor: the program of a grading container's run. It starts the grader, and asks the waiter for what the grader wants.

::

    waiter ◄── the run's channel ──► supervisor ◄── .jobmanager/control ──► run_student, one connection a student
                                          └── starts ──► grader

One thread waits for all of them at once. It never blocks on a write: what the other end does not take yet is kept.
A student's output is bounded by its limits; what a student is sent, by its sender, who waits until it was taken.
Nothing that it starts has the channel.
"""

import os
import select
import signal
import socket
import sys
import time

if __name__ == "__main__":  # started as a file: then Python looks for modules beside it, where they are not modules but parts
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from jobmanager_grading import grader, messages, place

CUT_OFF = 254
_MAX_WAITING = 64  # pieces of messages that wait for the waiter; with more, requests are not read
_LONGEST_PIECE = 65536
_MAX_TOLD, _EACH_TOLD = 64 * 1024, 64  # bytes that a submitter may be told, and what each text counts beside its own
_FLUSH_S = 10.0  # for what the waiter has not taken when the grader has ended
_FIELDS = {  # of the request that a connection begins with
    "student": ("command", "environment", "cpu_time_s", "wall_time_s", "memory_mib", "share_network", "env"),
    "container": ("name", "environment", "memory_mib", "share_network"),
    "close": ("name",),
    "unsupported": ("reason",),
}  # type: dict[object, tuple[str, ...]]


class LinkBroken(Exception):
    """The waiter is gone while a student container runs or is asked for."""


class StudentConnection:
    """The connection of a process that asks for a student container, and then carries its streams."""

    def __init__(self, channel: "socket.socket") -> "None":
        self.channel = channel
        self.student = 0  # its id; 0: not asked for yet
        self.asked = {}  # type: dict[str, object]  # what it began with
        self.over = False  # nothing more will be sent to it
        self._lines = messages.LineBuffer()
        self._unsent = bytearray()

    def interest(self, listen: "bool") -> "int":
        """The events to poll for. ``poll`` reports the other end's death in any case."""
        return (select.POLLIN if listen else 0) | (select.POLLOUT if self._unsent else 0)

    def receive(self) -> "list[dict[str, object]] | None":
        """Messages that have arrived; None when the other end is gone. Raises ValueError for an invalid one."""
        try:
            data = self.channel.recv(256 * 1024)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return [messages.read(line) for line in self._lines.feed(data)] if data else None

    def send(self, line: "bytes") -> "None":
        """Send a line, now or when the other end reads."""
        self._unsent += line
        self.flush()

    def flush(self) -> "None":
        """Send as much as the other end takes."""
        try:
            sent = self.channel.send(self._unsent) if self._unsent else 0
            del self._unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # it is gone; the next read reports it

    @property
    def done(self) -> "bool":
        """Whether everything has been sent."""
        return self.over and not self._unsent


class Supervisor:
    """Relays between the grader's clients and the waiter until the grader has ended."""

    def __init__(self, link: "socket.socket", listener: "socket.socket", ended: "int") -> "None":
        self._link = link
        self._link_is_up = True
        self._pieces = messages.PieceBuffer()
        self._listener = listener
        self._ended = ended
        self._clients = {}  # type: dict[int, StudentConnection]  # by file descriptor
        self._students = {}  # type: dict[int, StudentConnection]  # by id
        self._containers = {}  # type: dict[object, dict[str, object]]  # those that are kept, by name, as they were asked for
        self._last_id = 0
        self._told, self._told_bytes = 0, 0
        self._waiting = []  # type: list[bytes]  # pieces for the waiter, in their order

    def relay_until_end(self, child: "int") -> "int":
        """Relay until the grader has ended; its exit code."""
        while True:
            code = _exit_code(child)
            if code is not None:
                self._flush()
                return code
            self._once()

    def report_broken_link(self) -> "None":
        """Tell the waiter that the link broke, if it still reads."""
        try:
            self._link.send(messages.CUT_OFF)
        except OSError:
            pass

    def _flush(self) -> "None":
        """What the grader told its submitter at the end is still on its way."""
        until = time.monotonic() + _FLUSH_S
        poller = select.poll()
        poller.register(self._link, select.POLLOUT)
        while self._waiting and self._link_is_up and time.monotonic() < until:
            for _, happened in poller.poll(int(1000 * _FLUSH_S)):
                self._talk_with_waiter(happened)

    def _once(self) -> "None":
        for fd, happened in self._wait():
            if fd == self._ended:
                os.read(fd, 4096)
            elif fd == self._link.fileno():
                self._talk_with_waiter(happened)
            elif fd == self._listener.fileno():
                self._accept()
            else:
                self._serve(self._clients[fd], happened)
        for client in [client for client in self._clients.values() if client.done]:
            self._drop(client)
        if self._students and not self._link_is_up:
            raise LinkBroken

    def _wait(self) -> "list[tuple[int, int]]":
        poller = select.poll()
        poller.register(self._ended, select.POLLIN)
        poller.register(self._listener, select.POLLIN)
        if self._link_is_up:
            poller.register(self._link, select.POLLIN | (select.POLLOUT if self._waiting else 0))
        for fd, client in self._clients.items():
            poller.register(fd, client.interest(len(self._waiting) < _MAX_WAITING))
        return poller.poll()

    def _talk_with_waiter(self, happened: "int") -> "None":
        try:
            if happened & ~select.POLLOUT:
                self._receive_from_waiter()
            if happened & select.POLLOUT and self._waiting:
                self._link.send(self._waiting[0])
                del self._waiting[0]
        except BlockingIOError:
            pass
        except OSError:
            self._lose_link()

    def _receive_from_waiter(self) -> "None":
        piece = self._link.recv(_LONGEST_PIECE)
        if not piece:
            self._lose_link()
            return
        data = self._pieces.feed(piece)
        if data is None:
            return
        message = messages.read(data)
        if message["type"] == "open":  # from a waiter that has taken over
            answer = {
                "type": "open",
                "id": message.get("id"),
                "students": list(self._students),
                "containers": list(self._containers.values()),
            }
            self._waiting += messages.pieces(answer)
            return
        student = message.get("id")
        client = self._students.get(student) if isinstance(student, int) else None
        if client is None:
            return
        client.send(data + b"\n")
        if message["type"] == "end":
            client.over = True
            del self._students[client.student]
            self._note_container(client.asked, message)

    def _note_container(self, asked: "dict[str, object]", end: "dict[str, object]") -> "None":
        """What a waiter that takes over has to know: which names are open."""
        if end.get("outcome") != "success":
            return
        if asked["type"] == "container":
            self._containers[asked["name"]] = {name: asked[name] for name in _FIELDS["container"] if name in asked}
        elif asked["type"] == "close":
            self._containers.pop(asked["name"], None)

    def _lose_link(self) -> "None":
        self._waiting = []
        self._link_is_up = False

    def _accept(self) -> "None":
        try:
            channel, _ = self._listener.accept()
        except OSError:
            return  # it has gone again, or there are too many
        channel.setblocking(False)
        self._clients[channel.fileno()] = StudentConnection(channel)

    def _serve(self, client: "StudentConnection", happened: "int") -> "None":
        if happened & select.POLLOUT:
            client.flush()
        if not happened & ~select.POLLOUT:
            return
        try:
            received = client.receive()
            if received is None:
                self._drop(client)
                return
            for message in received:
                self._handle(client, message)
        except ValueError as error:
            self._refuse(client, f"the supervisor received an invalid message: {error}")

    def _handle(self, client: "StudentConnection", message: "dict[str, object]") -> "None":
        kind = message["type"]
        if kind == "ssh" and not client.student:
            self._waiting += messages.pieces({"type": kind, "text": message.get("text")})
            client.over = True
        elif kind == "tell" and not client.student:
            self._tell(client, str(message.get("text", "")))
        elif kind in _FIELDS and not client.student:
            self._last_id += 1
            client.student = self._last_id
            self._students[client.student] = client
            client.asked = message
            self._queue(kind, client, {name: message[name] for name in _FIELDS[kind] if name in message})
        elif kind == "stdin" and client.student in self._students:
            self._queue("stdin", client, {"data": message.get("data")})
        elif kind == "kill" and client.student in self._students:
            self._queue("kill", client, {})
        elif not client.student or kind not in ("stdin", "kill"):
            raise ValueError(f"a connection begins with one request for a student, not {kind!r}")

    def _tell(self, client: "StudentConnection", text: "str") -> "None":
        """A text for the submitter. Its number lets the manager know one that a second waiter reads again."""
        size = len(text.encode("utf-8", "replace")) + _EACH_TOLD
        if self._told_bytes + size > _MAX_TOLD:
            self._refuse(client, f"the submitter has been told {self._told_bytes} bytes already: at most {_MAX_TOLD} go")
            return
        self._told, self._told_bytes = self._told + 1, self._told_bytes + size
        self._waiting += messages.pieces({"type": "tell", "id": self._told, "text": text})
        client.send(messages.line({"type": "end", "id": 0, "outcome": "success"}))
        client.over = True

    def _queue(self, kind: "object", client: "StudentConnection", fields: "dict[str, object]") -> "None":
        self._waiting += messages.pieces(dict(fields, type=kind, id=client.student))

    def _refuse(self, client: "StudentConnection", reason: "str") -> "None":
        if self._students.pop(client.student, None) is not None:
            self._queue("kill", client, {})
        client.send(messages.line({"type": "end", "id": client.student, "outcome": "error", "text": reason}))
        client.over = True

    def _drop(self, client: "StudentConnection") -> "None":
        """Close a connection that is gone. Its student container is killed."""
        if self._students.pop(client.student, None) is not None:
            self._queue("kill", client, {})
        del self._clients[client.channel.fileno()]
        client.channel.close()


def _exit_code(child: "int") -> "int | None":
    """The exit code of a child that has ended, as a shell reports it; None while it runs."""
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid == 0:
        return None
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _channel() -> "socket.socket":
    """The channel of this run. What we start does not have it, and does not hear of it."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, int(os.environ.pop("JOBMANAGER_CHANNEL")))
    os.set_inheritable(channel.fileno(), False)
    channel.setblocking(False)
    return channel


def _child_ended_descriptor() -> "int":
    """A descriptor that becomes readable when a child has ended."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return read


def _listening() -> "socket.socket":
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    others = os.umask(0o077)
    listener.bind(place.CONTROL)
    os.umask(others)
    listener.listen(64)
    listener.setblocking(False)
    return listener


def _link_course_folder() -> "None":
    """Graders written for INGInious find their course's files in a folder of their own, which is empty here."""
    if place.TASK != "/task" or not os.path.isdir(place.COURSE):
        return
    for name in os.listdir(place.COURSE):
        try:
            os.symlink(os.path.join(place.COURSE, name), os.path.join(place.OLD_COURSE, name))
        except OSError as error:
            sys.stderr.write(f"{place.OLD_COURSE}/{name} is not there: {error}\n")


def _archive_old_folder() -> "None":
    """Graders written for INGInious put the files that they return into another folder."""
    if place.TASK == "/task" and os.path.isdir(place.OLD_ARCHIVE) and os.listdir(place.OLD_ARCHIVE):
        from jobmanager_grading import errors, files

        try:
            files.archive_folder(place.OLD_ARCHIVE)
        except errors.GradingError as error:
            sys.stderr.write(f"{error}\n")


def main(given: "list[str]") -> "int":
    """Run the grader, given words or the task's own script; the exit code."""
    os.makedirs(place.ARCHIVE, exist_ok=True)  # so that a folder without it is known to be no workspace of ours
    _link_course_folder()
    supervisor = Supervisor(_channel(), _listening(), _child_ended_descriptor())
    try:
        child = grader.start(grader.words(given))
    except grader.CannotStart as error:
        sys.stderr.write(f"the grader cannot be started: {error}\n")
        return error.exit_code
    try:
        code = supervisor.relay_until_end(child)
        _archive_old_folder()
        return code
    except LinkBroken:
        pass
    except Exception:  # noqa: BLE001 - whatever it is, the grader's verdict is not to be trusted
        import traceback

        traceback.print_exc()
    os.kill(child, signal.SIGKILL)
    supervisor.report_broken_link()
    return CUT_OFF


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
