"""What a run is: validated values and their hash."""
