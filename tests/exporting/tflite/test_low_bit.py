"""TFLite files with weights of 4 bits in groups: what they hold, and what LiteRT computes with it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Artifact, Preprocessing
from edgeq.exporting.options import ExportOptions
from edgeq.exporting.tflite.low_bit import in_four_bits
from edgeq.exporting.tflite.writer import TfliteModel, TfliteOptions, write
from edgeq.quantizers.round_nearest import round_nearest
from edgeq.runtimes import open_session
from edgeq.schemes import PerGroup, Scheme
from edgeq.sources.model import ModelRequest
from edgeq.targets import get_target
from edgeq.verbs.export_options import check_options
from tests import tflite_nets

SCHEME = Scheme(bits=4, narrow_range=True, granularity=PerGroup(32, 1))


@pytest.fixture(scope="module")
def net() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(36, 64),
        torch.nn.ReLU(), torch.nn.Linear(64, 96), torch.nn.Linear(96, 8),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def model(net) -> TfliteModel:
    return TfliteModel("net", tflite_nets.convert(net, (1, 3, 8, 8)), Preprocessing(height_px=8, width_px=8))


@pytest.fixture(scope="module")
def written(model, tmp_path_factory) -> Artifact:
    return write(model, "arm", "w4", tmp_path_factory.mktemp("w4"), TfliteOptions())


def test_the_engine_computes_with_the_nearest_numbers(net, written):
    rounded = {}
    for number in (5, 6):
        weight = net[number].weight.detach().numpy()
        rounded[number] = torch.from_numpy(round_nearest(weight, SCHEME, {}).dequantize())
    images = np.random.default_rng(1).standard_normal((6, 1, 3, 8, 8)).astype(np.float32)
    (given,) = written.inputs
    with open_session(written, "litert", threads=1) as session, torch.no_grad():
        found = np.concatenate([next(iter(session.run({given.name: given.encode(each)}).values())) for each in images])
        hidden = net[:5](torch.from_numpy(images[:, 0]))
        for number in (5, 6):
            hidden = hidden @ rounded[number].T + net[number].bias
        exact = net(torch.from_numpy(images[:, 0])).numpy()
    wanted = hidden.numpy()
    # Inputs of 8 bits and scales in FP16 add some percent; rounding to 4 bits adds more.
    assert np.abs(found - wanted).max() < 0.06 * np.abs(wanted).max()
    assert np.linalg.norm(found - wanted) < 0.7 * np.linalg.norm(found - exact)


def test_a_manifest_says_what_is_in_four_bits(written):
    facts = written.quantization_facts
    assert facts.low_bit is not None
    assert (facts.low_bit.form, facts.low_bit.nodes, facts.low_bit.bits_per_weight) == ("blockwise", 2, 4.5)
    assert sorted(facts.float_nodes.values()) == [
        "LiteRT has no CONV_2D with weights of 4 bits in groups", "its 36 inputs are no multiple of groups of 32",
    ]  # fmt: skip


def test_what_the_kernels_do_not_take_is_said(model, written):
    with pytest.raises(InputError, match="`group_size` 16: LiteRT's kernels take groups of 32, 64, 128, 256"):
        in_four_bits(model.content, "net", {}, 16)
    with pytest.raises(ModelError, match="no layer can have weights of 4 bits in TFLite"):
        in_four_bits(model.content, "net", {}, 256)
    request, arm = ModelRequest("net.onnx"), get_target("arm")
    check_options(request, arm, ["tflite"], ["w4"], None, ExportOptions(group_size=64))
    for formats, precision in ((["tflite", "onnx"], "w4"), (["tflite", "onnx"], "w8")):
        with pytest.raises(InputError, match=f"`precision` {precision}: edgeq writes no such weights"):
            check_options(request, arm, formats, [precision], None, ExportOptions())
    with pytest.raises(InputError, match="`weight_method`: changes no tflite files"):
        check_options(request, arm, ["tflite"], ["w4"], None, dataclasses.replace(ExportOptions(), weight_method="hqq"))
