"""What each --objective feeds to the model, and the loss that it computes from the logits.

Imports data, loss, model and the ground floor.
"""
