"""Measure once, assign per target."""
