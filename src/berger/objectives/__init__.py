"""Say what is learned: masks, targets, losses."""
