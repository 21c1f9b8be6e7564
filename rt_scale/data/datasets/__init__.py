"""Data sets: how the original of each is read."""
