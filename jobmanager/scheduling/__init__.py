"""Policy without I/O: the waiting queue, the hosts, the ledger. The clock is injected."""
