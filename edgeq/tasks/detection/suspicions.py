"""What is odd about a detector's figures, with the likely cause: most often a preset that does not fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import EdgeqError
from edgeq.exporting.artifact import Artifact
from edgeq.inputs.presets import shipped_labels
from edgeq.results.evaluation import Suspicion
from edgeq.tasks.detection.coco import GroundTruth, evaluate
from edgeq.tasks.detection.detections import Detections
from edgeq.wording import counted

_SHOWN = 0.05  # below, a score says little
_FEW = 20  # boxes that too little follows from
_NOTHING = 0.001
_TINY_PX2 = 4.0
_SEVERAL = 3  # classes among the annotated boxes
_IMAGES = 30  # with fewer, AP on COCO's classes says little

_OTHER_PRESET = (
    "omit `preset` to have it recognised and proven on the annotations, or change one thing behind a comma: "
    "`preset` NAME,channel_order=bgr or NAME,scale=1"
)


class Scored(Protocol):
    """What a model found in an image, in any form."""

    @property
    def scores(self) -> NDArray[np.float32]:
        """Scores `(N,)` in 0..1."""


def is_quantized(artifact: Artifact) -> bool:
    """Returns whether a file's figures may be as bad as they look because of its precision."""
    return artifact.precision not in ("", "fp32", "fp16")


def find_suspicions(
    truth: GroundTruth,
    detections: Mapping[int, Detections],
    ap: float | None,
    *,
    labels: Sequence[str],
    quantized: bool,
    published_ap: tuple[float, float] | None = None,
) -> list[Suspicion]:
    """Returns what is odd; nothing for a sound model.

    Args:
        truth: The annotations.
        detections: Image id -> detections, of every image that was scored.
        ap: Their AP, 0..1; `None` if there is no box to find.
        labels: The model's class names, if it has any.
        quantized: Whether the file is quantized: its figures may be as bad as they look.
        published_ap: AP on COCO val2017 of the smallest and the largest model of the family, 0..1; `None` if unknown.
    """
    if ap is None or not detections:
        return []
    boxes, scores, classes = (
        np.concatenate([getattr(each, name) for each in detections.values()]) for name in ("boxes", "scores", "classes")
    )
    shown = scores >= _SHOWN
    if not shown.any():
        return [_nothing_shown("box", scores, len(detections), quantized)]
    boxes, scores, classes = boxes[shown], scores[shown], classes[shown]
    found = _odd_values(boxes, scores, ap)
    if shifted := _shifted(truth, detections, ap, labels):
        return [*found, shifted]
    annotated = {entry["category_id"] for entry in truth.annotations}
    if len(boxes) >= _FEW and len(annotated) >= _SEVERAL and (classes == classes[0]).all() and len(labels) != 1:
        name = labels[classes[0]] if classes[0] < len(labels) else f"number {classes[0]}"
        found.append(
            Suspicion(
                text=f"all {len(boxes)} boxes are of the class {name}, the annotations have {len(annotated)} classes: "
                "outputs may be in another order than the decoder expects; name them in the preset, or choose another"
            )
        )
    if ap < _NOTHING and len(boxes) >= _FEW:
        found.append(_nothing_right("boxes", len(boxes), ap, quantized))
    if not found and not quantized and published_ap is not None:
        found += _far_below(truth, len(detections), ap, published_ap)
    return found


def suspect_findings(
    noun: tuple[str, str], predictions: Iterable[Scored], ap: float | None, *, quantized: bool
) -> list[Suspicion]:
    """Returns what is odd about findings of any form: none is shown, or none is right.

    Args:
        noun: What one and what several of them are called.
        predictions: What was found in each image that was scored.
        ap: Their AP, 0..1; `None` if there is nothing to find.
        quantized: Whether the file is quantized.
    """
    found = [each.scores for each in predictions]
    if ap is None or not found:
        return []
    scores = np.concatenate(found)
    shown = int((scores >= _SHOWN).sum())
    if not shown:
        return [_nothing_shown(noun[0], scores, len(found), quantized)]
    return [_nothing_right(noun[1], shown, ap, quantized)] if ap < _NOTHING and shown >= _FEW else []


