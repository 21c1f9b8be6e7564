"""Readers of originals, one a format. Files are found and fetched by ``rt_scale.data.originals``."""
