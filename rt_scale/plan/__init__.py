"""The time and money that sweeps will take, before they start."""
