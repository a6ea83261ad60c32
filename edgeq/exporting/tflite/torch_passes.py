"""Rewrites of a traced torch graph into what the TFLite converter and XNNPACK take; each computes the same function.

All work on the ATen graph of `torch.export`, so that they serve any module, whatever its layers are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeq.exporting.tflite.torch_graph import arguments_of, constant_of, name_of, set_argument
from edgeq.exporting.tflite.torch_linear import fold_attention_scale, fold_layernorm_affine

if TYPE_CHECKING:
    import torch
    from torch import fx

_CONVOLUTIONS = ("aten::conv2d", "aten::conv_transpose2d")
_NON_NEGATIVE = ("aten::relu", "aten::relu_", "aten::relu6", "aten::relu6_", "aten::sigmoid", "aten::sigmoid_")
_KEEPS_SIGN = ("aten::max_pool2d", "aten::avg_pool2d", "aten::upsample_nearest2d", "aten::clone", "aten::dropout")


def capture(module: torch.nn.Module, example: torch.Tensor) -> fx.GraphModule:
    """Returns the ATen graph of a module in eval mode, with all rewrites of this file and of `torch_linear` applied.

    Args:
        module: One image batch in, one tensor or a tuple of tensors out.
        example: An input `(1, 3, H, W)`, float32.
    """
    import torch

    graph_module = torch.export.export(module.eval(), (example,)).module()
    assert isinstance(graph_module, torch.fx.GraphModule)  # noqa: S101 - `module()` of an unflattened program
    for rewrite in (
        fold_batchnorm,
        fold_attention_scale,
        fold_layernorm_affine,
        pad_pools_with_zeros,
        simplify_conv_transposes,
    ):
        rewrite(graph_module)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module


def fold_batchnorm(graph_module: fx.GraphModule) -> int:
    """Folds each BatchNorm behind a convolution that nothing else reads, and returns how many were folded.

    Left in front of a ConvTranspose's bias, BatchNorm reaches TFLite as a 4-D bias, and quantized files with one are
    refused at load.
    """
    import torch

    folded = 0
    for node in list(graph_module.graph.nodes):
        if name_of(node) != "aten::batch_norm":
            continue
        conv = node.args[0]
        arguments = arguments_of(node)
        if name_of(conv) not in _CONVOLUTIONS or len(conv.users) != 1 or arguments["training"]:
            continue
        weight = constant_of(graph_module, arguments_of(conv)["weight"])
        statistics = [constant_of(graph_module, arguments[name]) for name in ("running_mean", "running_var")]
        if weight is None or any(each is None for each in statistics):
            continue
        mean, variance = (each.double() for each in statistics if each is not None)
        gamma, beta, bias = (
            torch.as_tensor(default).double() if found is None else found.double()
            for found, default in (
                (constant_of(graph_module, arguments["weight"]), 1.0),
                (constant_of(graph_module, arguments["bias"]), 0.0),
                (constant_of(graph_module, arguments_of(conv)["bias"]), 0.0),
            )
        )
        factor = gamma / torch.sqrt(variance + arguments["eps"])
        set_argument(graph_module, conv, "weight", _scale_channels(conv, weight.double(), factor).to(weight.dtype))
        set_argument(graph_module, conv, "bias", ((bias - mean) * factor + beta).to(weight.dtype))
        node.replace_all_uses_with(conv)
        graph_module.graph.erase_node(node)
        folded += 1
    return folded


def pad_pools_with_zeros(graph_module: fx.GraphModule) -> int:
    """Pads max-pools of non-negative maps with zeros beforehand, and returns how many.

    A pool's own padding is minus infinity, which XNNPACK does not run and which no quantized range can hold.
    """
    import torch

    rewritten = 0
    for node in list(graph_module.graph.nodes):
        if name_of(node) != "aten::max_pool2d":
            continue
        arguments = arguments_of(node)
        vertical, horizontal = _pair(arguments["padding"])
        if not (vertical or horizontal or arguments["ceil_mode"]) or not _is_non_negative(node.args[0]):
            continue
        below, right = _padding_at_the_end(node) if arguments["ceil_mode"] else (vertical, horizontal)
        with graph_module.graph.inserting_before(node):
            padded = graph_module.graph.call_function(
                torch.ops.aten.constant_pad_nd.default,
                (node.args[0], [horizontal, right, vertical, below], 0.0),
            )
        node.args = (padded, arguments["kernel_size"], arguments["stride"], [0, 0], arguments["dilation"])
        rewritten += 1
    return rewritten


def simplify_conv_transposes(graph_module: fx.GraphModule) -> int:
    """Rewrites transposed convolutions that the converter refuses, and returns how many.

    A dilated kernel is a larger one with zeros between its taps; `n` more rows of output are the same as `n` rows of
    zeros at the kernel's end; padding cuts the output's edges. The converter takes no output padding or dilation, and
    with a stride only the padding that TFLite calls SAME, or none.
    """
    rewritten = 0
    for node in list(graph_module.graph.nodes):
        if name_of(node) != "aten::conv_transpose2d":
            continue
        arguments = arguments_of(node)
        dilation, more = _pair(arguments["dilation"]), _pair(arguments["output_padding"])
        weight = constant_of(graph_module, arguments["weight"])
        if weight is None:
            continue
        if dilation != (1, 1) or more != (0, 0):
            size = [(length - 1) * step + 1 for length, step in zip(weight.shape[2:], dilation, strict=True)]
            spread = weight.new_zeros(*weight.shape[:2], size[0] + more[0], size[1] + more[1])
            spread[:, :, : size[0] : dilation[0], : size[1] : dilation[1]] = weight
            set_argument(graph_module, node, "weight", spread)
            weight = spread
        stride, padding = _pair(arguments["stride"]), _pair(arguments["padding"])
        cuts = not _has_padding_of_tflite(tuple(weight.shape[2:]), stride, padding)
        if node.args[1] is arguments["weight"] and not cuts:
            continue
        node.args = (node.args[0], node.args[1], arguments["bias"], list(stride), [0, 0] if cuts else list(padding),
                     [0, 0], arguments["groups"], [1, 1])  # fmt: skip
        node.kwargs = {}
        if cuts:
            _cut_edges(graph_module, node, padding)
        rewritten += 1
    return rewritten


def _has_padding_of_tflite(kernel: tuple[int, ...], stride: tuple[int, int], padding: tuple[int, int]) -> bool:
    same = all(taps - step == 2 * cut for taps, step, cut in zip(kernel, stride, padding, strict=True))
    return same or stride == (1, 1) or padding == (0, 0)


def _cut_edges(graph_module: fx.GraphModule, node: fx.Node, edges: tuple[int, int]) -> None:
    """Lets the readers of a 4-D map see it without so many rows and columns at either end."""
    import torch

    readers, result = list(node.users), node
    for axis, edge in zip((2, 3), edges, strict=True):
        if edge:
            with graph_module.graph.inserting_after(result):
                result = graph_module.graph.call_function(torch.ops.aten.slice.Tensor, (result, axis, edge, -edge))
    for reader in readers:
        reader.replace_input_with(node, result)


def _scale_channels(conv: fx.Node, weight: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Returns the weight times a factor `(out channels,)`."""
    if name_of(conv) == "aten::conv2d":  # (out, in / groups, kh, kw)
        return weight * factor.reshape(-1, 1, 1, 1)
    groups = int(arguments_of(conv)["groups"])  # (in, out / groups, kh, kw)
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return (grouped * factor.reshape(groups, 1, -1, 1, 1)).reshape(weight.shape)


