"""Decides, from the graph alone, which nodes run in INT8 and which tensors need a Q/DQ pair for it.

Rules, by number:

1. A node of an operator of `Rules.schemes` with a constant weight runs in INT8; a residual Add does where a quantized
   layer feeds it.
2. The last convolutions before the graph's outputs, and everything behind them, stay in float: a detector's heatmap,
   sizes and offsets are read as they are, and cost next to nothing. So are those before a NonMaxSuppression or a TopK.
3. Nodes that the user or the plan for transformers keeps (`edgeq.exporting.planning.keep`) stay in float.
4. Every input of an INT8 node that is computed from the image gets a Q/DQ pair, one per tensor, shared by all its
   readers. What is computed from shapes or constants alone gets none.
5. Where the engine fuses a convolution with the QuantizeLinear behind it (`Rules.output_pairs`), its output gets
   a pair too, behind its ReLU or Clip, never between the two. Other functions (SiLU, GELU) stand between float layers:
   a pair before them would spend its steps on the negative tail that they flatten. Where the engine runs nothing in
   INT8 without that pair, the layer stays in float.
6. An operator that only moves values (`edgeq.exporting.graphs.moves`) is transparent: input and output share one range.
   What is no float has no range, whatever moves it: indices and shapes are not quantized.
7. Of the two inputs of a residual Add one may go without a pair (`Rules.residual_pairs`): the output of the layer that
   the engine fuses with the Add. Where both inputs come straight from a layer, that is the deeper one; the other is the
   projection of the identity.
8. In a transformer (`edgeq.exporting.graphs.transformer`) linear layers run in INT8 and give floats; the residual
   stream stays in float, and with it what is read from it (LayerNorm), Softmax, and the patch embedding: rounding the
   stream to 8 bits would add error in every block. The plan decides about the rest:
   - `balanced`: the products of activations in an attention stay in float;
   - `fast`: they run in INT8 where the engines have a kernel (`Rules.int8_attention`);
   - `safe`: as `balanced`, and the layers that write into the residual stream stay in float.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgeq.errors import InputError
from edgeq.exporting.graphs.choices import CHOOSES
from edgeq.exporting.graphs.data_flow import image_values, is_float
from edgeq.exporting.graphs.graph import WEIGHTED_OPS, data_inputs, kernel_positions, multiplies_activations, weight_of
from edgeq.exporting.graphs.linear import linear_of, without_channels
from edgeq.exporting.graphs.moves import MOVES_VALUES, moved_inputs, moves_values
from edgeq.exporting.graphs.subgraphs import captures, has_subgraphs
from edgeq.exporting.graphs.transformer import Transformer, find_transformer
from edgeq.exporting.planning.attention_products import attention_reasons
from edgeq.exporting.planning.decision import LayerDecision
from edgeq.exporting.planning.keep import Kept, VitPlan, embeds_patches, resolve_keep
from edgeq.schemes import FLOAT, LayerScheme

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.targets import Rules
    from edgeq.targets.base import SmallestLayers

_FUNCTIONS = frozenset({"Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Gelu", "Softplus", "Elu", "Mish"})

_LINEAR = frozenset({"Gemm", "MatMul"})

DEPTHWISE, PRODUCT = "DepthwiseConv", "Product"
"""What `Rules.schemes` calls a convolution of one channel each."""

_BEHIND_HEADS = MOVES_VALUES | {
    "GatherElements",
    "GatherND",
    "Sigmoid",
    "Softmax",
    "Cast",
    "Identity",
    "QuantizeLinear",
    "Relu",
    "Clip",
    "Exp",
    "Tanh",
    "Mul",
    "Sub",
    "Div",
    "Add",
    "HardSigmoid",
}

_BEFORE_CHOICES = CHOOSES | _BEHIND_HEADS | {
    "Identity", "Cast", "ReduceMax", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Equal", "And", "Or", "Not", "Where", "Min", "Max", "Mod", "Floor", "Neg", "Pow", "Sqrt", "Tile",
    "ScatterND", "ScatterElements", "Compress",
}  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """What is to be quantized, before any range is known.

    Attributes:
        decisions: What is decided of every node that could be quantized, in graph order.
        tensors: Names of the tensors that get a Q/DQ pair, in graph order.
        transformer: The encoder blocks of the graph.
    """

    decisions: tuple[LayerDecision, ...]
    tensors: tuple[str, ...]
    transformer: Transformer

    @property
    def quantized(self) -> frozenset[str]:
        """Names of the nodes that do not stay in float."""
        return frozenset(decision.name for decision in self.decisions if not decision.is_float)

    def with_bits(self, weight: int, activation: int) -> Selection:
        """Returns the same selection, to be quantized to other numbers of bits."""
        changed = (replace(each, scheme=each.scheme.with_bits(weight, activation)) for each in self.decisions)
        return replace(self, decisions=tuple(changed))


def select_layers(
    model: ir.Model,
    rules: Rules,
    kept: Kept | None = None,
    vit_plan: VitPlan = "balanced",
    slow: Mapping[str, str] = MappingProxyType({}),
) -> Selection:
    """Returns what is quantized in a cleaned, BatchNorm-free graph.

    Args:
        model: The float graph.
        rules: The target's rules.
        kept: What stays in float; by default what `vit_plan` keeps.
        vit_plan: What of a transformer runs in INT8 (rule 8).
        slow: Name of a node -> why it takes less time in float (`edgeq.exporting.costs.plan`).
    """
    transformer = find_transformer(model)
    kept = resolve_keep(model, vit_plan=vit_plan) if kept is None else kept
    heads, from_image = _head_nodes(model), image_values(model)
    products = attention_reasons(model, transformer, rules, vit_plan, slow)
    decisions: list[LayerDecision] = []
    quantized: set[int] = set()
    for node in model.graph:
        reason = _transformer_reason(node, transformer, products, vit_plan)
        if not reason and node.op_type == "Add" and not _is_residual(node, quantized, from_image, rules):
            continue
        if not reason:
            reason = _float_reason(node, rules, kept, heads, from_image, is_product=reason == "")
            reason = slow.get(str(node.name), reason) if reason == "" else reason
        if reason is None:
            continue
        scheme = FLOAT if reason else _scheme_of(node, rules)
        decisions.append(LayerDecision(node.name or "", node.op_type, scheme, reason or "the target runs it in INT8"))
        if not scheme.is_float:
            quantized.add(id(node))
    return Selection(tuple(decisions), _tensors(model, rules, quantized), transformer)


def select_named(model: ir.Model, rules: Rules, schemes: Mapping[str, LayerScheme]) -> Selection:
    """Returns the selection of exactly these layers; all others stay in float.

    Args:
        model: The float graph, as the target's writer takes it.
        rules: Where the target's engines want Q/DQ pairs; whether they have a kernel for a scheme is not asked.
        schemes: Name of a node -> how it is computed.

    Raises:
        InputError: there is no node of a name, or it neither has a constant weight nor computes with activations alone.
    """
    nodes = {node.name or "": node for node in model.graph}
    for name in schemes:
        if name not in nodes:
            raise InputError(
                f"layer {name!r}: the graph has no such node; names look like {', '.join(list(nodes)[:5])}"
            )
        if nodes[name].op_type not in WEIGHTED_OPS | {"Add"}:
            operator = nodes[name].op_type
            raise InputError(f"layer {name!r}: edgeq does not quantize {operator}; name one with a weight, or an Add")
        if (reason := without_channels(nodes[name])) is not None:
            raise InputError(f"layer {name!r}: {reason}, and edgeq quantizes by output channels; omit it")
    decisions = [
        LayerDecision(name, node.op_type, schemes.get(name, FLOAT), "named" if name in schemes else "not named")
        for name, node in nodes.items()
        if name in schemes or weight_of(node) is not None
    ]
    quantized = {id(nodes[decision.name]) for decision in decisions if not decision.is_float}
    return Selection(tuple(decisions), _tensors(model, rules, quantized), find_transformer(model))


def observed_tensors(model: ir.Model, selections: Iterable[Selection]) -> list[str]:
    """Returns the tensors whose values calibration has to see, in graph order.

    Those are the tensors with a pair, less those behind operators that only move values: they share the range of what
    they move. The operands of a product of activations are observed as they are: queries, keys and values that come out
    of one packed layer are apart in most files.
    """
    selections = list(selections)
    wanted = {name for selection in selections for name in selection.tensors}
    int8 = frozenset[str]().union(*(selection.quantized for selection in selections))
    operands = {
        value.name for node in model.graph if node.name in int8 and multiplies_activations(node)
        for value in data_inputs(node)
    }  # fmt: skip
    found = [value for value in model.graph.inputs if value.name in wanted]
    for node in model.graph:
        computed = frozenset[str]() if moves_values(node) else wanted
        found += [value for value in node.outputs if value.name in operands | computed]
    return [value.name for value in found if value.name is not None]


def activation_behind(node: ir.Node) -> ir.Value:
    """Returns the output of the ReLU or Clip that engines fuse into `node`, or the node's own output."""
    output = node.outputs[0]
    uses = output.uses()
    if len(uses) == 1 and not output.is_graph_output():
        behind = next(iter(uses)).node
        if behind.op_type in ("Relu", "Clip"):
            return behind.outputs[0]
    return output


