"""The waiter process: what the watch over one container, and over its host, is made of."""
