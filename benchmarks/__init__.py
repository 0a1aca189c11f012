"""Measures what issue and docs promise: ``python -m benchmarks [name ...]``. Nothing here is a test: no figure fails a build."""
