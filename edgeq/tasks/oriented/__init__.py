"""Oriented boxes: objects with a rectangle in any direction, scored by average precision with rotated IoU."""
