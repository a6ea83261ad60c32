"""Classification: images with labels, the scores that a model gives them, and top-1 and top-5 accuracy."""