def _feeds_function(value: ir.Value) -> bool:
    return any(use.node.op_type in _FUNCTIONS for use in value.uses())


def _transformer_reason(
    node: ir.Node, transformer: Transformer, products: Mapping[int, str], vit_plan: VitPlan
) -> str | None:
    """Returns why a node of a transformer stays in float (rule 8), an empty string for an INT8 product of activations.

    `None` leaves the choice to the rules for all graphs.
    """
    role = transformer.roles.get(node.name or "")
    if role is not None and role.part == "residual":
        return "the residual stream of a transformer"
    if role is not None and role.is_product and node.op_type == "MatMul":
        return products.get(role.block, "")
    if transformer.blocks and vit_plan != "fast" and embeds_patches(node):
        return "the patch embedding, which begins the residual stream"
    return None


def _float_reason(
    node: ir.Node,
    rules: Rules,
    kept: Kept,
    heads: frozenset[int],
    from_image: Set[ir.Value],
    is_product: bool = False,
) -> str | None:
    """Returns why a node stays in float, an empty string for INT8, `None` for a node that is no candidate."""
    if not all(is_float(output) for output in node.outputs):
        return None
    if rules.static(node.op_type) is None:
        return f"the target leaves {node.op_type} in float" if weight_of(node) is not None else None
    if _is_depthwise(node) and rules.static(DEPTHWISE) is None:
        return "depthwise convolution"
    if _is_small(node, rules.smallest):
        return "with so few channels the target runs it no faster in INT8"
    if (reason := _too_small_product(node, rules.smallest)) is not None:
        return reason
    if rules.largest_kernel is not None and (positions := kernel_positions(node)) > rules.largest_kernel:
        return f"its kernel has {positions} positions, and the target runs at most {rules.largest_kernel} in FP8"
    if node.op_type != "Add" and weight_of(node) is None and not is_product:
        return "its weight is not a constant"
    if from_image.isdisjoint(data_inputs(node)):
        return "its input does not depend on the image"
    if (reason := without_channels(node)) is not None:
        return reason
    if (reason := kept.reason(node)) is not None:
        return reason
    if id(node) in heads:
        return "last convolution of a head"
    if rules.output_pairs == "required" and _stands_before_function(node):
        return "it is followed by a function other than ReLU, so the engine would run it in float"
    return ""


