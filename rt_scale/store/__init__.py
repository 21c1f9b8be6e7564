"""Where runs are kept: run directories, leases, checkpoints, metrics and the TensorBoard view."""
