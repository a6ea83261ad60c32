"""Model inputs: image files and arrays in memory as one kind of item, and the one loop that prepares them."""

from __future__ import annotations

from edgeq.inputs.cache import InputCache
from edgeq.inputs.items import ImageFile, Item, Items, evenly_spaced, image_files, items_of, model_input
from edgeq.inputs.samples import MAX_UNREADABLE, OnUnreadable, Sample, UnreadableImages, prepared_samples

__all__ = [
    "MAX_UNREADABLE",
    "ImageFile",
    "InputCache",
    "Item",
    "Items",
    "OnUnreadable",
    "Sample",
    "UnreadableImages",
    "evenly_spaced",
    "image_files",
    "items_of",
    "model_input",
    "prepared_samples",
]
