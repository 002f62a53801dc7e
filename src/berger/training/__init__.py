"""Take steps, keep state, log, resume."""
