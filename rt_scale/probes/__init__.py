"""Probes: how well classifiers predict labels from embeddings."""
