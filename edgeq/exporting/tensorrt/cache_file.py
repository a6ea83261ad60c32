"""TensorRT's calibration cache as a file: written next to the static INT8 file of the same plan, and read again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.exporting.tensorrt.cache import (
    DEFAULT_VERSION,
    ENTROPY,
    MINMAX,
    CalibrationCache,
    make_cache,
    parse_cache,
)
from edgeq.exporting.tensorrt.scales import implicit_scales
from edgeq.files import sha256_bytes, write_bytes

if TYPE_CHECKING:
    from edgeq.exporting.jobs import PlannedModel


def read_cache(path: Path) -> CalibrationCache:
    """Returns the cache in a file.

    Raises:
        InputError: it is no cache, a line is broken, or it was cut short.
    """
    return parse_cache(path.read_bytes(), str(path))


def write_cache(planned: PlannedModel, folder: Path) -> dict[str, Any]:
    """Writes the cache for the FP32 file of a plan, and returns what the INT8 file's manifest says of it."""
    algorithm = MINMAX if planned.ranges.method == "minmax" else ENTROPY
    cache = make_cache(implicit_scales(planned.graph, planned.plan, planned.ranges), algorithm=algorithm)
    stem = f"{planned.model.name}.{planned.target.name}"
    path = folder / f"{stem}.int8.cache"
    write_bytes(path, cache.render())
    facts = {
        "file": path.name,
        "digest": sha256_bytes(cache.render()),
        "float_file": f"{stem}.fp32.onnx",
        "algorithm": algorithm,
        "tensorrt": DEFAULT_VERSION,
        "tensors": len(cache.bits),
    }
    return {"calibration_cache": facts}
