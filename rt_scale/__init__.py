"""rt-scale: sweeps of self-distillation from random teachers."""

__version__ = "0.1.0"
