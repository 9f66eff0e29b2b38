"""One forward pass over prompts, and from a split to its scores.

Imports data, baselines, model, loss, metrics, machine and the ground floor.
"""
