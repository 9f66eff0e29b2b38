"""The built-in demo: a film catalogue, simulated viewers, and the pre-training of the small LLaMA.

Its world imports nothing of ours.
"""
