"""What the hardware and the operating system ask for: devices, memory, signals, several processes, the plan; imports data, model, objectives and the ground floor."""
