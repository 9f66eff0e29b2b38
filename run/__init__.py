"""A run: its inputs, its plan, its folder, its checkpoints and what comes out of it.

Imports every room but auditing, the verbs, bench and tests.
"""
