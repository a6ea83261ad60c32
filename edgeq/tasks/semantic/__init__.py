"""Semantic segmentation: a class for every pixel of an image, scored by intersection over union."""
