"""A heap: a priority queue whose items may leave, or change their rank."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_MAX_STALE = 50  # stale heap entries, beyond the number of items, before the heap is rebuilt


class PriorityHeap(Generic[T]):
    """Items by rank, the lowest first. Each operation takes O(log n) time on average. Not thread-safe."""

    def __init__(self) -> None:
        self._ranks: dict[T, Any] = {}  # the present ones
        self._heap: list[tuple[Any, int, T]] = []  # present and former ranks; a former one is skipped when it comes first
        self._serials = itertools.count()

    def __len__(self) -> int:
        return len(self._ranks)

    def __bool__(self) -> bool:
        return bool(self._ranks)

    def __contains__(self, item: T) -> bool:
        return item in self._ranks

    def set(self, item: T, rank: Any) -> None:
        """Put an item in, or change its rank. Among equal ranks the one that was set first is first."""
        if self._ranks.get(item) == rank:
            return
        self._ranks[item] = rank
        heapq.heappush(self._heap, (rank, next(self._serials), item))
        self._compact()

    def drop(self, item: T) -> None:
        """Take an item out, if it is in."""
        if self._ranks.pop(item, None) is not None:
            self._compact()

    def first(self) -> T | None:
        """The item of the lowest rank; None when there is none."""
        heap, ranks = self._heap, self._ranks
        while heap:
            rank, _, item = heap[0]
            if ranks.get(item) == rank:
                return item
            heapq.heappop(heap)
        return None

    def lowest(self) -> Any:
        """The lowest rank; there must be one."""
        first = self.first()
        assert first is not None
        return self._ranks[first]

    def _compact(self) -> None:
        if len(self._heap) > 2 * len(self._ranks) + _MAX_STALE:
            self._heap = [entry for entry in self._heap if self._ranks.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)
