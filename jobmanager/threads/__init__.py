"""Threads of the caller's process: which of them takes locks, calls log handlers, callbacks and hooks, and may wait."""
