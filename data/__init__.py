"""Data sets, prompts, pairs and batches.

Imports numpy, torch, demo.world and the ground floor; never model, lora or a verb: a tokenizer is passed in.
"""
