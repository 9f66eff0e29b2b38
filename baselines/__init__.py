"""Recommenders that are no language model; imports data and metrics."""
