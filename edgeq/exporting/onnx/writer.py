"""Writes a float graph as FP32, FP16, INT8 or dynamic INT8 ONNX files, each with its manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

import edgeq
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.exporting.artifact import Artifact, Postprocessing, Preprocessing
from edgeq.exporting.costs.plan import choose_by_cost
from edgeq.exporting.ends import require_same_ends
from edgeq.exporting.file_pair import pair_written
from edgeq.exporting.graphs.digest import graph_digest
from edgeq.exporting.graphs.end_specs import Ends, end_specs
from edgeq.exporting.graphs.graph import copy_graph, new_initializer, opset_of, save_onnx
from edgeq.exporting.graphs.names import keeps_names
from edgeq.exporting.graphs.transformer import find_transformer
from edgeq.exporting.graphs.weights import release_weights
from edgeq.exporting.jobs import Companion, Finetune, MeanErrors, PlannedModel, Reconstruct
from edgeq.exporting.onnx.dynamic import insert_dynamic
from edgeq.exporting.onnx.float_attention import write_float_attention
from edgeq.exporting.onnx.int4_weights import INT4_OPSET, W4A8, store_in_four_bits
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.passes.conv_transpose import rewrite_conv_transpose
from edgeq.exporting.passes.opset import raise_opset
from edgeq.exporting.passes.order import for_engine, for_integers, for_loading, run_passes
from edgeq.exporting.passes.report import RewriteReport
from edgeq.exporting.planning.bias_correction import correct_biases
from edgeq.exporting.planning.fp16_audit import audit_fp16
from edgeq.exporting.planning.keep import Kept, VitPlan
from edgeq.exporting.planning.known_ranges import keep_without_ranges
from edgeq.exporting.planning.mixed_ranges import readers_of_mixed_ranges
from edgeq.exporting.planning.plan import QuantPlan, make_dynamic_plan, make_plan
from edgeq.exporting.planning.selection import select_layers
from edgeq.exporting.planning.wide_ends import with_wide_ends
from edgeq.exporting.quantization_facts import CalibratedOn
from edgeq.exporting.tensor_spec import Layout, TensorSpec
from edgeq.exporting.tensorrt.strong_typing import FP16_MAX, to_fp16
from edgeq.files import sha256_file, sha256_json
from edgeq.notes import log_of
from edgeq.quantizers import LEAST_SQUARE, ROUND

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import onnx_ir as ir

    from edgeq.exporting.costs.table import KernelTable
    from edgeq.exporting.passes.real_tensors import TakenScales
    from edgeq.targets import Target

TAKEN = "taken"
"""Method of ranges that a quantized file had (`FloatModel.taken_ranges`)."""

_log = log_of(__name__)


@dataclass(frozen=True)
class FloatModel:
    """A cleaned, BatchNorm-free float graph and what belongs to it: the source of every file.

    Attributes:
        name: Stem of the files' names.
        graph: The graph. Writers copy it before they change it.
        preprocessing: From image file to input.
        postprocessing: From outputs to detections.
        labels: Class names by class index.
        layout: Where the input has its channels.
        taken: The scales of the quantized file that the graph was made of, if it was.
        format: Name of the format that it is.
    """

    format: ClassVar[str] = "onnx"

    name: str
    graph: ir.Model
    preprocessing: Preprocessing
    postprocessing: Postprocessing | None = None
    labels: tuple[str, ...] = ()
    layout: Layout = "NCHW"
    taken: TakenScales | None = None

    @property
    def digest(self) -> str:
        """Identifies the graph; ranges and artifacts remember it."""
        return graph_digest(self.graph)

    @property
    def input(self) -> TensorSpec:
        """The one input."""
        return self.ends[0][0]

    @property
    def ends(self) -> Ends:
        """Inputs and outputs."""
        return _ends(self.graph, self.layout)

    def taken_ranges(self) -> Ranges | None:
        """Returns the ranges of the quantized file that the graph was made of; `None` if it was not."""
        if self.taken is None:
            return None
        digests = self.digest, self.preprocessing.digest
        provenance = Provenance(*digests, 0, sha256_json(sorted(self.taken.tensors)), edgeq.__version__)
        return Ranges(TAKEN, {}, provenance, self.taken.tensors, {})

    def copy_graph(self) -> ir.Model:
        """Returns a copy that a pass may change."""
        return copy_graph(self.graph)


def engine_graph(model: FloatModel, target: Target) -> ir.Model:
    """Returns a copy of the float graph that computes the same with less work: every file of a target is made from it.

    Tensors keep their names and values, or hold a part of what they held, so that the model's ranges are theirs.
    """
    graph = model.copy_graph()
    run_passes(graph, for_engine(target.rules))
    return graph


def write_fp32(model: FloatModel, target: Target, folder: Path) -> Artifact:
    """Returns the FP32 artifact, written to `folder`."""
    return write_artifact(model, engine_graph(model, target), target, "fp32", folder, {})


def write_fp16(model: FloatModel, target: Target, folder: Path, ranges: Ranges | None = None) -> Artifact:
    """Returns the FP16 artifact, by `Rules.fp16`.

    - `weights`: they are stored in FP16 and cast to FP32 when the engine loads them. Half the size at the accuracy of
      FP16 weights; x86 engines compute in FP32 (or BF16), for they have no FP16 kernels that are faster. Weights beyond
      FP16's range stay FP32 and are named in the manifest.
    - `engine`: the FP32 graph; the engine is told to compute it in FP16.
    - `graph`: every tensor is FP16.

    Where tensors are to be FP16, the nodes that FP16 cannot compute stay FP32, and the manifest names them.

    Args:
        model: The float model.
        target: Whose rules to follow.
        folder: Where to write.
        ranges: What calibration saw of this model; `None` leaves the tensors unaudited.

    Raises:
        ModelError: a constant of an FP16 graph does not fit.
        MismatchError: the ranges were collected for another model or other pre-processing.
    """
    graph = engine_graph(model, target)
    if target.rules.fp16 != "weights":
        if ranges is not None:
            ranges.check(model_digest=model.digest, preprocessing_digest=model.preprocessing.digest)
        islands = _fp16_islands(graph, ranges)
        if target.rules.fp16 == "graph":
            to_fp16(graph, islands.get("fp16_islands", ()))
        where = "in the graph" if target.rules.fp16 == "graph" else "by the engine"
        return write_artifact(model, graph, target, "fp16", folder, {"fp16": where, **islands})
    kept = halve_weights(graph)
    return write_artifact(model, graph, target, "fp16", folder, {"weights_kept_in_fp32": kept})


def write_int8(
    model: FloatModel,
    target: Target,
    folder: Path,
    ranges: Ranges,
    kept: Kept | None = None,
    vit_plan: VitPlan = "balanced",
    companions: Sequence[Companion] = (),
    mean_errors: MeanErrors | None = None,
    costs: KernelTable | None = None,
    least_gain_us: float = 0.0,
    noisy: Mapping[str, str] = MappingProxyType({}),
    reconstruct: Reconstruct | None = None,
    finetune: Finetune | None = None,
    precision: Literal["int8", "w4a8"] = "int8",
    wide: Collection[str] | None = None,
) -> Artifact:
    """Returns the static INT8 artifact, written by the target's rules.

    Args:
        model: The float model.
        target: Whose rules to follow.
        folder: Where to write.
        ranges: Calibrated ranges of this model and its pre-processing.
        kept: Nodes that stay in float; by default those that `vit_plan` keeps.
        vit_plan: What of a transformer runs in INT8 (`edgeq.exporting.planning.selection.select_layers`).
        companions: Writers of further files of the same plan.
        mean_errors: Measures what layers give too much on average; their biases take it back.
        costs: What kernels cost where the file is to run; layers that INT8 makes no faster stay in float. By default
            the target's rules alone decide.
        least_gain_us: What every layer in INT8 has to save by these costs.
        noisy: Name of a layer -> why it stays in float, whatever it saves by these costs.
        reconstruct: Learns how weights are rounded; by default each is rounded to nearest.
        finetune: Trains what the plan has quantized; by default it stays as calibration has it.
        precision: `w4a8` stores weights in 4 bits.
        wide: Names of the layers of a `w4a8` file whose weights keep 8 bits; by default the first and the last ones.

    Raises:
        MismatchError: the ranges were collected for another model or other pre-processing.
    """
    is_w4a8 = precision == W4A8
    if is_w4a8:
        target = dataclasses.replace(target, rules=target.rules.in_w4a8)
    graph, plan, facts = plan_int8(
        model, target, ranges, kept, vit_plan, costs=costs, least_gain_us=least_gain_us, noisy=noisy,
        weight_method=LEAST_SQUARE if is_w4a8 else ROUND, wide=wide,
    )  # fmt: skip
    if reconstruct is not None:
        plan, facts["reconstruction"] = reconstruct(PlannedModel(model, target, graph, plan, ranges))
    is_learned = reconstruct is not None and facts["reconstruction"]["kept"]
    # Learned weights make up for the errors before them, which biases would take back a second time.
    if mean_errors is not None and plan.biases and not is_learned:
        plan, corrected = correct_biases(plan, mean_errors(graph, plan))
        facts["corrected_biases"] = corrected
    if finetune is not None:
        plan, facts["finetuning"] = finetune(PlannedModel(model, target, graph, plan, ranges))
    for write_companion in companions:
        facts |= write_companion(PlannedModel(model, target, graph, plan, ranges), folder)
    if target.rules.fp16 != "weights":
        facts |= _fp16_islands(graph, ranges)
    transformer = find_transformer(graph)
    if is_w4a8:
        raise_opset(graph, max(opset_of(graph), INT4_OPSET))
    insert_qdq(graph, plan, target.rules)
    if is_w4a8:
        facts["w4a8_nodes"] = store_in_four_bits(graph, plan)
    if target.rules.whole_projections:
        islands, in_fp16 = facts.get("fp16_islands", ()), target.rules.fp16_attention
        write_float_attention(graph, transformer, plan.in_float, islands, in_fp16=in_fp16)
    if target.rules.fp16 == "graph":
        to_fp16(graph, facts["fp16_islands"])
    return write_artifact(model, graph, target, precision, folder, facts)


def _fp16_islands(graph: ir.Model, ranges: Ranges | None) -> dict[str, Any]:
    """Returns what the manifest says of the nodes that FP16 cannot compute; nothing without ranges."""
    islands = audit_fp16(graph, ranges)
    return {} if ranges is None else {"fp16_islands": islands}


def quantizable_graph(model: FloatModel, target: Target) -> tuple[ir.Model, int]:
    """Returns a copy of the float graph in the operators that the target quantizes, and how many ConvTranspose are not.

    Every plan of a file with calibrated ranges is made for this graph.
    """
    graph = engine_graph(model, target)
    reports = run_passes(graph, for_integers(target.rules))
    return graph, len(reports.get(rewrite_conv_transpose.__name__, RewriteReport()).done)


def plan_int8(
    model: FloatModel,
    target: Target,
    ranges: Ranges,
    kept: Kept | None = None,
    vit_plan: VitPlan = "balanced",
    bits: tuple[int, int] | None = None,
    costs: KernelTable | None = None,
    least_gain_us: float = 0.0,
    noisy: Mapping[str, str] = MappingProxyType({}),
    weight_method: str = ROUND,
    wide: Collection[str] | None = None,
) -> tuple[ir.Model, QuantPlan, dict[str, Any]]:
    """Returns a copy of the float graph as the target wants it, the plan for it, and what the manifest says of both.

    The arguments are those of `write_int8`, and so is the error; `bits` are those of weights and activations, by
    default those of the rules, and `weight_method` is a name of `edgeq.quantizers.WEIGHT_METHODS`.
    """
    ranges.check(model_digest=model.digest, preprocessing_digest=model.preprocessing.digest)
    graph, rewritten = quantizable_graph(model, target)
    if ranges.method == TAKEN:
        kept = keep_without_ranges(graph, target.rules, ranges, kept, vit_plan)
    rules = target.rules if costs is None else target.rules.of_any_size
    selection = select_layers(graph, rules, kept, vit_plan)
    chosen = None
    if costs is not None:
        in_float = {**readers_of_mixed_ranges(graph, selection, ranges), **noisy}
        chosen = choose_by_cost(graph, selection.quantized, costs, rules, least_gain_us, in_float)
    if chosen is not None:
        selection = select_layers(graph, rules, kept, vit_plan, chosen.in_float)
    selection = with_wide_ends(graph, selection, wide) if bits is None else selection.with_bits(*bits)
    scales = model.taken.weights if model.taken is not None and ranges.method == TAKEN else {}
    plan = make_plan(graph, selection, ranges, target.rules, weight_method, weight_scales=scales)
    release_weights(graph)
    transformer = selection.transformer
    for name in transformer.unknown:
        _log.warning("%s belongs to an attention that edgeq does not know; its products stay in float", name)
    if not plan.quantized:
        _log.warning("no layer of %s runs in INT8 on %s; it computes in float: take fp32", model.name, target.name)
    facts: dict[str, Any] = {"method": ranges.method, "ranges_digest": ranges.digest}
    facts |= CalibratedOn.stated(ranges.provenance)
    if transformer.blocks:
        facts["vit_plan"] = vit_plan
    if chosen is not None and costs is not None:
        facts["kernel_costs"] = {"source": costs.source, "measured": costs.is_measured, **chosen.summary()}
    return graph, plan, facts | {"rewritten_conv_transpose": rewritten, **plan.summary()}


def write_dynamic(
    model: FloatModel, target: Target, folder: Path, kept: Kept | None = None, vit_plan: VitPlan = "balanced"
) -> Artifact:
    """Returns the dynamic INT8 artifact: int8 weights, ranges of activations measured anew at every run.

    The arguments are those of `write_int8`; products of activations have no dynamic form here and stay in float.
    """
    graph = engine_graph(model, target)
    selection = select_layers(graph, target.rules, kept, vit_plan)
    facts: dict[str, Any] = {"vit_plan": vit_plan} if selection.transformer.blocks else {}
    plan = make_dynamic_plan(graph, selection, target.rules)
    insert_dynamic(graph, plan)
    facts |= {"int8_nodes": len(plan.weights), **({"saturation": dict(plan.saturation)} if plan.saturation else {})}
    return write_artifact(model, graph, target, "dynamic", folder, facts)


def write_artifact(
    model: FloatModel, graph: ir.Model, target: Target, precision: str, folder: Path, quantization: Mapping[str, Any]
) -> Artifact:
    """Writes a graph that was made of a model, with its manifest, and returns it.

    Args:
        model: Where the graph comes from.
        graph: What to write.
        target: Whose rules it follows.
        precision: As the file's name and the manifest have it.
        folder: Where to.
        quantization: What the manifest says of it.

    Raises:
        ModelError: it has other inputs or outputs than the model.
    """
    run_passes(graph, for_loading(target.rules))
    path = folder / f"{model.name}.{target.name}.{precision}.onnx"
    graph.producer_name, graph.producer_version = "edgeq", edgeq.__version__
    inputs, outputs = _ends(graph, model.layout)
    require_same_ends(path.name, (inputs, outputs), model.ends)
    with pair_written(path):
        if (beside := save_onnx(graph, path)) is not None:
            quantization = {**quantization, "weights_file": {"file": beside.name, "digest": sha256_file(beside)}}
        artifact = Artifact(
            path=path,
            format="onnx",
            precision=precision,
            target=target.name,
            inputs=inputs,
            outputs=outputs,
            preprocessing=model.preprocessing.declared,
            postprocessing=model.postprocessing,
            labels=model.labels,
            source_digest=model.digest,
            quantization=quantization,
            tools={"edgeq": edgeq.__version__} | {name: version(name) for name in ("onnx", "onnx-ir")},
        )
        return artifact.save()


def _ends(graph: ir.Model, layout: Layout) -> Ends:
    inputs, outputs = end_specs(graph)
    return tuple(dataclasses.replace(spec, layout=layout) for spec in inputs), outputs


@keeps_names
def halve_weights(model: ir.Model, names: Collection[str] | None = None) -> list[str]:
    """Stores matrices and kernels as FP16 behind a Cast, and returns the names of those that do not fit.

    Args:
        model: A float graph, changed in place.
        names: The constants that are meant; by default all.
    """
    import onnx_ir as ir

    kept = []
    for name, value in list(model.graph.initializers.items()):
        array = value.const_value.numpy() if value.const_value is not None else None
        if names is not None and name not in names:
            continue
        if array is None or array.dtype != np.float32 or array.ndim < 2 or value.is_graph_output():
            continue
        if np.abs(array).max(initial=0) > FP16_MAX:
            kept.append(name)
            continue
        half = new_initializer(model, f"{name}_fp16", array.astype(np.float16))
        cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT}, name=f"{name}_cast")
        cast.outputs[0].name, cast.outputs[0].shape, cast.outputs[0].type = f"{name}_fp32", value.shape, value.type
        model.graph.insert_before(next(iter(model.graph)), cast)
        value.replace_all_uses_with(cast.outputs[0])
        del model.graph.initializers[name]
    return kept
