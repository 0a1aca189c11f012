"""Errors of calls: wrong arguments, and calls that cannot be carried out now.

What happens to a job is never an error: it is a ``JobResult``.

::

    JobManagerError
    ├── InvalidValue (also a ValueError)      an invalid option, limit or name
    │   ├── InvalidTask
    │   ├── InvalidInput
    │   └── InvalidHost
    ├── JobRefused                            a valid job that this manager does not accept now
    │   ├── UnknownEnvironment                no host has, or could have, its image
    │   ├── Unsatisfiable                     no host is large enough for its limits, or has its network
    │   ├── QueueFull
    │   └── DuplicateJob
    ├── UnknownJob (also a LookupError)       no such job
    ├── NotStarted
    ├── Closed
    ├── EngineUnavailable                     ``start``: no Docker host answers
    ├── RedisUnavailable                      Redis does not answer, or refuses what is asked
    ├── NotSupported (also a NotImplementedError)
    ├── JobTimeout (also a TimeoutError)      ``ClientSync``, ``follow``: the caller's timeout is over
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
    "RedisUnavailable",
    "UnknownEnvironment",
    "UnknownJob",
    "Unsatisfiable",
    "WouldDeadlock",
]


class JobManagerError(Exception):
    """Root of everything that this library raises on purpose."""


class InvalidValue(JobManagerError, ValueError):
    """An argument is invalid; the message says which one, and what is allowed."""


class InvalidTask(InvalidValue):
    """A task that could not be run anywhere."""


class InvalidInput(InvalidValue):
    """A job's input that does not fit its task."""


class InvalidHost(InvalidValue):
    """A Docker host's url, certificates or limits are invalid, or there is no runner for its architecture."""


class JobRefused(JobManagerError):
    """The job was not accepted; nothing was started and no callback will be called."""


class UnknownEnvironment(JobRefused):
    """No known host has this environment, and none may pull it."""


class Unsatisfiable(JobRefused):
    """No known host could ever run the job: none is large enough for its limits, or none has the network that it names."""


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


class RedisUnavailable(JobManagerError):
    """Redis does not answer, or refuses what is asked; the message says what to do."""


class NotSupported(JobManagerError, NotImplementedError):
    """This version cannot do it, or not here."""


class JobTimeout(JobManagerError, TimeoutError):
    """The caller's timeout is over. ``ClientSync.new_job`` has killed the job; a job that is followed goes on."""


class WouldDeadlock(JobManagerError):
    """A callback would block until a job ends or prints, and could wait for itself."""
