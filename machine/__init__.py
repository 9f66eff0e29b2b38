"""What the hardware and the operating system ask for: devices, memory, signals, several processes.

Imports model and the ground floor; the only room that touches torch.distributed.
"""
