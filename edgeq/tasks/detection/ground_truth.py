"""From a data set of any format to what COCO's evaluation takes."""

from __future__ import annotations

from typing import Any

from edgeq.datasets.split import AnnotatedImage, Annotation, Split
from edgeq.errors import InputError
from edgeq.tasks.detection.coco import GroundTruth, ImageRecord, Shape

# Covers an image, and whatever a detector may find beside it.
_EVERYWHERE = (-1e6, -1e6, 3e6, 3e6)


def ground_truth_of(split: Split) -> GroundTruth:
    """Returns the objects of a data set as COCO has them.

    Objects that are neither right nor wrong become crowds. So do, all over the image, categories of which LVIS has not
    annotated every object: a detection that matches none of those that are annotated is ignored, as its protocol says
    ("LVIS: A Dataset for Large Vocabulary Instance Segmentation", Gupta et al., 2019, section 3).

    Raises:
        InputError: there is no box.
    """
    if not split.box_count:
        raise InputError(
            f"{split.source}: is {split.format} with {len(split.images)} images and no box, so that models that "
            "find objects cannot be scored on it; wanted COCO, YOLO, Pascal VOC, CVAT or Label Studio with boxes"
        )
    objects = [entry for image in split.images for entry in _entries(image)]
    return GroundTruth(
        source=split.source,
        images=tuple(ImageRecord(each.id, each.name, *(each.size_px or (0, 0))) for each in split.images),
        categories=split.categories,
        annotations=tuple({"id": number, **entry} for number, (entry, _) in enumerate(objects, start=1)),
        shapes={number: shape for number, (_, shape) in enumerate(objects, start=1)},
        class_map=split.class_map,
        verified={each.id: each.verified for each in split.images if each.verified is not None},
    )


def _entries(image: AnnotatedImage) -> list[tuple[dict[str, object], Shape]]:
    entries: list[tuple[dict[str, object], Shape]] = [
        (
            {
                "image_id": image.id,
                "category_id": each.category_id,
                "bbox": list(each.box),
                "area": each.area_px,
                "iscrowd": int(each.is_ignored),
            },
            Shape(segmentation_of(each), each.keypoints),
        )
        for each in image.objects
    ]
    width, height = image.size_px or (0, 0)
    everywhere = Shape({"size": [height, width], "counts": [0, width * height]})
    for category in sorted(image.not_exhaustive):
        entry = {"image_id": image.id, "category_id": category, "bbox": list(_EVERYWHERE), "area": 0.0, "iscrowd": 1}
        entries.append((entry, everywhere))
    return entries


def segmentation_of(entry: Annotation) -> Any:
    """Returns the outlines or the mask of an object as COCO files have them; `None` if it has neither."""
    if entry.mask is not None:
        width, height = entry.mask.size_px
        counts = entry.mask.counts
        return {"size": [height, width], "counts": counts if isinstance(counts, str) else list(counts)}
    return [list(polygon) for polygon in entry.polygons] or None
