"""Q/DQ graphs of fewer than 8 bits, to be simulated: where methods that INT8 hides behind its 256 levels come apart.

No engine of ours has kernels for, say, 6-bit activations; what such a file scores is simulated (`simulated-narrow`) and
says nothing of speed. The plan is that of INT8 with other schemes (`Selection.with_bits`): the same layers, grids of
`2**bits` levels over the same ranges, and biases in float, for no kernel saves on them. With 8 bits it is INT8's plan.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.calibrators.grid import check_bits
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.onnx.writer import FloatModel, plan_int8, write_artifact
from edgeq.exporting.planning.keep import Kept, VitPlan

if TYPE_CHECKING:
    from edgeq.calibrators.ranges import Ranges
    from edgeq.exporting.artifact import Artifact
    from edgeq.targets import Target


def simulate(
    model: FloatModel,
    target: Target,
    ranges: Ranges,
    kept: Kept | None,
    weight_bits: int,
    activation_bits: int,
    folder: Path,
    vit_plan: VitPlan = "balanced",
) -> Artifact:
    """Returns the artifact of a Q/DQ graph of fewer bits, written to `folder`, for `evaluate_artifacts`.

    Its precision is `simulated-w6a6` for 6 bits each, and it runs in `simulated-narrow` alone.

    Args:
        model: The float model.
        target: Whose rules decide what is quantized.
        ranges: The ranges of the activations; those of `mse`, `lp`, `entropy` and `best` want the option `bits` too.
        kept: Nodes that stay in float; by default those that `vit_plan` keeps.
        weight_bits: From 2 to 8.
        activation_bits: From 2 to 8.
        folder: Where to.
        vit_plan: What of a transformer is quantized, as for `write_int8`.

    Raises:
        InputError: the bits are not 2 to 8.
        MismatchError: the ranges were collected for another model or other pre-processing.
    """
    bits = check_bits(weight_bits), check_bits(activation_bits)
    graph, plan, facts = plan_int8(model, target, ranges, kept, vit_plan, bits)
    insert_qdq(graph, plan, target.rules)
    facts["simulated_bits"] = {"weights": weight_bits, "activations": activation_bits}
    return write_artifact(model, graph, target, f"simulated-w{weight_bits}a{activation_bits}", folder, facts)