def _nothing_shown(noun: str, scores: np.ndarray, images: int, quantized: bool) -> Suspicion:
    best = f"the best of {len(scores)} scores {scores.max():.3g}" if len(scores) else "there is none"
    return Suspicion(
        text=f"no {noun} scores {_SHOWN} on {counted(images, 'image')} ({best}): images are prepared otherwise than "
        f"the model was trained on, or its outputs are not what the decoder reads; {_OTHER_PRESET}",
        meaningless=not quantized,
    )


def _nothing_right(noun: str, count: int, ap: float, quantized: bool) -> Suspicion:
    return Suspicion(
        text=f"AP is {ap:.4f}: none of {count} {noun} that score {_SHOWN} or more is where the annotations "
        "have an object of its class; check `labels` against the categories, and the preparation of images: "
        f"{_OTHER_PRESET}",
        meaningless=not quantized,
    )


def _far_below(truth: GroundTruth, images: int, ap: float, published_ap: tuple[float, float]) -> list[Suspicion]:
    """Returns the suspicion that a float model is prepared otherwise than its family, by AP on COCO's images.

    Smaller inputs, and few images, cost some of a family's AP, but not half of what its smallest model has.
    """
    low, high = published_ap
    if ap >= low / 2 or images < _IMAGES or not set(shipped_labels("coco80")) <= set(truth.categories.values()):
        return []
    reach = f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}"
    return [
        Suspicion(
            text=f"AP is {ap:.4f}, and the family's published models reach {reach} on COCO val2017: images may be "
            f"prepared otherwise than this model was trained on, or its weights are not those of a trained model; "
            f"{_OTHER_PRESET}"
        )
    ]


def _odd_values(boxes: np.ndarray, scores: np.ndarray, ap: float) -> list[Suspicion]:
    """Returns what is odd about boxes and scores themselves; a model that finds objects all the same is sound."""
    if len(boxes) < _FEW or ap >= _SHOWN:
        return []
    found = []
    if (scores >= 1).mean() > 0.5:
        found.append(
            Suspicion(
                text=f"{(scores >= 1).mean():.0%} of the boxes score 1 or more, as logits do: the decoder takes "
                "probabilities; choose a preset whose decoder takes logits (`preset` NAME,logits=true)",
                meaningless=True,
            )
        )
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = sides[:, 0] * sides[:, 1]
    if (areas < _TINY_PX2).mean() > 0.5:
        found.append(
            Suspicion(
                text=f"{(areas < _TINY_PX2).mean():.0%} of the boxes are outside their image, or smaller than "
                f"{_TINY_PX2:.0f} square pixels: they are in other units than the decoder expects; try `preset` "
                "NAME,relative=true, or NAME,corners=true",
                meaningless=True,
            )
        )
    return found


def _shifted(
    truth: GroundTruth, detections: Mapping[int, Detections], ap: float, labels: Sequence[str]
) -> Suspicion | None:
    """Returns the suspicion that categories without boxes shift class ids, as Roboflow's first one does."""
    annotated = {entry["category_id"] for entry in truth.annotations}
    empty = [name for category, name in truth.categories.items() if category not in annotated]
    if labels or not empty or ap >= _SHOWN:
        return None
    fewer = {category: name for category, name in truth.categories.items() if category in annotated}
    try:
        scored = evaluate(dataclasses.replace(truth, categories=fewer), detections, sorted(detections))
    except EdgeqError:  # the model has more classes than that
        return None
    better = scored.numbers["AP"] or 0.0
    if better < max(_SHOWN, 2 * ap):
        return None
    names = ", ".join(fewer.values())
    return Suspicion(
        text=f"the category {empty[0]!r} of {truth.source.name} has no boxes and shifts the model's classes: without "
        f"such categories AP is {better:.4f} instead of {ap:.4f}; give the model's class names, `labels` '{names}'",
        meaningless=True,
    )
