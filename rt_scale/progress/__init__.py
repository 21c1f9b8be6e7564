"""Progress of runs and sweeps in the terminal."""
