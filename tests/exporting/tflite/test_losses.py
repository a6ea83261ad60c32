"""What static TFLite files lose where a constant is joined with activations, and where a channel has no weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeq.calibrators import Histogram
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.planning.plan import QuantPlan
from edgeq.exporting.tflite.graph import Graph, Operator, Tensor, read_graph, unpack
from edgeq.exporting.tflite.layers import computed_by_name, quantized_layers
from edgeq.exporting.tflite.plan import mixed_ranges, observed_tensors, select_operators, tied
from edgeq.exporting.tflite.quantize import activation_grids, intervals, quantize
from edgeq.exporting.tflite.writer import RangeSources, TfliteModel, TfliteOptions, plan, write
from edgeq.inputs.presets import load_preset
from edgeq.runtimes.litert_observer import TfliteObserver
from tests import tflite_nets
from tests.exporting import nets
from tests.exporting.test_losses import ENOUGH_DB, snr_db
from tests.kept_exports import made_once

IMAGE = nets.normal(0, 1, 3, 16, 16)


class Coordinates(nn.Module):
    """As CoordConv has it: the features and where they are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(10, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 1)
        line = torch.linspace(-2, 2, 16)
        self.grid = nn.Buffer(torch.stack(torch.meshgrid(line, line, indexing="ij"))[None])
        with torch.no_grad():
            self.second.weight[:, 8:] *= 10

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([torch.relu(self.first(x)), self.grid], 1)
        found: torch.Tensor = self.last(torch.relu(self.second(x))).mean((2, 3))
        return found


class Pruned(nn.Module):
    """Five channels without weights, one of them without a bias as well, and one of tiny weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.first.weight[:5] = 0
            self.first.weight[5] *= 1e-12
            self.first.bias = nn.Parameter(torch.tensor([0.31, 0.33, 0.35, 0.37, 0, 0.39, 0.4, 0.41]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        found: torch.Tensor = self.last(x).mean((2, 3))
        return found


def model_of(kind: type[nn.Module]) -> TfliteModel:
    content = made_once(f"{kind.__name__}.tflite", lambda: tflite_nets.convert(tflite_nets.seeded(kind), IMAGE.shape))
    return TfliteModel(kind.__name__, content, load_preset("imagenet", IMAGE.shape[2:]).preprocessing)


def known_of(model: TfliteModel) -> RangeSources:
    names = observed_tensors(model.graph)
    arrays = TfliteObserver(model.content, names).observe(model.input.encode(IMAGE))
    provenance = Provenance.of(
        model_digest=model.digest, preprocessing_digest="", image_digests=["0"], tool_version="t"
    )
    ranges = Ranges.from_histograms({name: Histogram.of(arrays[name]) for name in names}, provenance, "minmax")
    return RangeSources({name: (ranges, name) for name in names})


def measured(model: TfliteModel, artifact: Artifact) -> float:
    image = tflite_nets.channel_last(IMAGE)
    (wanted,), (found,) = tflite_nets.run(model.content, image), tflite_nets.run(artifact.path.read_bytes(), image)
    return snr_db(found, wanted)


@pytest.mark.parametrize("kind", [Coordinates, Pruned])
def test_static_files_compute_what_the_float_file_computes(kind: type[nn.Module], tmp_path: Path) -> None:
    model = model_of(kind)
    known = known_of(model)
    for precision in ("int8", "int16x8", "dynamic"):
        artifact = write(model, "arm", precision, tmp_path, TfliteOptions(), known)
        assert measured(model, artifact) > ENOUGH_DB, precision
        if precision == "int8":
            assert artifact.quantization["layers"] == {"int8": 3}
    whole = write(model, "arm", "int8", tmp_path / "io", dataclasses.replace(TfliteOptions(), integer_io=True), known)
    assert {spec.dtype for spec in (*whole.inputs, *whole.outputs)} == {"int8"}


def test_only_the_channels_that_need_it_have_another_scale(tmp_path: Path) -> None:
    model = model_of(Pruned)
    graph = read_graph(
        write(model, "arm", "int8", tmp_path, TfliteOptions(), known_of(model)).path.read_bytes(), "pruned"
    )
    layer = next(each for each in graph.operators if each.kind == "CONV_2D")
    weight, bias = (graph.tensors[index] for index in layer.inputs[1:3])
    given, made = graph.tensors[layer.inputs[0]].scales[0], graph.tensors[layer.outputs[0]].scales[0]
    old = next(each for each in model.graph.operators if each.kind == "CONV_2D")
    natural = np.abs(model.graph.values[old.inputs[1]]).max(axis=(1, 2, 3)) / 127
    assert weight.scales[6:] == pytest.approx(natural[6:])
    # XNNPACK takes no multiplier below 2**-32.
    assert all(2**-31 < given * scale / made < 256 for scale in weight.scales)
    assert bias.scales == pytest.approx([given * scale for scale in weight.scales])


def test_a_file_holds_the_integers_of_its_plan_whatever_chose_them() -> None:
    model = model_of(Pruned)
    known = known_of(model)
    decisions = plan(model, "int8", TfliteOptions())
    ranges = intervals(model.graph, known.tensors, decisions)
    weights, biases = quantized_layers(model.graph, decisions, activation_grids(ranges, decisions))
    upwards = {
        name: dataclasses.replace(weight, integers=np.minimum(weight.integers, 126) + 1)
        for name, weight in weights.items()
    }
    held_plan = QuantPlan(tuple(decisions.values()), {}, weights=upwards, biases=biases)
    content = quantize(model.content, held_plan, "pruned", ranges=ranges)
    graph, held = read_graph(content, "pruned"), unpack(content, "pruned")
    computed = computed_by_name(model.graph, graph)
    for name, weight in upwards.items():
        place = computed[name].inputs[1]
        data = held.buffers[held.subgraphs[0].tensors[place].buffer].data
        np.testing.assert_array_equal(np.frombuffer(data, np.int8).reshape(weight.integers.shape), weight.integers)
        assert graph.tensors[place].scales == pytest.approx(weight.scale)
    assert len(upwards) == len(biases) == 3


def joined(constant: np.ndarray) -> Graph:
    """Returns a graph by hand: two layers with a CONCATENATION of `a` and a constant between them."""
    names = ["image", "w", "b", "a", "grid", "joined", "v", "c", "y"]
    computed = {"image", "a", "joined", "y"}
    tensors = tuple(
        Tensor(index, name, (1, 8, 8, 2), "float32", name not in computed) for index, name in enumerate(names)
    )
    operators = (
        Operator(0, "CONV_2D", (0, 1, 2), (3,)),
        Operator(1, "CONCATENATION", (3, 4), (5,)),
        Operator(2, "CONV_2D", (5, 6, 7), (8,)),
    )
    return Graph(tensors, operators, (0,), (8,), {4: constant})


@pytest.mark.parametrize(("values", "mixed"), [([-1, 1], False), ([0, 0], False), ([0, 30], True), ([0, 0.1], True)])
def test_a_constant_takes_part_in_what_goes_together(values: list[float], mixed: bool) -> None:
    graph = joined(np.array(values, np.float32))
    decisions = select_operators(graph, integer_heads=True)
    assert {3, 4, 5} in tied(graph, [graph.operators[1]])
    assert bool(mixed_ranges(graph, decisions, {"a": 2.0})) is mixed
