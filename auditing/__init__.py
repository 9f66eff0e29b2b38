"""Every term of a pair's loss, computed twice and compared; may import loss, model, lora and data, but no verb."""
