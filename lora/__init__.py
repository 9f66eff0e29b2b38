"""One LoRA layer, its injection into a model, and adapter files.

Imports torch, safetensors, the ground floor (errors, files, tensors) and this room.
"""
