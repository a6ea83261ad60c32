"""Decoders: from a model's outputs to detections in the image's pixels.

A decoder is one file in this folder and one line in `DECODERS`; third parties register through the entry point group
`edgeq.decoders`. A function that a preset or manifest names as `package.module:function` is imported only if the user
has named it too: a file from elsewhere must not choose what code runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from edgeq.errors import InputError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.registry import load_entry, load_object
from edgeq.tasks.detection.detections import Detections

__all__ = ["DECODERS", "Decoder", "get_decoder", "trust_decoders"]

Decoder = Callable[[Mapping[str, np.ndarray], Postprocessing, Placement], Detections]
"""Output name -> array, what the manifest says about decoding, and where the image lies in the input."""

DECODERS: dict[str, str] = {
    "blazeface": "edgeq.tasks.detection.decoders.blazeface:decode",
    "centernet": "edgeq.tasks.detection.decoders.centernet:decode",
    "detections": "edgeq.tasks.detection.decoders.detections:decode",
    "detr": "edgeq.tasks.detection.decoders.detr:decode",
    "distances": "edgeq.tasks.detection.decoders.distances:decode",
    "efficientdet": "edgeq.tasks.detection.decoders.efficientdet:decode",
    "end2end": "edgeq.tasks.detection.decoders.end2end:decode",
    "fastestdet": "edgeq.tasks.detection.decoders.fastestdet:decode",
    "scored_boxes": "edgeq.tasks.detection.decoders.scored_boxes:decode",
    "scrfd": "edgeq.tasks.detection.decoders.scrfd:decode",
    "selected_boxes": "edgeq.tasks.detection.decoders.selected_boxes:decode",
    "ssd": "edgeq.tasks.detection.decoders.ssd:decode",
    "yolo_fastestv2": "edgeq.tasks.detection.decoders.yolo_fastestv2:decode",
    "yolov5": "edgeq.tasks.detection.decoders.yolov5:decode",
    "yolov8": "edgeq.tasks.detection.decoders.yolov8:decode",
    "yolox": "edgeq.tasks.detection.decoders.yolox:decode",
    "yunet": "edgeq.tasks.detection.decoders.yunet:decode",
}
# A variable of the environment, because the processes of a search or a cluster inherit it.
_TRUSTED = "EDGEQ_DECODERS"


def trust_decoders(references: Iterable[str]) -> None:
    """Lets presets and manifests name these functions, here and in the processes that this one starts.

    Args:
        references: Each as `package.module:function`.
    """
    os.environ[_TRUSTED] = ",".join(dict.fromkeys([*_trusted(), *references]))


def get_decoder(name: str) -> Decoder:
    """Returns the decoder of that name, or the trusted function that `package.module:function` names.

    Raises:
        InputError: there is none of that name, or it is a function that the user has not named.
    """
    if ":" in name and name not in _trusted():
        raise InputError(
            f"decoder {name!r} is code that a preset or manifest names, and not one of edgeq's; if you trust it, name "
            f"it yourself: edgeq `decoder` {name} ..., or {_TRUSTED}={name}"
        )
    decoder = load_object("decoder", name) if ":" in name else load_entry("decoder", DECODERS, name)
    if not callable(decoder):
        raise InputError(f"decoder {name!r}: found {type(decoder).__name__}, wanted a function")
    found: Decoder = decoder
    return found


def _trusted() -> list[str]:
    return [name for name in os.environ.get(_TRUSTED, "").split(",") if name]
