"""What reports show of analyses: landscapes, connectivity, pruning."""
