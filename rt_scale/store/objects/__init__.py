"""Stores in an object store: S3 or Google Cloud Storage."""
