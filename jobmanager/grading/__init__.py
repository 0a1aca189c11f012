"""Grading containers: what goes into them, and the messages that they exchange with their waiter."""
