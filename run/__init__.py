"""The run folder: configuration, checkpoints, resuming, results; imports every room but the verbs, bench and tests."""
