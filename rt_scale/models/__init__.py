"""Encoders, the projector, and how teacher and student are initialised."""
