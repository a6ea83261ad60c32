"""What the layers of a model cost where its INT8 files are to run: measured before they are planned, or shipped."""

from __future__ import annotations

import os
from typing import Literal, cast, get_args

from edgeq.errors import InputError
from edgeq.exporting.costs.plan import kernels_of
from edgeq.exporting.costs.table import KernelTable
from edgeq.exporting.onnx.writer import FloatModel, quantizable_graph
from edgeq.exporting.planning.keep import Kept, VitPlan
from edgeq.exporting.planning.selection import select_layers
from edgeq.measurement.kernel_tables import costs_here
from edgeq.targets import Target

PlanBy = Literal["cost", "rules"]
"""How INT8 layers are chosen among those that a target's rules allow: by what they cost, or all of them."""


def default_plan(plan: str | None) -> PlanBy:
    """Returns how layers are chosen: as a user says, or else the environment's `EDGEQ_PLAN`, or else by their cost.

    Raises:
        InputError: it is none of `PlanBy`.
    """
    plan = plan or os.environ.get("EDGEQ_PLAN") or "cost"
    if plan not in get_args(PlanBy):
        raise InputError(f"`plan` {plan}: expected one of {', '.join(get_args(PlanBy))}")
    return cast("PlanBy", plan)


def default_measuring(measure_speed: bool | None) -> bool:
    """Returns whether files are timed: as a user says, or else unless the environment has `EDGEQ_MEASURE=0`."""
    return os.environ.get("EDGEQ_MEASURE") != "0" if measure_speed is None else measure_speed


def kernel_costs(
    model: FloatModel, target: Target, kept: Kept, vit_plan: VitPlan, *, threads: int | None, measure: bool
) -> KernelTable | None:
    """Returns what the kernels of a model cost in the engine of a target; `None` leaves the choice to its rules.

    Args:
        model: The float model.
        target: Where its files are to run.
        kept: What stays in float.
        vit_plan: What of a transformer runs in INT8.
        threads: CPU threads of the engine; by default one per physical core.
        measure: Whether kernels that were not timed on this machine yet are timed now.
    """
    graph, _ = quantizable_graph(model, target)
    kernels = kernels_of(graph, select_layers(graph, target.rules.of_any_size, kept, vit_plan).quantized)
    if not kernels:
        return None
    return costs_here(target.runtimes[0], kernels.values(), threads=threads, measure=measure)
