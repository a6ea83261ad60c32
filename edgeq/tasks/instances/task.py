"""Instance segmentation: COCO's twelve numbers, with the overlap of masks instead of that of boxes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.inputs.items import Item
from edgeq.results.evaluation import Score, Suspicion
from edgeq.tasks.detection.categories import category_ids, is_counted
from edgeq.tasks.detection.coco import GroundTruth, summarize
from edgeq.tasks.detection.coco_engine import CocoProblem, evaluate_problem, match_problem
from edgeq.tasks.detection.coco_task import CocoTask
from edgeq.tasks.detection.matched import MatchedPredictions
from edgeq.tasks.detection.suspicions import is_quantized, suspect_findings
from edgeq.tasks.detection.task import DetectionClass, DetectionScore
from edgeq.tasks.evidence import label_of, require
from edgeq.tasks.instances.instances import Instances
from edgeq.tasks.instances.result_files import CocoMasks, YoloOutlines
from edgeq.tasks.masks import RunLengths, compress, to_rle
from edgeq.tasks.result_files import ResultFile
from edgeq.tasks.shapes import Mask, PixelSet

_FORM = {
    "size_px": ("int32", 1), "scores": ("float32", 1), "classes": ("int64", 1), "counts": ("int64", 1),
    "runs": ("int32", 1),
}  # fmt: skip

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class InstanceScore(DetectionScore):
    """COCO's twelve numbers of masks, 0..1; `None` if there is no object to find."""

    task = "instance-segmentation"
    figures = "AP and AR of masks"
    parts_by = "size of the objects"
    class_titles = ("objects", "AP", "AP50", "AR")


@dataclass(frozen=True, eq=False)
class InstancePredictions(MatchedPredictions):
    """What the masks of images match."""

    task = "instance-segmentation"
    finding_type = Mask
    areas: ClassVar[Mapping[str, int]] = {"AP": 0, "AP_small": 1, "AP_medium": 2, "AP_large": 3}