def _scheme_of(node: ir.Node, rules: Rules) -> LayerScheme:
    """Returns how the target runs a node that is quantized."""
    own = rules.static(PRODUCT) if multiplies_activations(node) else None
    scheme = own or rules.static(rules_name(node))
    assert scheme is not None  # noqa: S101 - `_float_reason` has looked
    return scheme if weight_of(node) is not None else scheme.without_weight


def _stands_before_function(node: ir.Node) -> bool:
    return node.op_type not in _LINEAR and _feeds_function(activation_behind(node))


def rules_name(node: ir.Node) -> str:
    """Returns what `Rules.schemes` calls a node's operator."""
    return DEPTHWISE if _is_depthwise(node) else node.op_type


def _is_depthwise(node: ir.Node) -> bool:
    weight = weight_of(node)
    groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
    return node.op_type == "Conv" and weight is not None and groups > 1 and weight.shape[1] == 1


def _is_small(node: ir.Node, smallest: SmallestLayers) -> bool:
    """Returns whether a convolution has fewer channels than its conversions are worth."""
    weight = weight_of(node)
    if node.op_type != "Conv" or weight is None or _is_depthwise(node):
        return False
    groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
    channels = min(int(weight.shape[0]), int(weight.shape[1]) * groups)
    return channels < (smallest.pointwise if math.prod(weight.shape[2:]) == 1 else smallest.spatial)


def _too_small_product(node: ir.Node, smallest: SmallestLayers) -> str | None:
    """Returns why a product by a matrix gains nothing from INT8, `None` if it may; rows that are open are many."""
    weight, shape = weight_of(node), node.outputs[0].shape
    if node.op_type not in _LINEAR or weight is None:
        return None
    if min(weight.shape[-2:]) < smallest.features:
        return f"with fewer than {smallest.features} features the target runs it no faster in INT8"
    rows = [] if shape is None else [each for each in list(shape)[:-1] if isinstance(each, int)]
    if shape is not None and len(rows) == len(shape) - 1 and math.prod(rows) < smallest.rows:
        return "with so few rows the target runs it no faster in INT8"
    return None


