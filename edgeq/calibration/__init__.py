"""What is gathered about a model's tensors while calibration images run through it."""
