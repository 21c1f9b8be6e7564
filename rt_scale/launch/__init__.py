"""Where runs are executed: this process, or Ray Tune."""
