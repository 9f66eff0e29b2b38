"""One forward pass over prompts, and from a split to its scores; imports data, model, loss, metrics, machine and the ground floor."""
