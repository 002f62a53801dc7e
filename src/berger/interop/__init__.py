"""Doors to the ecosystem."""
