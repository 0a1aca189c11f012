"""A ranking: items by rank, the lowest first, where ranks change and items leave."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_MOST_OLD = 50  # entries that no longer stand, beyond as many as do, before they are tidied away


class Ranking(Generic[T]):
    """Each operation takes a time that grows with the logarithm of how many items there are. Not thread-safe."""

    def __init__(self) -> None:
        self._ranks: dict[T, Any] = {}  # what stands
        self._heap: list[tuple[Any, int, T]] = []  # what stands, and what stood before
        self._serials = itertools.count()

    def __len__(self) -> int:
        return len(self._ranks)

    def __bool__(self) -> bool:
        return bool(self._ranks)

    def __contains__(self, item: T) -> bool:
        return item in self._ranks

    def set(self, item: T, rank: Any) -> None:
        """Put an item in, or change its rank. Ranks are compared with each other; among equals the one set first is first."""
        if self._ranks.get(item) == rank:
            return
        self._ranks[item] = rank
        heapq.heappush(self._heap, (rank, next(self._serials), item))
        self._tidy_up()

    def drop(self, item: T) -> None:
        """Take an item out; nothing happens when it is not in."""
        if self._ranks.pop(item, None) is not None:
            self._tidy_up()

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

    def _tidy_up(self) -> None:
        if len(self._heap) > 2 * len(self._ranks) + _MOST_OLD:
            self._heap = [entry for entry in self._heap if self._ranks.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)
