"""Sweeps of a store in one file."""
