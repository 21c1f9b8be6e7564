"""What is around a run: the terminal, signals, paths of the user, cores and memory."""
