"""What sweeps will take, in time and money, before they start."""
