"""Loaders: batches of images on a device."""
