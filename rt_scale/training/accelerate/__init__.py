"""Faster ways to compute a student's pass."""
