"""The built-in demo: films, simulated viewers, the small LLaMA's pre-training; imports model, errors, files."""
