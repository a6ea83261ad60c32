"""One ONNX file of any precision, as `edgeq.sources.formats` has it written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.calibrators.ranges import Ranges
from edgeq.exporting.onnx.fp8 import FP8, write_fp8
from edgeq.exporting.onnx.int4_weights import W4A8
from edgeq.exporting.onnx.low_bit import write_low_bit
from edgeq.exporting.onnx.weight_only import FP4, W4, write_weight_only
from edgeq.exporting.onnx.writer import FloatModel, write_dynamic, write_fp16, write_fp32, write_int8
from edgeq.notes import log_of
from edgeq.schemes import LOW_BITS

if TYPE_CHECKING:
    from edgeq.exporting.artifact import Artifact
    from edgeq.exporting.jobs import FileJob

_log = log_of(__name__)


def write(job: FileJob) -> Artifact:
    """Returns the artifact of a float graph in one of the precisions of `edgeq.sources.formats.ONNX`.

    Raises:
        MismatchError: the ranges were collected for another model or other pre-processing.
        ModelError: a constant of an FP16 graph does not fit, or no layer takes weights of 4 bits.
    """
    model, ranges, vit_plan = job.model, job.ranges, job.options.vit_plan
    assert isinstance(model, FloatModel)  # noqa: S101 - files of this format are made from the graph
    assert isinstance(ranges, Ranges | None)  # noqa: S101 - the graph's own
    if job.precision == "fp32":
        return write_fp32(model, job.target, job.folder)
    if job.precision == "fp16":
        return write_fp16(model, job.target, job.folder, ranges)
    if job.precision in LOW_BITS and job.target.rules.fp16 != "graph":
        return write_low_bit(
            model, job.target, job.folder, job.precision, job.kept, vit_plan, job.options.group_size,
            job.quantize_layers,
        )  # fmt: skip
    if job.precision in (W4, FP4):
        return write_weight_only(
            model, job.target, job.folder, job.precision, ranges, job.kept, vit_plan, job.layer_moments
        )
    if job.precision == "dynamic":
        if any(node.op_type == "Conv" for node in model.graph.graph):
            _log.warning(
                "a dynamic ONNX file measures ranges at every run and is slower than fp32 for convolutions; int8 is "
                "static"
            )
        return write_dynamic(model, job.target, job.folder, job.kept, vit_plan)
    assert ranges is not None  # noqa: S101 - int8, w4a8 and fp8 are refused without calibration before anything is written
    if job.precision == FP8:
        return write_fp8(model, job.target, job.folder, ranges, job.kept, vit_plan)
    return write_int8(
        model, job.target, job.folder, ranges, job.kept, vit_plan, job.companions, mean_errors=job.mean_errors,
        costs=job.costs, least_gain_us=job.least_gain_us, noisy=job.noisy, reconstruct=job.reconstruct,
        finetune=job.finetune, precision="w4a8" if job.precision == W4A8 else "int8",
    )  # fmt: skip
