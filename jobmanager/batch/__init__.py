"""One task over many inputs: ``map`` and ``amap``, the file of their results, and how two such files differ."""

from jobmanager.batch.comparison import BatchComparison, ComparedResult, compare
from jobmanager.batch.progress import BatchProgress

__all__ = ["BatchComparison", "BatchProgress", "ComparedResult", "compare"]
