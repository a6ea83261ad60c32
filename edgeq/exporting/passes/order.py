"""The one table of graph passes: what each needs, what it leaves, and in which order they run.

A pass is a function that changes a graph in place, computes the same, and returns what it did. A new one is a file in
this folder and an entry in its stage:

- `reading`: a graph as somebody wrote it becomes one that edgeq works on.
- `SIMPLIFYING`: operators become fewer and layers larger. What comes out is the float graph of every file: ranges,
  names and digests are those of its tensors.
- `for_engine`: the copy of it that a target's files are made from.
- `for_integers`: further, the operators that the target quantizes.
- `for_loading`: the graph of a file, with its Q/DQ pairs and types.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from edgeq.exporting.graphs.image_input import DeclaredInputs
from edgeq.exporting.graphs.names import keeps_names
from edgeq.exporting.passes.attention_scale import fold_attention_scale
from edgeq.exporting.passes.barriers import keep_integers_apart, keep_norms_apart
from edgeq.exporting.passes.batchnorm import fold_batchnorm
from edgeq.exporting.passes.captures import isolate_captures
from edgeq.exporting.passes.channel_gathers import fold_channel_gathers
from edgeq.exporting.passes.channel_selection import fold_channel_selection
from edgeq.exporting.passes.cleaning import clean, drop_constant_inputs
from edgeq.exporting.passes.computed_constants import fold_computed_constants
from edgeq.exporting.passes.conv_transpose import rewrite_conv_transpose
from edgeq.exporting.passes.declared_inputs import declare_inputs
from edgeq.exporting.passes.dequantize import dequantize
from edgeq.exporting.passes.float32 import compute_in_float32
from edgeq.exporting.passes.gelu import fuse_gelu
from edgeq.exporting.passes.gemm import rewrite_linear
from edgeq.exporting.passes.layernorm import fold_layernorm_affine
from edgeq.exporting.passes.linear_form import normalize_linear
from edgeq.exporting.passes.masks import limit_masks
from edgeq.exporting.passes.opset import lower_opset, raise_opset
from edgeq.exporting.passes.packed_projection import split_projections
from edgeq.exporting.passes.pool_windows import settle_pool_windows
from edgeq.exporting.passes.real_tensors import TakenScales
from edgeq.exporting.passes.report import RewriteReport
from edgeq.exporting.passes.shape_arithmetic import fold_shape_arithmetic
from edgeq.exporting.passes.sizes import make_static, open_dimensions, set_input_size
from edgeq.exporting.passes.softmax_guards import drop_softmax_guards
from edgeq.exporting.passes.space_to_depth import fold_space_to_depth
from edgeq.exporting.passes.token_selection import move_selections_up

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.targets import Rules

Property = Literal["static", "opset", "clean", "shapes", "float32", "folded", "batchnorm"]
"""What holds for a graph.

- `static`: no dimension of an input is free.
- `opset`: it is in the opset that was asked for.
- `clean`: no functions, constants are initializers, nothing is unused, everything has a name of its own.
- `shapes`: shapes are inferred.
- `float32`: real numbers are float32, but for inputs and outputs of other types and the Cast behind or before them.
- `folded`: what constants alone decide is a constant, unless it is large.
- `batchnorm`: BatchNormalization is folded where it can be.
"""


@dataclass(frozen=True)
class GraphPass:
    """One entry of the table.

    Attributes:
        run: The pass.
        needs: What must hold before it.
        leaves: What holds behind it.
        undoes: What need not hold behind it any more.
    """

    run: Callable[[ir.Model], RewriteReport]
    needs: frozenset[Property] = field(default=frozenset())
    leaves: frozenset[Property] = field(default=frozenset())
    undoes: frozenset[Property] = field(default=frozenset())

    @property
    def name(self) -> str:
        """The function's name."""
        run = self.run.func if isinstance(self.run, functools.partial) else self.run
        return run.__name__


_TIDY: frozenset[Property] = frozenset({"clean", "shapes"})


