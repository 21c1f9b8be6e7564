"""Data sets: where they come from, the prepared file, and batches of images on a device."""
