"""Tables, curves and pages from finished results.

Imports data, objectives, cli and the ground floor, and nothing that computes.
"""
