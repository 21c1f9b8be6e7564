"""Which run is executed next, and what becomes of it. It knows no Ray."""
