"""One LoRA layer, its injection into a model, and adapter files; imports torch, safetensors, the ground floor (errors, files) and this room."""
