"""The command-line parser and the flags of each verb; imports data, objectives, model, lora, machine and the ground floor (errors, files)."""
