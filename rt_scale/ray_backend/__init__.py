"""All that imports Ray: clusters, trials and data-parallel workers."""
