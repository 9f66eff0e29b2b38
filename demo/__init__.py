"""The built-in demo: a film catalogue, simulated viewers, and the pre-training of the small LLaMA; the world itself imports nothing of ours."""
