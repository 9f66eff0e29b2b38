"""The parts of audit.py: every term under our own code, a second implementation, and one held against the other.

Imports data, model, loss, objectives, run and the ground floor.
"""
