"""How a run is executed: data, training, probes, checkpoints and the result."""