def _pair(value: Any) -> tuple[int, int]:
    numbers = list(value) if isinstance(value, (list, tuple)) else [value]
    return (int(numbers[0]), int(numbers[-1])) if numbers else (0, 0)


def _padding_at_the_end(pool: fx.Node) -> tuple[int, int]:
    """Returns how many rows below and columns on the right the windows of a pool in ceil mode reach over, or leave."""
    arguments = arguments_of(pool)
    kernel, before, dilation = (_pair(arguments[name]) for name in ("kernel_size", "padding", "dilation"))
    stride = _pair(arguments["stride"] or arguments["kernel_size"])
    given, made = pool.args[0].meta["val"].shape[-2:], pool.meta["val"].shape[-2:]  # type: ignore[union-attr]
    below, right = (
        (int(made[axis]) - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1 - int(given[axis]) - before[axis]
        for axis in (0, 1)
    )
    return below, right


def _is_non_negative(node: fx.Node) -> bool:
    while name_of(node) in _KEEPS_SIGN:
        node = node.args[0]  # type: ignore[assignment]  # the first argument of these is a node
    if name_of(node) in ("aten::clamp", "aten::clamp_", "aten::hardtanh", "aten::hardtanh_"):
        low = arguments_of(node).get("min", arguments_of(node).get("min_val"))
        return isinstance(low, (int, float)) and low >= 0
    return name_of(node) in _NON_NEGATIVE
