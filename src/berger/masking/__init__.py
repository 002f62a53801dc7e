"""Decide what is hidden from a model."""
