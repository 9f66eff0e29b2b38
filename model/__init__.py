"""LLaMA, its prefix tree, tokenizers, and checkpoints in and out.

Imports torch, safetensors, sentencepiece, the ground floor (errors, files, tensors) and this room.
"""
