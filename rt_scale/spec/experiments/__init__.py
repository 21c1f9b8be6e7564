"""The specs of the kinds of runs, one file a kind; ``spec.kinds`` has them by name."""
