"""Comparisons with transformers and peft, which only these tests and bench import."""
