"""The command-line parser and every verb's flags; imports data, objectives, model, lora, machine, errors, files."""
