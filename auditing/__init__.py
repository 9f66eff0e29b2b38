"""The parts of audit.py: every term under our own code, a second implementation, and one held against the other; imports data, model, lora, loss, objectives."""