def reading(
    opset: int,
    size: tuple[int, int] | None = None,
    *,
    dynamic_batch: bool = False,
    declared: DeclaredInputs | None = None,
    taken: TakenScales | None = None,
) -> tuple[GraphPass, ...]:
    """Returns the passes that bring a graph as somebody wrote it into the form that edgeq works on.

    Args:
        opset: ONNX opset wanted.
        size: Height and width in pixels for an image input that leaves them free.
        dynamic_batch: Whether a free batch dimension stays free.
        declared: What a preset says of the inputs.
        taken: Gets the scales of a quantized graph, which becomes one of real numbers.
    """
    inputs = [GraphPass(open_dimensions), *_declared(declared or DeclaredInputs(), size)]
    static = [] if dynamic_batch else [GraphPass(make_static, leaves=frozenset({"static"}))]
    # Before shapes are asked for: what inference counts wrong would be folded.
    windows = GraphPass(settle_pool_windows)
    # Rules for old operators come first: `clean` computes constants by the newest definitions.
    old = GraphPass(functools.partial(raise_opset, opset=opset))
    tidy = GraphPass(clean, leaves=frozenset({"clean", "shapes"}))
    # Before the opset: weights of 4 bits and scales of blocks, which older ones lack, are plain weights then.
    folded = GraphPass(fold_computed_constants, needs=_TIDY, leaves=frozenset({"folded"}))
    new = GraphPass(
        functools.partial(lower_opset, opset=opset),
        needs=frozenset({"clean", "shapes"}),
        leaves=frozenset({"opset"}),
        undoes=frozenset({"clean", "shapes", "folded"}),
    )
    real = [] if taken is None else [GraphPass(functools.partial(dequantize, taken=taken), needs=_TIDY)]
    # Before operators are lowered: older ones take fewer types.
    single = GraphPass(compute_in_float32, _TIDY, frozenset({"float32"}))
    return (GraphPass(drop_constant_inputs), *inputs, *static, windows, old, tidy, *real, folded, single, new, tidy)


def _declared(declared: DeclaredInputs, size: tuple[int, int] | None) -> list[GraphPass]:
    """Returns the passes for what is known of the inputs besides the graph."""
    passes = []
    if declared.inputs:
        passes.append(GraphPass(functools.partial(declare_inputs, declared=declared.inputs)))
    chosen = size or declared.size
    if chosen is not None and (size is not None or declared.filled.takes == "images"):
        sizing = functools.partial(
            set_input_size,
            height_px=chosen[0],
            width_px=chosen[1],
            channels=declared.channels,
            layout=declared.filled.layout,
            only_free=size is None,
        )
        passes.append(GraphPass(sizing))
    return passes


SIMPLIFYING = (
    GraphPass(fold_computed_constants, needs=_TIDY, leaves=frozenset({"folded"})),
    GraphPass(fold_shape_arithmetic, needs=_TIDY | {"folded"}),
    # Before all that looks at the readers of a tensor, and behind what takes the branch of an If.
    GraphPass(isolate_captures, needs=_TIDY),
    GraphPass(normalize_linear, needs=_TIDY | {"folded"}),
    GraphPass(limit_masks, needs=_TIDY | {"folded"}),
    GraphPass(drop_softmax_guards, needs=_TIDY | {"folded"}),
    GraphPass(fold_batchnorm, needs=_TIDY | {"folded"}, leaves=frozenset({"batchnorm"})),
    GraphPass(fuse_gelu, needs=_TIDY),
    GraphPass(fold_attention_scale, needs=_TIDY),
    GraphPass(fold_layernorm_affine, needs=_TIDY | {"batchnorm"}),
)


def for_engine(rules: Rules) -> tuple[GraphPass, ...]:
    """Returns the passes that save work: tensors keep their names and values, or hold a part of what they held."""
    # First: queries that are apart are computed for the chosen tokens alone, too.
    split = [GraphPass(split_projections, needs=_TIDY)] if rules.split_projections else []
    folded = [GraphPass(fold_space_to_depth, needs=_TIDY)] if rules.fold_space_to_depth else []
    channels = [GraphPass(fold_channel_gathers, needs=_TIDY)] if rules.isa is not None else []
    return (*split, GraphPass(move_selections_up, needs=_TIDY), *folded, *channels)


def for_integers(rules: Rules) -> tuple[GraphPass, ...]:
    """Returns the passes that write operators as the target quantizes them."""
    transposed = [GraphPass(rewrite_conv_transpose, needs=_TIDY)] if rules.rewrite_conv_transpose else []
    linear = [GraphPass(rewrite_linear, needs=_TIDY)] if rules.rewrite_linear else []
    selected = [GraphPass(fold_channel_selection, needs=_TIDY)] if rules.fold_channel_selection else []
    return (*transposed, *linear, *selected)


def for_loading(rules: Rules) -> tuple[GraphPass, ...]:
    """Returns the passes without which engines would not load a file: they see it as it is written."""
    integers = [GraphPass(keep_integers_apart)] if rules.barriers else []
    return (GraphPass(keep_norms_apart), *integers)


def run_passes(model: ir.Model, passes: Sequence[GraphPass]) -> dict[str, RewriteReport]:
    """Runs passes in their order, in place, and returns name -> what each did; the last time where one runs twice.

    A pass may call what it adds as it likes: names that are taken are numbered behind it.
    """
    return {each.name: keeps_names(each.run)(model) for each in passes}
