"""Which layers are quantized, on which grid each tensor lies, and what FP16 cannot hold."""
