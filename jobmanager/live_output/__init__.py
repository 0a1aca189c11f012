"""What a job prints, as it comes: its readers, what is kept for them, and who asks the waiters for it."""

from jobmanager.live_output.reader import LiveOutput

__all__ = ["LiveOutput"]
