"""How TFLite's engines run each operator: the schemes of LiteRT with XNNPACK, for targets that take `.tflite` files."""

from __future__ import annotations

from collections.abc import Mapping

from edgeq.schemes import DYNAMIC_INT8, INT8_ASYMMETRIC, INT8_WEIGHT, INT16, INT32, INT64, LayerScheme

INT8 = LayerScheme(INT8_WEIGHT, INT8_ASYMMETRIC, INT32)
"""Static ranges, and weights with a scale for each output channel."""

INT16X8 = LayerScheme(INT8_WEIGHT, INT16, INT64)
"""The same with activations of 16 bits."""

_LAYER = (INT8, INT16X8, DYNAMIC_INT8)
_BETWEEN = (INT8, INT16X8)

LITERT: Mapping[str, tuple[LayerScheme, ...]] = {
    "CONV_2D": _LAYER,
    "TRANSPOSE_CONV": _LAYER,
    "FULLY_CONNECTED": _LAYER,
    # Its dynamic form falls out of XNNPACK and costs accuracy: YOLOX-nano AP .229 with it, .325 without.
    "DEPTHWISE_CONV_2D": (INT8, INT16X8),
    "ADD": _BETWEEN,
    "MUL": _BETWEEN,
    "MEAN": _BETWEEN,
    "RELU": _BETWEEN,
    "AVERAGE_POOL_2D": _BETWEEN,
    "CONCATENATION": _BETWEEN,
    "GATHER": _BETWEEN,
    "MAX_POOL_2D": _BETWEEN,
    "MIRROR_PAD": _BETWEEN,
    "PACK": _BETWEEN,
    "PAD": _BETWEEN,
    "RESHAPE": _BETWEEN,
    "RESIZE_BILINEAR": _BETWEEN,
    "RESIZE_NEAREST_NEIGHBOR": _BETWEEN,
    "SLICE": _BETWEEN,
    "SPACE_TO_DEPTH": _BETWEEN,
    "SPLIT": _BETWEEN,
    "STRIDED_SLICE": _BETWEEN,
    "TRANSPOSE": _BETWEEN,
    "UNPACK": _BETWEEN,
}
"""Operator -> how it runs in integers; those without a weight are worth it only between layers in integers."""
