"""Data sets, prompts, pairs and batches; imports numpy, torch, demo.world and the ground floor (errors, files), never model, lora or a verb: a tokenizer is passed in."""
