"""Folds what stands around the linear layers of a traced torch graph into their weights. Exact up to float rounding.

Each pass does what its namesake of the ONNX graph does (`edgeq.exporting.passes.layernorm`,
`edgeq.exporting.passes.attention_scale`), to the same layers, so that both graphs still hold the same tensors and share
one calibration.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeq.exporting.graphs.moves import ATEN_REARRANGES
from edgeq.exporting.tflite.torch_graph import arguments_of, constant_of, name_of, set_argument

if TYPE_CHECKING:
    import torch
    from torch import fx

_PRODUCTS = ("aten::matmul", "aten::mm")


class _Reader(NamedTuple):
    """Who computes with (a part of) a tensor, behind what moves it.

    Attributes:
        node: The node.
        position: Which of its arguments that is; -1 for a member of a list, or one that is given by name.
        channels: Which channel of the tensor every element comes from; `None` where it could not be told.
    """

    node: fx.Node
    position: int
    channels: torch.Tensor | None


def fold_layernorm_affine(graph_module: fx.GraphModule) -> int:
    """Folds the scale and shift of LayerNorms into the linear layers behind them, and returns of how many.

    Folded is what normalises over the last axis and is read by linear layers alone, also behind operators that only
    move values. The converter folds some of them itself, but none behind the choice of a token.
    """
    import torch

    folded = 0
    for node in list(graph_module.graph.nodes):
        if name_of(node) != "aten::layer_norm":
            continue
        arguments = arguments_of(node)
        gamma, beta = (constant_of(graph_module, arguments[name]) for name in ("weight", "bias"))
        if gamma is None or gamma.ndim != 1:
            continue
        beta = torch.zeros_like(gamma) if beta is None else beta
        if torch.any(gamma != 1) or torch.any(beta):
            layers = _linears_behind(graph_module, node, gamma.numel())
            if not layers:
                continue
            for layer in layers:
                weight, bias = _weight_and_bias(graph_module, layer)
                _replace(graph_module, layer, weight * gamma.double(), bias + weight @ beta.double())
            folded += 1
        node.args, node.kwargs = (node.args[0], arguments["normalized_shape"], None, None, arguments["eps"]), {}
    return folded


def fold_attention_scale(graph_module: fx.GraphModule) -> int:
    """Folds attention's 1/sqrt(d) into the layers that compute queries and keys, and returns into how many of them.

    The root of it goes into the columns of each that only the queries, or only the keys, come from: the two are scaled
    before their product, as the ONNX graph and the converter have it. What cannot be folded stays with the attention.
    """
    import torch

    folded = 0
    for node in list(graph_module.graph.nodes):
        if name_of(node) != "aten::scaled_dot_product_attention":
            continue
        arguments = arguments_of(node)
        scale = arguments["scale"]
        if scale is None:
            scale = int(arguments["query"].meta["val"].shape[-1]) ** -0.5
        if scale <= 0 or scale == 1 or arguments["enable_gqa"]:
            continue
        root, left = scale**0.5, scale
        for position in (0, 1):
            layer = _moved_from(node.args[position])
            columns = _own_columns(graph_module, layer, node, position)
            if columns is None:
                continue
            weight, bias = _weight_and_bias(graph_module, layer)
            factors = torch.where(columns, root, 1.0).double()
            _replace(graph_module, layer, weight * factors[:, None], bias * factors)
            left = root if left == scale else 1.0
            folded += 1
        node.kwargs = {**node.kwargs, "scale": left}
    return folded


def _linears_behind(graph_module: fx.GraphModule, node: fx.Node, width: int) -> list[fx.Node] | None:
    """Returns the linear layers that read a tensor's channels whole and in order; `None` where others read it."""
    layers: list[fx.Node] = []
    for reader, position, channels in _readers_of(node):
        if position != 0 or channels is None or channels.shape[-1] != width or not _is_layer(graph_module, reader):
            return None
        if (channels != channels.new_tensor(range(width))).any():
            return None
        if reader not in layers:
            layers.append(reader)
    return layers


