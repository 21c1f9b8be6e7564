"""One module a kind of run."""
