"""Readers: batches of images on a device."""
