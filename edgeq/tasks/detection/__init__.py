"""Detection: decoders, COCO data and its scores."""

from __future__ import annotations

from edgeq.tasks.detection.decoders import DECODERS, Decoder, get_decoder
from edgeq.tasks.detection.detections import Detections

__all__ = ["DECODERS", "Decoder", "Detections", "get_decoder"]
