"""What a run is: validated values, their content hash, and how sweeps expand to them."""
