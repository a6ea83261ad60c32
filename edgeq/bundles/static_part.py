"""A part that reads images in INT8, as `edgeq export` writes a ViT: calibrated, and by the target's plan."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgeq.bundles.families.parts import PIXELS
from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.kept_inputs import kept_feeds
from edgeq.calibration.mean_errors import mean_errors
from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import copy_graph, read_onnx, weight_of
from edgeq.exporting.onnx.writer import FloatModel, engine_graph, write_int8
from edgeq.exporting.passes.order import SIMPLIFYING, run_passes
from edgeq.exporting.planning.keep import Kept, resolve_keep
from edgeq.exporting.prepared_inputs import PreparedInputs

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporting.artifact import Artifact
    from edgeq.targets import Target

_IMAGE_AXES = 4


class StaticGraph(NamedTuple):
    """A graph with quantized activations.

    Attributes:
        graph: The graph, with Q/DQ pairs.
        kept: Layer with weights -> why it stays in float.
        matched: Entries of `keep` that meant something.
    """

    graph: ir.Model
    kept: dict[str, str]
    matched: frozenset[str]


def static_graph(
    graph: ir.Model,
    target: Target,
    method: str,
    feeds: Sequence[Mapping[str, np.ndarray]],
    keep: Sequence[str] = (),
    threads: int | None = None,
) -> StaticGraph:
    """Returns a part in INT8; the graph that it is made of stays as it is.

    Args:
        graph: The part in FP32; its one input takes images `(images, 3, height, width)`.
        target: Whose plan to follow.
        method: How ranges are chosen, a name of `edgeq.calibrators.METHODS`.
        feeds: Inputs to calibrate on.
        keep: What stays in float; entries that match nothing are meant for another part.
        threads: CPU threads of the engine.

    Raises:
        InputError: the part takes no images of one size.
    """
    require_whole_images(graph)
    simple = copy_graph(graph)
    run_passes(simple, SIMPLIFYING)
    model = FloatModel("part", simple, prepared_inputs(simple))
    kept = resolve_keep(engine_graph(model, target), keep, unknown_to_graph=True)
    images = [image for feed in feeds for image in feed[PIXELS]]
    with tempfile.TemporaryDirectory() as folder:
        written = write_static(model, target, method, images, Path(folder), kept, threads)
        found = read_onnx(written.path)
    layers = {str(node.name) for node in graph.graph if weight_of(node) is not None}
    in_float: Mapping[str, str] = written.quantization["float_nodes"]
    return StaticGraph(
        found,
        {name: reason for name, reason in in_float.items() if name in layers},
        frozenset(pattern for pattern in keep if kept.nodes.get(pattern)),
    )


def write_static(
    model: FloatModel,
    target: Target,
    method: str,
    images: Sequence[np.ndarray],
    folder: Path,
    kept: Kept | None = None,
    threads: int | None = None,
) -> Artifact:
    """Returns the INT8 file of a part that was written to a folder.

    Args:
        model: The part.
        target: Whose plan to follow.
        method: How ranges are chosen.
        images: Inputs to calibrate on, `(3, height, width)` each.
        folder: Where to write.
        kept: What stays in float.
        threads: CPU threads of the engine.
    """
    ranges = calibrate(model, images, method=method, num=len(images), threads=threads, targets=[target]).ranges
    measure = partial(mean_errors, feeds=kept_feeds(model, ranges), threads=threads)
    return write_int8(model, target, folder, ranges, kept, mean_errors=measure)


def prepared_inputs(graph: ir.Model) -> PreparedInputs:
    """Returns the pre-processing of a part whose one input is prepared elsewhere; its first axis counts images."""
    return PreparedInputs.of(_lengths(graph))


def _lengths(graph: ir.Model) -> tuple[int, ...]:
    shape = graph.graph.inputs[0].shape
    return tuple(each for each in list(shape or ())[1:] if isinstance(each, int))


def require_whole_images(graph: ir.Model) -> None:
    """Refuses a part that takes anything else than images of one size.

    Raises:
        InputError: it does.
    """
    inputs = list(graph.graph.inputs)
    if len(inputs) != 1 or len(_lengths(graph)) != _IMAGE_AXES - 1:
        raise InputError(
            "precision int8: is for vision parts that take whole images of one size; this one takes "
            f"{', '.join(str(value.name) for value in inputs)} of any size, write vision=w8g128 or vision=fp16"
        )
