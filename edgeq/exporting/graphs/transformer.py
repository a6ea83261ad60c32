"""Finds the encoder blocks of a transformer in a graph, and which node plays which part in them.

Rules, by number:

1. An attention is a Softmax between two products of activations: the logits (queries by keys) before it, behind
   constants that scale or mask them, and the context (weights by values) behind it. The operator Attention (opset 23)
   is both products and the Softmax.
2. `q`, `k` and `v` are the weighted layers from which the operands of the two products come, looking through biases,
   scales, normalisations of a head, and operators that only move values; a layer that more than one operand comes from
   is packed, and is called `qkv` (or `qk`).
3. `projection` is the first weighted layer behind the context; a norm or a function may stand between them.
4. `fc1` and `fc2` are two weighted layers with an activation function of one tensor (GELU, SiLU, ReLU, ...) between
   them; the function may read its tensor several times, as x * sigmoid(1.702 x) does.
5. Blocks are counted by attention, from 0; `fc1` and `fc2` belong to the last attention before them.
6. What adds up the output of a `projection` or `fc2` and a tensor of the same shape is the residual stream.

A Softmax that does not stand in an attention as of rule 1 (a classifier's, or a pattern that is not known) has no
part; `unknown` names those with a MatMul of activations nearby.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import data_inputs, weight_of
from edgeq.exporting.graphs.masks import guarded
from edgeq.exporting.graphs.moves import REARRANGES

if TYPE_CHECKING:
    import onnx_ir as ir

PARTS = ("qk", "v", "qkv", "projection", "fc1", "fc2", "attention", "residual")
"""Parts that `keep` names as `vit.PART`; `qk` and `v` mean a packed layer, too."""

_RANGES = ("front", "middle", "end")
_MOVES = REARRANGES | {"Expand", "Identity"}
_THROUGH = _MOVES | {"Cast", "Mul", "Div", "Add", "LayerNormalization", "SimplifiedLayerNormalization", "Where", "Clip"}
# LeViT has a function behind the context, BEiT-3 and EVA a norm.
_BEFORE_PROJECTION = frozenset({"Cast", "LayerNormalization", "HardSwish", "Relu", "Gelu"})
_PATTERN = re.compile(r"vit(?:\.(?P<blocks>front|middle|end|\d+(?:-\d+)?))?(?:\.(?P<part>[a-z0-9]+))?")


@dataclass(frozen=True)
class Role:
    """A node's part in an encoder block.

    Attributes:
        block: Index of the block, from 0.
        part: `q`, `k`, `v`, `qk`, `qkv`, `projection`, `fc1`, `fc2`, `logits`, `softmax`, `context` or `residual`.
    """

    block: int
    part: str

    @property
    def is_product(self) -> bool:
        """Whether it is one of the two products of an attention."""
        return self.part in ("logits", "context")


@dataclass(frozen=True)
class Transformer:
    """The encoder blocks of a graph.

    Attributes:
        blocks: How many there are.
        roles: Node name -> its part.
        unknown: Names of the Softmax nodes near a product of activations that rule 1 does not cover.
    """

    blocks: int
    roles: Mapping[str, Role]
    unknown: tuple[str, ...]


def find_transformer(model: ir.Model) -> Transformer:
    """Returns the encoder blocks of a cleaned float graph; without any, `blocks` is 0."""
    roles: dict[str, Role] = {}
    unknown = []
    block = 0
    for node in model.graph:
        attention = _attention(node)
        if attention is None:
            if node.op_type == "Attention" or (node.op_type == "Softmax" and _near_product(node)):
                unknown.append(str(node.name))
            continue
        for name, part in attention.items():
            roles.setdefault(name, Role(block, part))
        block += 1
    if block:
        _add_mlps(model, roles)
        _add_residuals(model, roles)
    return Transformer(block, roles, tuple(unknown))


def matching_nodes(model: ir.Model, pattern: str, transformer: Transformer) -> list[ir.Node] | None:
    """Returns the nodes that a pattern of blocks and parts means, or `None` where it is no such pattern.

    Args:
        model: The graph.
        pattern: `vit.PART`, `vit.BLOCKS` or `vit.BLOCKS.PART`. BLOCKS is `front`, `middle` or `end` (a third of the
            blocks each), a number, or `FIRST-LAST`; PART is one of `PARTS`, where `qk` means what computes queries and
            keys, `attention` the two products.
        transformer: The encoder blocks of the graph.

    Raises:
        InputError: there is no such part, or no such block.
    """
    found = _PATTERN.fullmatch(pattern)
    if found is None:
        return None
    part, blocks = found["part"], found["blocks"]
    if blocks is None and part in _RANGES:
        part, blocks = None, part
    if part is not None and part not in PARTS:
        raise InputError(f"`keep` {pattern!r}: unknown part {part!r}; wanted one of {', '.join(PARTS)}")
    if not transformer.blocks:
        raise InputError(f"`keep` {pattern!r}: the model has no attention that edgeq knows; name nodes instead")
    wanted = _block_range(pattern, blocks, transformer.blocks)
    return [
        node for node in model.graph
        if (role := transformer.roles.get(node.name or "")) is not None
        and role.block in wanted
        and (part is None or _means(part, role.part))
    ]  # fmt: skip


def _means(part: str, role: str) -> bool:
    if part == "qk":
        return role in ("q", "k", "qk", "qkv")
    if part in ("v", "qkv"):
        return role in (part, "qkv") or (part == "qkv" and role in ("q", "k", "v", "qk"))
    if part == "attention":
        return role in ("logits", "context")
    return role == part


def _block_range(pattern: str, text: str | None, blocks: int) -> range:
    if text is None:
        return range(blocks)
    if text in _RANGES:
        third = _RANGES.index(text)
        return range(third * blocks // 3, (third + 1) * blocks // 3)
    first, _, last = text.partition("-")
    found = range(int(first), int(last or first) + 1)
    if not found or found[-1] >= blocks:
        raise InputError(f"`keep` {pattern!r}: the model has the blocks 0 to {blocks - 1}")
    return found


# Rules 1 to 3 -------------------------------------------------------------------------------------------------------


def _attention(node: ir.Node) -> dict[str, str] | None:
    """Returns node name -> part of the attention around a Softmax, or `None` where there is none that is known."""
    if node.op_type == "Attention":
        context, parts = node, {str(node.name): "context"}
        operands = tuple(node.inputs[:3])
    elif node.op_type == "Softmax":
        logits, behind = _product_before(node.inputs[0]), _product_behind(node.outputs[0])
        if logits is None or behind is None:
            return None
        context = behind
        parts = {str(node.name): "softmax", str(logits.name): "logits", str(context.name): "context"}
        operands = (*logits.inputs, context.inputs[1])
    else:
        return None
    sources: dict[str, str] = {}
    for letter, value in zip("qkv", operands, strict=True):
        layer = _layer_before(value)
        if layer is None:
            return None
        name = str(layer.name)
        sources[name] = sources.get(name, "") + letter
    projection = _layer_behind(context.outputs[0])
    if projection is not None:
        parts[str(projection.name)] = "projection"
    return parts | sources


def _is_product(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "MatMul" and len(data_inputs(node)) == 2


def _product_before(value: ir.Value | None) -> ir.Node | None:
    while value is not None and (node := value.producer()) is not None:
        if _is_product(node):
            return node
        inputs = data_inputs(node)
        # A mask or a bias of positions that is computed would be a second input: the logits are the first.
        if node.op_type not in ("Mul", "Div", "Add", "Where", "Cast", "Clip", "Reshape") or not inputs:
            return None
        value = inputs[-1] if node.op_type == "Where" else inputs[0]
    return None


def _product_behind(value: ir.Value) -> ir.Node | None:
    readers = _readers(value)
    while len(readers) == 1:
        (node,) = readers
        if _is_product(node):
            return node if node.inputs[0] is value else None
        if node.op_type not in ("Cast", "Reshape", "Identity") and guarded(node) is None:
            return None
        value = node.outputs[0]
        readers = _readers(value)
    return None


def _readers(value: ir.Value) -> list[ir.Node]:
    """Returns what reads a value; of a guard against NaN the Where alone."""
    readers = [use.node for use in value.uses()]
    guards = [node for node in readers if guarded(node) is value]
    conditions = [guard.inputs[0].producer() for guard in guards if guard.inputs[0] is not None]
    return [node for node in dict.fromkeys(readers) if node not in conditions]


def _layer_before(value: ir.Value | None) -> ir.Node | None:
    """Returns the weighted layer that a value comes from, looking through what does not mix features."""
    while value is not None and (node := value.producer()) is not None:
        if weight_of(node) is not None:
            return node
        inputs = data_inputs(node)
        if node.op_type not in _THROUGH or not inputs:
            return None
        value = inputs[0]
    return None


def _layer_behind(value: ir.Value) -> ir.Node | None:
    readers = [use.node for use in value.uses()]
    while len(readers) == 1:
        (node,) = readers
        if weight_of(node) is not None:
            return node
        if node.op_type not in _MOVES and node.op_type not in _BEFORE_PROJECTION:
            return None
        readers = [use.node for use in node.outputs[0].uses()]
    return None


def _near_product(softmax: ir.Node) -> bool:
    """Says whether a product of activations stands up to three nodes before or behind: an unknown attention."""
    value = softmax.inputs[0]
    for _ in range(3):
        node = value.producer() if value is not None else None
        if node is None:
            break
        if _is_product(node):
            return True
        value = next(iter(data_inputs(node)), None)
    readers = [use.node for use in softmax.outputs[0].uses()]
    for _ in range(3):
        if any(_is_product(reader) for reader in readers):
            return True
        readers = [use.node for reader in readers for output in reader.outputs for use in output.uses()]
    return False


# Rules 4 to 6 -------------------------------------------------------------------------------------------------------


def _add_mlps(model: ir.Model, roles: dict[str, Role]) -> None:
    block = -1
    for node in model.graph:
        role = roles.get(node.name or "")
        if role is not None:
            block = role.block
        if block < 0 or weight_of(node) is None or node.op_type not in ("MatMul", "Gemm"):
            continue
        first = _layer_before_function(node.inputs[0])
        if first is None or {str(first.name), str(node.name)} & roles.keys():
            continue
        roles[str(first.name)], roles[str(node.name)] = Role(block, "fc1"), Role(block, "fc2")


def _layer_before_function(value: ir.Value | None) -> ir.Node | None:
    """Returns the layer behind which a function of its output alone leads to `value`; `None` without a function."""
    if value is None:
        return None
    function = False
    pending, seen = [value], set()
    layers: dict[int, ir.Node] = {}
    while pending:
        node = pending.pop().producer()
        if node is None:
            return None
        if id(node) in seen:
            continue
        seen.add(id(node))
        if weight_of(node) is not None:
            layers[id(node)] = node
            continue
        inputs = data_inputs(node)
        if not inputs or len(inputs) > 2 or node.op_type in ("Softmax", "MatMul", "LayerNormalization", "Concat"):
            return None
        function |= node.op_type not in _MOVES and node.op_type not in ("Cast", "Add")
        pending += inputs
    return next(iter(layers.values())) if function and len(layers) == 1 else None


def _add_residuals(model: ir.Model, roles: dict[str, Role]) -> None:
    for node in model.graph:
        if node.op_type != "Add" or len(data_inputs(node)) != 2:
            continue
        for value in data_inputs(node):
            branch = roles.get(str(_branch(value)))
            if branch is not None and branch.part in ("projection", "fc2"):
                roles.setdefault(str(node.name), Role(branch.block, "residual"))


def _branch(value: ir.Value) -> str | None:
    """Returns the name of the layer that a summand comes straight from, behind its bias, scale and moves."""
    node = value.producer()
    while node is not None and weight_of(node) is None:
        inputs = data_inputs(node)
        single = len(inputs) == 1 and node.op_type in _THROUGH and node.op_type != "LayerNormalization"
        node = inputs[0].producer() if single else None
    return node.name if node is not None else None
