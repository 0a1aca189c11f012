"""What a caller can do wrong, and what can be wrong at the call.

What happens to a job is never one of these: it is a ``JobResult``.

::

    JobManagerError
    ├── InvalidValue (also a ValueError)      an option, a limit, a name that makes no sense
    │   ├── InvalidTask
    │   ├── InvalidInput
    │   └── InvalidHost
    ├── JobRefused                            a good job that this manager will not take now
    │   ├── UnknownEnvironment                no host has, or could have, its image
    │   ├── Unsatisfiable                     no host is large enough for its limits
    │   ├── QueueFull
    │   └── DuplicateJob
    ├── UnknownJob (also a LookupError)       no such job here
    ├── NotStarted
    ├── Closed
    ├── EngineUnavailable                     ``start``: no Docker host answers
    ├── NotSupported (also a NotImplementedError)
    ├── JobTimeout (also a TimeoutError)      ``ClientSync``, ``follow``: the caller's own patience is over
    └── WouldDeadlock                         a blocking wait inside a callback
"""

from __future__ import annotations

__all__ = [
    "Closed",
    "DuplicateJob",
    "EngineUnavailable",
    "InvalidHost",
    "InvalidInput",
    "InvalidTask",
    "InvalidValue",
    "JobManagerError",
    "JobRefused",
    "JobTimeout",
    "NotStarted",
    "NotSupported",
    "QueueFull",
    "UnknownEnvironment",
    "UnknownJob",
    "Unsatisfiable",
    "WouldDeadlock",
]


class JobManagerError(Exception):
    """Root of everything that this library raises on purpose."""


class InvalidValue(JobManagerError, ValueError):
    """An argument makes no sense; the message says which, and what would."""


class InvalidTask(InvalidValue):
    """A task that could not be run anywhere."""


class InvalidInput(InvalidValue):
    """A job's input that does not fit its task."""


class InvalidHost(InvalidValue):
    """A Docker host's url, certificates or limits make no sense."""


class JobRefused(JobManagerError):
    """The job was not taken; nothing was started and no callback will come."""


class UnknownEnvironment(JobRefused):
    """No known host has this environment, and none may fetch it."""


class Unsatisfiable(JobRefused):
    """No known host could ever run a job with these limits."""


class QueueFull(JobRefused):
    """``max_waiting_jobs`` jobs are waiting already."""


class DuplicateJob(JobRefused):
    """A job with this id has not ended yet, or its callback has not returned."""


class UnknownJob(JobManagerError, LookupError):
    """This object knows no job with that id (or its result was fetched already)."""


class NotStarted(JobManagerError):
    """The manager has not been started."""


class Closed(JobManagerError):
    """The manager has been closed, or is closing."""


class EngineUnavailable(JobManagerError):
    """No Docker host answers."""


class NotSupported(JobManagerError, NotImplementedError):
    """Something that this version cannot do."""


class JobTimeout(JobManagerError, TimeoutError):
    """The caller has waited long enough: ``ClientSync.new_job`` has killed the job; one that is followed goes on."""


class WouldDeadlock(JobManagerError):
    """A blocking wait for a job, or for its output, inside a callback, which could wait for itself."""
