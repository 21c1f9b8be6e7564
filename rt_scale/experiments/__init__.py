"""What a run does: it trains, is probed, and goes on where it was."""