def _is_residual(node: ir.Node, quantized: set[int], from_image: Set[ir.Value], rules: Rules) -> bool:
    inputs = [value for value in data_inputs(node) if value in from_image]
    if len(inputs) != 2 or len({str(value.shape) for value in inputs}) != 1:
        return False
    return any(id(_origin(value, rules)) in quantized for value in inputs)


def _origin(value: ir.Value, rules: Rules) -> ir.Node | None:
    """Returns the node that computed a value, looking through activations and operators that only move values.

    What adds the bias of a layer that is to become a Gemm is that layer, before the rewrite as behind it.
    """
    producer = value.producer()
    while producer is not None:
        if rules.rewrite_linear and (layer := linear_of(producer)) is not None:
            return layer.node
        if producer.op_type not in ("Relu", "Clip") and not moves_values(producer):
            break
        inputs = data_inputs(producer)
        if not inputs:
            break
        producer = inputs[0].producer()
    return producer


def _head_nodes(model: ir.Model) -> frozenset[int]:
    """Returns the last convolutions before each output, walking back over what may stand behind a head (rule 2).

    Where the graph chooses detections itself, with a NonMaxSuppression, a TopK or a loop, boxes and scores are computed
    with before that: then operators of such arithmetic may stand behind a head too.
    """
    found: set[int] = set()
    seen: set[tuple[int, bool]] = set()
    pending = [(value.producer(), False) for value in model.graph.outputs]
    while pending:
        node, chosen = pending.pop()
        if node is None or (id(node), chosen) in seen:
            continue
        seen.add((id(node), chosen))
        if node.op_type in ("Conv", "ConvTranspose"):
            found.add(id(node))
            continue
        chosen = chosen or node.op_type in CHOOSES or has_subgraphs(node)
        inputs = data_inputs(node)
        # A sum of two maps is a residual block: what stands before it is the backbone, no head.
        passed = node.op_type in _BEHIND_HEADS and not (node.op_type == "Add" and len(inputs) > 1)
        if passed or (chosen and (node.op_type in _BEFORE_CHOICES or has_subgraphs(node))):
            inside = captures(node, model.graph)
            inputs += [each.value for each in inside if each.reader.op_type in _BEFORE_CHOICES]
            pending += [(value.producer(), chosen) for value in inputs]
    return frozenset(found)


def _fused_branch(node: ir.Node, quantized: set[int], depths: dict[int, int]) -> ir.Value | None:
    """Returns the input of a residual Add that the engine computes in one kernel with it (rule 7), or `None`."""
    if node.op_type != "Add":
        return None
    direct = [
        value for value in data_inputs(node)
        if (producer := value.producer()) is not None
        and id(producer) in quantized
        and producer.op_type != "Add"
        and len(value.uses()) == 1
        and not value.is_graph_output()
    ]  # fmt: skip
    return max(direct, key=lambda value: depths[id(value.producer())], default=None)


def _depths(model: ir.Model) -> dict[int, int]:
    """Returns the identity of each node -> how many weighted layers stand on the longest way from an input to it."""
    depths: dict[int, int] = {}
    for node in model.graph:
        before = [depths.get(id(value.producer()), 0) for value in data_inputs(node)]
        depths[id(node)] = max(before, default=0) + (weight_of(node) is not None)
    return depths


def _tensors(model: ir.Model, rules: Rules, quantized: set[int]) -> tuple[str, ...]:
    wanted: set[int] = set()
    depths = _depths(model)
    from_image = image_values(model)
    for node in model.graph:
        if id(node) not in quantized:
            continue
        fused = _fused_branch(node, quantized, depths) if rules.residual_pairs == "identity" else None
        wanted.update(id(value) for value in data_inputs(node) if value is not fused and value in from_image)
        if rules.output_pairs != "none" and node.op_type not in _LINEAR:
            output = activation_behind(node)
            if not output.is_graph_output() and not _feeds_function(output):
                wanted.add(id(output))
    # Rule 6, against the direction of the data: what is moved has to be quantized before it is moved.
    for node in reversed(model.graph):
        if moves_values(node) and any(id(output) in wanted for output in node.outputs):
            wanted.update(id(value) for value in moved_inputs(node))
    values = [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]
    return tuple(value.name for value in values if id(value) in wanted and value.name is not None and is_float(value))
