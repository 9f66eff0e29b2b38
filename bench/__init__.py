"""Measurements, each a command of its own; may import anything, and nothing imports it."""
