"""Take steps, keep state, log, resume."""

LONGEST_WAIT = 0.03
"""Share of a training in which it may wait for data."""