class InstanceTask(CocoTask[Instances]):
    """COCO's twelve numbers for models that give each object a mask."""

    name = "instance-segmentation"
    decoders: ClassVar[Mapping[str, str]] = {
        "mask-rcnn": "edgeq.tasks.instances.mask_rcnn:decode",
        "yolo-seg": "edgeq.tasks.instances.yolo_seg:decode",
    }
    score_type = InstanceScore
    finding_type = Mask
    records_type = InstancePredictions

    def __init__(self, truth: GroundTruth, items: Sequence[Item], engine: str) -> None:
        super().__init__(truth, items, engine)
        self._truth = _with_masks(truth)

    @classmethod
    def to_arrays(cls, prediction: Instances) -> Mapping[str, np.ndarray]:
        """Returns the size of the image, scores, classes, and the runs of the masks."""
        return {
            "size_px": np.array(prediction.size_px, np.int32),
            "scores": prediction.scores,
            "classes": prediction.classes,
            "counts": prediction.masks.counts,
            "runs": prediction.masks.runs,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Instances:
        """Returns the objects.

        Raises:
            ValueError: an array is missing, of another dtype or shape, or a mask does not fill the image.
        """
        found = {name: (array.dtype.name, array.ndim) for name, array in arrays.items()}
        require(found == _FORM, f"arrays {found}")
        masks = RunLengths(arrays["counts"], arrays["runs"])
        count = len(arrays["scores"])
        require(len(arrays["classes"]) == len(masks.counts) == count, "arrays of different lengths")
        require(len(arrays["size_px"]) == 2, "a size of two numbers")
        require(masks.counts.min(initial=1) > 0 and masks.counts.sum() == len(masks.runs), "runs that do not add up")
        width, height = arrays["size_px"].tolist()
        fills = all(runs.sum(dtype=np.int64) == width * height for runs in masks.split())
        require(fills and masks.runs.min(initial=0) >= 0, "a mask that does not fill the image")
        return Instances((width, height), arrays["scores"], arrays["classes"], masks)

    @property
    def annotations(self) -> Sequence[Mapping[str, Any]]:
        """The objects with masks."""
        return self._truth

    @classmethod
    def findings(cls, artifact: Artifact, prediction: Instances) -> tuple[Mask, ...]:
        """Returns the objects with their masks and the boxes around these, the best first; those without a pixel not.

        Boxes are made of masks, because a decoder's boxes may be larger.
        """
        masks = prediction.masks.split()
        order = np.argsort(-prediction.scores, kind="stable").tolist()
        width, height = prediction.size_px
        return tuple(
            mask
            for number in order
            for mask in _mask(
                label_of(artifact, int(prediction.classes[number])), int(prediction.classes[number]),
                float(prediction.scores[number]), PixelSet((height, width), compress(masks[number], width, height)),
            )
        )  # fmt: skip

    def true_findings(self, number: int, artifact: Artifact) -> tuple[Mask, ...]:
        """Returns the annotated objects of the model's classes."""
        return tuple(
            mask
            for entry, label, index in self.true_objects(number, artifact)
            for mask in _mask(label, index, None, _pixel_set(entry["segmentation"]))
        )

    @classmethod
    def result_files(cls) -> Mapping[str, type[ResultFile]]:
        """Returns YOLO's text files with polygons, and COCO's results."""
        return {"yolo": YoloOutlines, "coco": CocoMasks}

    def score(
        self, artifact: Artifact, predictions: Mapping[int, Instances], reference: Mapping[int, Instances]
    ) -> InstanceScore:
        """Returns COCO's twelve numbers of masks, and the scores of each class."""
        problem = self._problem(artifact, predictions)
        scores = summarize(self._ground_truth, problem.image_ids, *evaluate_problem(self._engine, problem))
        per_class = tuple(DetectionClass(**vars(entry)) for entry in scores.per_class)
        return InstanceScore(**scores.numbers, per_class=per_class, evaluator=self._engine)

    def suspicions(self, artifact: Artifact, predictions: Mapping[int, Instances], score: Score) -> Sequence[Suspicion]:
        """Returns what is odd about masks: none is shown, or none is right."""
        quantized = is_quantized(artifact)
        return suspect_findings(("mask", "masks"), predictions.values(), score.main_value, quantized=quantized)

    def per_image(
        self, artifact: Artifact, predictions: Mapping[int, Instances], reference: Mapping[int, Instances]
    ) -> InstancePredictions:
        """Returns what each mask matches."""
        problem = self._problem(artifact, predictions)
        return InstancePredictions.of(
            tuple(problem.categories.values()), self.file_names(problem.image_ids), match_problem(problem)
        )

    def _problem(self, artifact: Artifact, predictions: Mapping[int, Instances]) -> CocoProblem:
        truth, images = self._ground_truth, self._ground_truth.images
        categories = category_ids(truth, artifact.labels)
        results: list[dict[str, Any]] = []
        for number, found in predictions.items():
            keep = is_counted(truth, categories, images[number].id, found.classes)
            results += _results(found.part(keep), images[number].id, categories, len(results))
        ids = sorted(images[number].id for number in predictions)
        return CocoProblem("segm", truth.records(), truth.categories, self._truth, results, ids)


def _with_masks(truth: GroundTruth) -> list[dict[str, Any]]:
    """Returns annotations with their masks; objects without a pixel are left out.

    Raises:
        InputError: no object has a mask, a mask is none, or the size of its image is not known.
    """
    sizes = {record.id: (record.width_px, record.height_px) for record in truth.images}
    found = []
    for annotation in truth.annotations:
        width, height = sizes[annotation["image_id"]]
        if not (width and height):
            raise InputError(f"{truth.source}: does not state width and height of image {annotation['image_id']}")
        number = annotation["id"]
        place = f"{truth.source}: annotation number {number}"
        stated = truth.segmentation(number)
        rle = None if stated is None else to_rle(stated, width, height, place)
        if rle is not None:
            found.append({**annotation, "segmentation": rle})
    if not found:
        raise InputError(
            f"{truth.source}: none of its {len(truth.annotations)} objects has a mask; wanted polygons of three points "
            "or more, or RLE"
        )
    if len(found) < len(truth.annotations):
        _log.warning("%s: %d objects have no mask, or polygons of fewer than three points only; they do not count",
                     truth.source, len(truth.annotations) - len(found))  # fmt: skip
    return found


def _mask(label: str, index: int, score: float | None, pixels: PixelSet) -> tuple[Mask, ...]:
    """Returns an object with its mask and the box around it; nothing if it has no pixel."""
    from pycocotools import mask

    left, top, width, height = (float(value) for value in mask.toBbox(pixels.rle()))
    if not width or not height:
        return ()
    return (Mask(label, index, score, left=left, top=top, width=width, height=height, segmentation=pixels),)


def _pixel_set(rle: Mapping[str, Any]) -> PixelSet:
    height, width = rle["size"]
    return PixelSet((height, width), rle["counts"].decode())


def _results(found: Instances, image: int, categories: NDArray[np.int64], before: int) -> list[dict[str, Any]]:
    """Returns the objects of an image as pycocotools' `loadRes` would make them."""
    from pycocotools import mask

    width, height = found.size_px
    size = [height, width]
    uncompressed = [{"size": size, "counts": runs.tolist()} for runs in found.masks.split()]
    rles = mask.frPyObjects(uncompressed, height, width) if uncompressed else []
    areas, boxes = (mask.area(rles).tolist(), mask.toBbox(rles).tolist()) if rles else ([], [])
    rows = zip(rles, areas, boxes, found.scores.tolist(), categories[found.classes].tolist(), strict=True)
    return [
        {
            "id": number, "image_id": image, "category_id": category, "segmentation": rle, "area": float(area),
            "bbox": box, "iscrowd": 0, "score": score,
        }
        for number, (rle, area, box, score, category) in enumerate(rows, start=before + 1)
    ]  # fmt: skip
