"""Which nodes of an ONNX file the kernels of ONNX Runtime compute.

Its profiler names kernels. One that was fused is named after its last node ("scores/MatMulAddFusion", "conv1_token_7"),
or after the tensor that it writes: "relu_3_nchwc" is the Conv that has taken in whatever lies between it and `relu_3`.
Some have names that do not come from the file ("Gelu", "SkipLayerNorm", "Transpose_token_9", "ReorderInput"), and stay
without nodes.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.errors import EdgeqError
from edgeq.exporting.graphs.graph import data_inputs, read_onnx
from edgeq.results.measurement import LayerProfile, LayerTime

if TYPE_CHECKING:
    import onnx_ir as ir

_COPIED = re.compile(r"_token_\d+$")
_FUSED = re.compile(r"/\w+Fusion/?$")
_WRITES = "_nchwc"
_MOST_FUSED = 5
"""Nodes of one kernel: a Conv, its BatchNormalization, an Add and the activation behind it."""

_log = logging.getLogger(__name__)


def with_nodes(profile: LayerProfile, path: Path) -> LayerProfile:
    """Returns times by ONNX Runtime with the nodes of the file that each kernel computes, as far as its name says.

    The file is read here, because a device needs no package `onnx`. Where this machine has none either, or cannot read
    the file, the times are returned as they are.
    """
    try:
        model = read_onnx(path)
    except EdgeqError as error:
        _log.info("%s: layers keep the names of ONNX Runtime (%s)", path.name, error)
        return profile
    nodes = {str(node.name): node for node in model.graph if node.name}
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    written = {_written(layer) for layer in profile.layers}
    layers = tuple(dataclasses.replace(each, nodes=_nodes(each, nodes, values, written)) for each in profile.layers)
    return dataclasses.replace(profile, layers=layers)


def _written(layer: LayerTime) -> str:
    """Returns the tensor that a kernel is named after; empty if it is not named after one."""
    stem = _COPIED.sub("", layer.name)
    return stem.removesuffix(_WRITES) if stem.endswith(_WRITES) else ""


def _nodes(
    layer: LayerTime, nodes: Collection[str], values: Mapping[str, ir.Value], written: Collection[str]
) -> tuple[str, ...]:
    if layer.name in nodes:
        return ()
    stem = _COPIED.sub("", layer.name)
    for name in (stem, _FUSED.sub("", stem)):
        if name in nodes:
            return (name,)
    value = values.get(_written(layer))
    producer = None if value is None else value.producer()
    if value is None or producer is None:
        return ()
    fused = _chain(value, layer.kind, written, _MOST_FUSED) or [producer]  # what ONNX calls otherwise, such as Upsample
    return tuple(str(node.name) for node in fused)


def _chain(value: ir.Value, kind: str, written: Collection[str], most: int) -> list[ir.Node]:
    """Returns the nodes from one of a kind to a tensor, without passing what other kernels write; empty if none is."""
    node = value.producer()
    if node is None or not most:
        return []
    if node.op_type == kind:
        return [node]
    for given in data_inputs(node):
        if given.name not in written and (found := _chain(given, kind, written, most - 1)):
            return [*found, node]
    return []
