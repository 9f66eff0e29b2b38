"""LLaMA, its prefix tree, a frozen BERT, tokenizers, and checkpoints in and out.

Imports torch, safetensors, sentencepiece, the ground floor (errors, files, tensors) and this room.
"""
