"""Recommenders that are no language model; imports data, metrics, errors, files."""
