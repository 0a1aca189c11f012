"""Tells hooks what jobs print, and how much of it they were too slow for."""

from __future__ import annotations

import time
from collections.abc import Iterable

from jobmanager.events import JobOutput
from jobmanager.hooks import HookManager
from jobmanager.live_output.output_buffer import OutputBuffer
from jobmanager.live_output.run_buffer import Output


class OutputHooks:
    """The hooks for ``JobOutput``. What they miss is remembered in a job's buffer, and told with the next piece."""

    def __init__(self, hooks: HookManager) -> None:
        self._hooks = hooks

    def are_wanted(self) -> bool:
        """Whether there is such a hook."""
        return self._hooks.wants(JobOutput)

    def fire_all(self, buffer: OutputBuffer, outputs: Iterable[Output]) -> None:
        """Fire the hooks for all that was added."""
        for output in outputs:
            if output.case is not None:  # it has an event of its own
                continue
            if output.starts_again:
                buffer.missed_by_hooks.clear()
            if self.are_wanted():
                self.fire_missed(buffer, but_of=output.phase)
                self._fire(buffer, output)

    def fire_missed(self, buffer: OutputBuffer, *, but_of: str | None = None) -> None:
        """Fire what hooks were too slow for: in all phases, or all but one, which goes on."""
        for phase, stderr in [stream for stream in buffer.missed_by_hooks if stream[0] != but_of]:
            self._fire(buffer, Output(stderr=stderr, data=b"", phase=phase))

    def _fire(self, buffer: OutputBuffer, output: Output) -> None:
        missed = buffer.missed_by_hooks.pop((output.phase, output.stderr), 0) + output.missed_bytes
        is_fired = self._hooks.fire(
            JobOutput(
                at_s=time.time(),
                job_id=buffer.job_id,
                stderr=output.stderr,
                data=output.data,
                missed_bytes=missed,
                starts_again=output.starts_again,
                phase=output.phase,
                to_submitter=output.to_submitter,
            )
        )
        if not is_fired and missed + len(output.data):
            buffer.missed_by_hooks[output.phase, output.stderr] = missed + len(output.data)
