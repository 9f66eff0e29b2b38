"""Tests, one file per module; may import anything, and nothing imports them."""
