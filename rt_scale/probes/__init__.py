"""Probes: how well labels can be read off embeddings."""