def _own_columns(graph_module: fx.GraphModule, layer: Any, reader: fx.Node, position: int) -> torch.Tensor | None:
    """Returns which columns `(out,)` of a layer reach one argument of a reader, and nothing else.

    `None` where they reach others too, or where `layer` is none.
    """
    import torch

    if not _is_layer(graph_module, layer):
        return None
    own, others = torch.zeros(2, layer.meta["val"].shape[-1], dtype=torch.bool)
    for each in _readers_of(layer):
        if each.channels is None:
            return None
        (own if each[:2] == (reader, position) else others)[each.channels.flatten().long()] = True
    return None if (own & others).any() else own


def _readers_of(node: fx.Node) -> Iterator[_Reader]:
    """Yields all readers of a tensor `(..., C)`, looking through what moves it by running that on channel numbers."""
    import torch

    shape = node.meta["val"].shape
    yield from _follow(node, torch.arange(float(shape[-1])).expand(shape))


def _follow(node: fx.Node, channels: Any) -> Iterator[_Reader]:
    """Yields the readers of a tensor, or of a list of tensors, with these channels."""
    import torch

    for user in node.users:
        if _is_move(user) and user.args[0] is node:
            # The numbers lie in memory as they like, which a view would not take.
            is_view = user.target is torch.ops.aten.view.default
            move: Any = torch.ops.aten.reshape.default if is_view else user.target
            if len(user.all_input_nodes) > 1:
                yield _Reader(user, 0, None)
            else:
                yield from _follow(user, move(channels, *user.args[1:], **user.kwargs))
            continue
        positions = [index for index, argument in enumerate(user.args) if argument is node]
        for position in positions or [-1]:
            yield _Reader(user, position, channels if isinstance(channels, torch.Tensor) else None)


def _moved_from(node: Any) -> Any:
    """Returns what computes a tensor, behind operators that only move it."""
    while _is_move(node):
        node = node.args[0]
    return node


def _is_move(node: Any) -> bool:
    import operator

    return name_of(node) in ATEN_REARRANGES or getattr(node, "target", None) is operator.getitem


def _is_layer(graph_module: fx.GraphModule, node: Any) -> bool:
    """Says whether a node is a linear layer with constant weight `(out, in)` and bias."""
    if name_of(node) == "aten::linear":
        parameters = node.args[1:]
        return all(each is None or constant_of(graph_module, each) is not None for each in parameters)
    weight = constant_of(graph_module, node.args[1]) if name_of(node) in _PRODUCTS else None
    return weight is not None and weight.ndim == 2


def _weight_and_bias(graph_module: fx.GraphModule, layer: fx.Node) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns weight `(out, in)` and bias `(out,)` of a linear layer, float64; zeros where it has no bias."""
    parameters = [constant_of(graph_module, each) for each in layer.args[1:]]
    weight = parameters[0]
    assert weight is not None  # noqa: S101 - `_is_layer` has looked
    matrix = weight.double() if name_of(layer) == "aten::linear" else weight.double().T
    bias = parameters[1] if len(parameters) > 1 else None
    return matrix, matrix.new_zeros(len(matrix)) if bias is None else bias.double()


def _replace(graph_module: fx.GraphModule, layer: fx.Node, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Gives a linear layer another weight `(out, in)` and bias `(out,)`; none, if it had none and that is zero."""
    import torch

    had_bias = len(layer.args) > 2 and layer.args[2] is not None
    dtype = layer.meta["val"].dtype
    # A product of matrices becomes a linear layer, too: it may need a bias now.
    layer.target, layer.args, layer.kwargs = torch.ops.aten.linear.default, (layer.args[0], None), {}
    set_argument(graph_module, layer, "weight", weight.to(dtype))
    if had_bias or torch.any(bias):
        set_argument(graph_module, layer, "bias", bias.to(dtype))
