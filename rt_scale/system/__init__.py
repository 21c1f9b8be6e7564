"""The terminal, signals, the user's paths, cores and memory."""
