"""The loop, its optimiser, targets and checkpoints."""
