"""LLaMA, its prefix tree, tokenizers, and checkpoints in and out; imports torch, safetensors, sentencepiece, the ground floor (errors, files) and this room."""
