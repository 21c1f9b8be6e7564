"""What lies between the networks of runs: lines and planes of weights. Measures on them, permutations of units."""
