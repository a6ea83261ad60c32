"""Instance segmentation: objects with a mask each, scored by COCO's average precision of masks."""
