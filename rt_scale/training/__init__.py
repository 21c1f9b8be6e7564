"""Distillation: objective, targets, optimiser, the loop and its checkpoints."""
