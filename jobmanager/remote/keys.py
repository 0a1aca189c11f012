"""The names of all keys in Redis. ``docs/many-machines.md`` says what each holds."""

from __future__ import annotations

import re

from jobmanager.errors import InvalidValue

ANONYMOUS = "anonymous-"  # begins the names of clients that have no id of their own
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # RQ's queues and workers may have such names


def checked_name(what: str, name: str) -> str:
    """The name of a namespace, a node or a client.

    Raises:
        InvalidValue: it could not be part of a key, or of the name of an RQ queue.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidValue(
            f"{what} must be 1 to 64 letters, digits, '-' or '_', and begin with a letter or digit, not {name!r}"
        )
    return name


class Keys:
    """The keys of one namespace."""

    def __init__(self, namespace: str) -> None:
        """Raises InvalidValue: the namespace is no name."""
        self.namespace = checked_name("namespace", namespace)
        self.prefix = f"jm:{namespace}:"
        self.wait_queue = f"jm.{namespace}.wait"  # names of RQ queues
        self.rq_wait = f"rq:queue:{self.wait_queue}"
        self.rq_queues = "rq:queues"
        self.ids = f"{self.prefix}ids"
        self.nodes = f"{self.prefix}nodes"
        self.leader = f"{self.prefix}leader"
        self.epoch = f"{self.prefix}epoch"
        self.inbox = f"{self.prefix}inbox"
        self.generation = f"{self.prefix}generation"
        self.key_check = f"{self.prefix}key"
        self.snapshot = f"{self.prefix}snapshot"
        self.snapshot_wanted = f"{self.prefix}snapshot:wanted"
        self.shares = f"{self.prefix}shares"
        self.audit = f"{self.prefix}audit"

    def job(self, r: str) -> str:
        """A job's record."""
        return f"{self.prefix}job:{r}"

    def rq_job(self, r: str) -> str:
        """RQ's record of it."""
        return f"rq:job:{r}"

    def blob(self, sha256: str) -> str:
        """A piece of a task, by its hash."""
        return f"{self.prefix}blob:{sha256}"

    def job_blobs(self, r: str) -> str:
        """The pieces of one job's own input and result, by their hashes."""
        return f"{self.prefix}blobs:{r}"

    def output(self, r: str) -> str:
        """What a job that is followed prints."""
        return f"{self.prefix}out:{r}"

    def client(self, client: str, part: str = "") -> str:
        """A client's record, or a part of it: ``owner``, ``open``, ``results``, ``events``."""
        return f"{self.prefix}client:{client}" + (f":{part}" if part else "")

    def node(self, node: str, part: str = "") -> str:
        """A node's record, or a part of it: ``owner``, ``want``, ``jobs``, ``inbox``."""
        return f"{self.prefix}node:{node}" + (f":{part}" if part else "")

    def node_queue(self, node: str) -> str:
        """The name of a node's RQ queue."""
        return f"jm.{self.namespace}.node.{node}"

    def rq_node(self, node: str) -> str:
        """The key of a node's RQ queue."""
        return f"rq:queue:{self.node_queue(node)}"
