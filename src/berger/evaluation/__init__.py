"""Produce honest numbers: protocol, metrics, statistics, baselines."""
