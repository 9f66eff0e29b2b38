"""LLaMA, prefix tree, tokenizers, checkpoints; imports torch, safetensors, sentencepiece, errors, files, this room."""
