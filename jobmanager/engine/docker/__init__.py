"""The Docker adapter: the only place that imports docker."""
