"""Recommenders that are no language model.

Imports data, metrics, model and the ground floor.
"""
