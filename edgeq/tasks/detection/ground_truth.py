"""From a data set of any format to what COCO's evaluation takes."""

from __future__ import annotations

from edgeq.datasets.split import AnnotatedImage, Split
from edgeq.errors import InputError
from edgeq.tasks.detection.coco import GroundTruth, ImageRecord

# Covers an image, and whatever a detector may find beside it.
_EVERYWHERE = (-1e6, -1e6, 3e6, 3e6)


def ground_truth_of(split: Split) -> GroundTruth:
    """Returns the boxes of a data set as COCO has them.

    Objects that are neither right nor wrong become crowds. So do, all over the image, categories of which LVIS has not
    annotated every object: a detection that matches none of those that are annotated is ignored, as its protocol says
    ("LVIS: A Dataset for Large Vocabulary Instance Segmentation", Gupta et al., 2019, section 3).

    Raises:
        InputError: there is no box.
    """
    if not split.box_count:
        raise InputError(
            f"{split.source}: is {split.format} with {len(split.images)} images and no box, so that detectors cannot "
            "be scored on it; wanted COCO, YOLO, Pascal VOC, CVAT or Label Studio with boxes"
        )
    annotations = [entry for image in split.images for entry in _entries(image)]
    return GroundTruth(
        source=split.source,
        images=tuple(ImageRecord(each.id, each.name, *(each.size_px or (0, 0))) for each in split.images),
        categories=split.categories,
        annotations=tuple({"id": number, **entry} for number, entry in enumerate(annotations, start=1)),
        class_map=split.class_map,
        verified={each.id: each.verified for each in split.images if each.verified is not None},
    )


def _entries(image: AnnotatedImage) -> list[dict[str, object]]:
    entries: list[dict[str, object]] = [
        {
            "image_id": image.id,
            "category_id": each.category_id,
            "bbox": list(each.box),
            "area": each.area_px,
            "iscrowd": int(each.is_ignored),
        }
        for each in image.objects
    ]
    for category in sorted(image.not_exhaustive):
        entries.append(
            {"image_id": image.id, "category_id": category, "bbox": list(_EVERYWHERE), "area": 0.0, "iscrowd": 1}
        )
    return entries
