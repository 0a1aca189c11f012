"""The waiter process: monitors of containers, and of the host."""
