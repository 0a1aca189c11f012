"""A fake engine in one process: behind ``jobmanager.testing``, and for faults that a real one cannot show on demand."""
