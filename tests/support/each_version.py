"""``--dist each`` where several engines are of one version: each version runs all tests, and its engines share them by files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController


class EachVersionScheduling:
    """What pytest-xdist asks of a scheduler: one of its own for each version of Docker."""

    def __init__(self, config: pytest.Config, log: Producer, versions: Sequence[str]) -> None:
        """``versions``: of the engine of gw0, of gw1, and so on."""
        self._of_version = {version: LoadFileScheduling(config, log) for version in versions}
        self._of_worker = {f"gw{number}": self._of_version[version] for number, version in enumerate(versions)}
        for version, scheduler in self._of_version.items():
            scheduler.numnodes = versions.count(version)

    def _of(self, node: WorkerController) -> LoadFileScheduling:
        return self._of_worker[node.gateway.id]

    def __iter__(self) -> Iterator[LoadFileScheduling]:
        return iter(self._of_version.values())

    @property
    def nodes(self) -> list[WorkerController]:
        return list(chain.from_iterable(each.nodes for each in self))

    @property
    def collection_is_completed(self) -> bool:
        return all(each.collection_is_completed for each in self)

    @property
    def tests_finished(self) -> bool:
        return all(each.tests_finished for each in self)

    @property
    def has_pending(self) -> bool:
        return any(each.has_pending for each in self)

    def add_node(self, node: WorkerController) -> None:
        self._of(node).add_node(node)

    def remove_node(self, node: WorkerController) -> str | None:
        return self._of(node).remove_node(node)

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        self._of(node).add_node_collection(node, collection)

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        self._of(node).mark_test_complete(node, item_index, duration)

    def mark_test_pending(self, item: str) -> None:
        raise NotImplementedError

    def remove_pending_tests_from_node(self, node: WorkerController, indices: Sequence[int]) -> None:
        raise NotImplementedError

    def schedule(self) -> None:
        for each in self:
            each.schedule()
