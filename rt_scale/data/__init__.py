"""Data sets, their prepared file, and batches on a device."""
