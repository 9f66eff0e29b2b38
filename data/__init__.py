"""Data sets, prompts, pairs, batches; imports numpy, torch, demo.world, errors, files; a tokenizer is passed in."""
