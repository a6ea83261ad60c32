"""What is asked of the builder of an engine: precisions, and where the scales of implicit INT8 come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeq.exporting.tensorrt.cache import CalibrationCache

DEFAULT_WORKSPACE_BYTES = 1 << 30
"""What an Orin Nano of 8 GB can spare; larger requests were refused there."""


@dataclass(frozen=True)
class FromScales:
    """Implicit INT8 by ranges of named tensors; there is no header that could be of another version.

    Attributes:
        scales: Tensor name -> threshold / 127.
    """

    scales: Mapping[str, float]


@dataclass(frozen=True)
class FromCache:
    """Implicit INT8 by a calibration cache of any version.

    Attributes:
        cache: The cache.
    """

    cache: CalibrationCache


@dataclass(frozen=True)
class FromImages:
    """Implicit INT8 by TensorRT's own calibration, which runs the FP32 network on the images.

    Attributes:
        images: Inputs `(1, ...)`, float32.
        algorithm: As calibration caches name it.
    """

    images: Iterable[np.ndarray]
    algorithm: str


Calibration = FromScales | FromCache | FromImages


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built.

    Attributes:
        int8: Whether INT8 is allowed. A strongly typed network has it where its Q/DQ nodes say so.
        fp16: Whether FP16 is allowed.
        calibration: Where implicit scales come from; `None` for Q/DQ nodes and for engines without INT8.
        strongly_typed: Whether the file is written for strong typing.
        float_layers: Layers that stay out of INT8; for implicit INT8 only.
        fp32_layers: Layers that FP16 cannot compute; strongly typed files tell by themselves.
        workspace_bytes: The most temporary memory that a layer may take.
        dla_core: A DLA core instead of the GPU, which takes over what the DLA cannot run.
        batch: Size of a free batch dimension.
        timing_cache: File of measured kernels: a second build is faster and chooses the same ones.
        gpus: Kinds of GPU to build for, as `parse_gpus` returns them; none where a library builds for its own.
    """

    int8: bool = False
    fp16: bool = False
    calibration: Calibration | None = None
    strongly_typed: bool = False
    float_layers: frozenset[str] = frozenset()
    fp32_layers: frozenset[str] = frozenset()
    workspace_bytes: int = DEFAULT_WORKSPACE_BYTES
    dla_core: int | None = None
    batch: int = 1
    timing_cache: Path | None = None
    gpus: tuple[str, ...] = ()
