"""Files and commands that bring sweeps onto clusters: written, checked, and machines reached by SSH."""
