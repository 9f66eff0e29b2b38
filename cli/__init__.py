"""The command-line parser, and the flags of each verb.

Imports data, objectives, model, machine and the ground floor.
"""
