"""What comes out of a model: decoding outputs, data sets with their truth, scores."""
