"""Tables, curves and pages from finished results; imports files and nothing that computes."""
