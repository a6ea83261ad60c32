"""FP8 files: the INT8 file's Q/DQ pairs with floats of 8 bits, which opset 19 has; everything else in FP16.

A float keeps its relative precision over fifteen octaves, so that nothing is gained by cutting outliers off: a scale
puts the largest value that calibration saw at 448 (`float8_e4m3fn`, "FP8 Formats for Deep Learning", Micikevicius et
al., 2022).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.onnx.writer import FloatModel, plan_int8, write_artifact
from edgeq.exporting.planning.fp16_audit import audit_fp16
from edgeq.exporting.tensorrt.strong_typing import to_fp16

if TYPE_CHECKING:
    from pathlib import Path

    from edgeq.calibrators.ranges import Ranges
    from edgeq.exporting.artifact import Artifact
    from edgeq.exporting.planning.keep import Kept, VitPlan
    from edgeq.targets import Target

FP8 = "fp8"
"""The precision, as manifests and file names have it."""

_METHOD = "minmax"


def write_fp8(
    model: FloatModel,
    target: Target,
    folder: Path,
    ranges: Ranges,
    kept: Kept | None = None,
    vit_plan: VitPlan = "balanced",
) -> Artifact:
    """Returns the FP8 artifact, written to `folder`.

    Args:
        model: The float model.
        target: Whose rules to follow; its graphs are FP16.
        folder: Where to write.
        ranges: Calibrated ranges of this model by any method: the extremes that were seen are taken, where they are
            known.
        kept: Nodes that stay in FP16; by default those that `vit_plan` keeps.
        vit_plan: What of a transformer runs in FP8, as for `write_int8`.

    Raises:
        ModelError: a constant does not fit into FP16.
        MismatchError: the ranges were collected for another model or other pre-processing.
    """
    target = dataclasses.replace(target, rules=target.rules.in_fp8)
    if ranges.histograms:
        ranges = ranges.with_method(_METHOD)
    graph, plan, planned = plan_int8(model, target, ranges, kept, vit_plan)
    islands = audit_fp16(graph, ranges)
    facts: dict[str, Any] = {**planned, "fp8_nodes": planned["int8_nodes"], "fp16_islands": islands}
    del facts["int8_nodes"]
    insert_qdq(graph, plan, target.rules)
    to_fp16(graph, islands)
    return write_artifact(model, graph, target, FP8, folder, facts)
