"""Encoders, the projector, and how both are initialised."""
