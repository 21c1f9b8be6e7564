"""Several students trained as one batched network."""
