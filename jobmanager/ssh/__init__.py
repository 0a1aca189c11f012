"""Debug sessions in a job's container, and tunnels to Docker hosts that are reached by SSH."""
