"""How far runs and sweeps are, in the terminal."""
