"""What identifies a job that learns the numbers of a plan, so that the same command resumes it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

import edgeq
from edgeq.exporting.graphs.digest import graph_digest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from edgeq.exporting.jobs import PlannedModel


def learning_job(
    planned: PlannedModel, feeds: Sequence[Mapping[str, np.ndarray]], settings: DataclassInstance, threads: int | None
) -> dict[str, Any]:
    """Returns all that learned integers depend on, as JSON.

    Args:
        planned: The plan that learning begins from, and the graph that it is for.
        feeds: Inputs of the graph to learn on, each by name.
        settings: How to learn.
        threads: CPU threads.
    """
    plan, digest = planned.plan, hashlib.sha256()
    for name, quantized in (*plan.weights.items(), *plan.biases.items()):
        digest.update(name.encode() + quantized.integers.tobytes() + quantized.scale.tobytes())
    for feed in feeds:
        for name, array in sorted(feed.items()):
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return {
        "graph": graph_digest(planned.graph),
        "grids": {name: [grid.scale, int(grid.zero_point)] for name, grid in plan.tensors.items()},
        "arrays": digest.hexdigest(),
        "isa": planned.target.rules.isa,
        "settings": dataclasses.asdict(settings),
        "threads": threads,
        "versions": {"edgeq": edgeq.__version__, **{name: version(name) for name in ("torch", "onnxruntime")}},
    }
