"""Run directories: leases, checkpoints, metrics and results."""
