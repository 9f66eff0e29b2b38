"""Recommenders that are no language model.

Imports data and the ground floor.
"""
