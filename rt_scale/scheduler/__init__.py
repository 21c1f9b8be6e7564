"""Which run is executed next, and how it came out. Independent of Ray."""
