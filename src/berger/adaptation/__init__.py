"""Fit a pretrained encoder to a new montage, rate and label."""
