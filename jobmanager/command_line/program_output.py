"""What a program prints, passed on to our own standard output and standard error as it comes."""

from __future__ import annotations

import codecs
import sys
import threading
from collections.abc import Iterable
from queue import SimpleQueue
from typing import TextIO

from jobmanager.command_line.printing import complain
from jobmanager.live_output.reader import LiveOutput
from jobmanager.live_output.run_buffer import Output
from jobmanager.model._escapes import escape_lines


class PassedOn:
    """One of our two streams.

    A file or a pipe gets the bytes as they are. A terminal gets text whose control characters are escaped, as the program is
    untrusted, and a terminal obeys: it changes its title, the clipboard, or what is on the screen. ``raw`` asks for the bytes.
    """

    def __init__(self, stream: TextIO, *, raw: bool) -> None:
        self._stream, self._is_terminal = stream, stream.isatty()
        self._decoder = None if raw or not self._is_terminal else codecs.getincrementaldecoder("utf-8")("replace")
        self.is_within_a_line = False  # of a terminal

    def write(self, data: bytes) -> None:
        """Pass on a piece, at once. It may end in the middle of a character."""
        if self._decoder is None:
            self._stream.buffer.write(data)
        else:
            self._stream.write(escape_lines(self._decoder.decode(data)))
        self._stream.flush()
        if data and self._is_terminal:
            self.is_within_a_line = not data.endswith(b"\n")

    def finish(self) -> None:
        """Nothing more comes."""
        if self._decoder is not None:
            self._stream.write(self._decoder.decode(b"", final=True))
            self._stream.flush()


def pass_on(live: LiveOutput, *, raw: bool) -> None:
    """Show a job's output until it ends. Where it ends within a line of a terminal, that line is ended.

    A thread reads it: a pipe may be read slowly, and what a manager keeps for a slow reader is less than a job may print.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    pieces: SimpleQueue[Output | None] = SimpleQueue()
    reader = threading.Thread(target=_read_all, args=(live, pieces), name="jobmanager-run-output", daemon=True)
    reader.start()
    try:
        _write_all(iter(pieces.get, None), raw=raw)
    finally:
        live.close()
        reader.join()


def _read_all(live: LiveOutput, pieces: SimpleQueue[Output | None]) -> None:
    try:
        for output in live:
            pieces.put(output)
    finally:
        pieces.put(None)


def _write_all(pieces: Iterable[Output], *, raw: bool) -> None:
    streams = {False: PassedOn(sys.stdout, raw=raw), True: PassedOn(sys.stderr, raw=raw)}
    for output in pieces:
        if output.missed_bytes:
            name = "standard error" if output.stderr else "standard output"
            why = "past its output limit, or faster than they were read"
            complain(f"{output.missed_bytes} bytes of {name} are missing here: {why}", 0)
        streams[output.stderr].write(output.data)
    for stream in streams.values():
        stream.finish()
    if any(stream.is_within_a_line for stream in streams.values()):
        sys.stderr.write("\n")
        sys.stderr.flush()
