"""Vision parts in INT8: by the target's plan, in a bundle that is checked and answers, and what is refused."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from benchmarks.tiny_language_models import SIDE, TINY_MODELS
from edgeq.bundles.families import splitter
from edgeq.bundles.precision import Precision, parse_precision, precisions_of
from edgeq.bundles.session import PartSession
from edgeq.bundles.source import load_model, open_folder
from edgeq.bundles.static_part import static_graph
from edgeq.bundles.torch_part import export_part
from edgeq.bundles.write_part import OPSET, PartJob, write_part
from edgeq.errors import InputError
from edgeq.targets import get_target

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers, of the extra language, is not installed"
)

_INT8 = Precision("int8", "lp")


def _images(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    """Returns the vision part of a tiny SigLIP, with its graph."""
    folder = tmp_path_factory.mktemp("siglip")
    TINY_MODELS["siglip"].save(folder)
    opened = open_folder(folder, "none")
    part = splitter(opened)(load_model(opened), opened).parts[0]
    return part, export_part(part, OPSET)


def _written(vision, folder, target="x86-ort", keep=()):
    part, graph = vision
    feeds = [{"pixel_values": image[None]} for image in _images(32)]
    job = PartJob(part, graph, _INT8, _INT8, get_target(target), folder, keep, feeds, threads=1)
    return write_part(job)


def test_a_vision_part_in_int8_is_close_to_fp32_for_any_number_of_images(vision, tmp_path):
    described, _ = _written(vision, tmp_path)
    part, _ = vision
    import torch

    assert (described.precision, described.method, described.simulated) == ("int8", "lp", False)
    held = onnx.load(tmp_path / "vision.onnx").graph
    assert {node.op_type for node in held.node} >= {"QuantizeLinear", "DequantizeLinear"}
    # q, k, v, out and two of the MLP in each of its layers.
    assert sum(each.data_type == onnx.TensorProto.INT8 and len(each.dims) == 2 for each in held.initializer) >= 6
    session = PartSession(tmp_path / "vision.onnx", 1)
    for count in (1, 3):
        images = _images(count, seed=9)
        (found,) = session.run({"pixel_values": images})
        (wanted,) = (each.numpy() for each in part.run({"pixel_values": torch.from_numpy(images)}))
        assert found.shape == wanted.shape
        error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        assert 0 < error < 0.05
    assert 0 < described.output_error < 0.05


def test_layers_are_kept_by_name(vision, tmp_path):
    plain, nothing = _written(vision, tmp_path)
    name = next(str(node.name) for node in vision[1].graph if str(node.name).endswith("fc1"))
    kept, matched = _written(vision, tmp_path, keep=(name, "layers.0.of_another_part"))
    assert (matched, nothing) == ({name}, frozenset())
    assert kept.kept == plain.kept | {name: f"kept by {name!r}"}


def test_parts_without_whole_images_are_refused():
    patches = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 21]> g (float[patches, 8] pixel_values, int64[images, 3] grid_thw) '
        "=> (float[patches, 8] y) { y = Relu (pixel_values) }"
    )
    with pytest.raises(InputError, match="takes pixel_values, grid_thw of any size, write vision=w8g128"):
        static_graph(patches, get_target("x86-ort"), "lp", [])


def test_int8_is_for_images_that_are_there():
    assert parse_precision("int8-mse") == Precision("int8", "mse")
    assert Precision("int8").resolved(has_samples=True) == _INT8
    with pytest.raises(InputError, match="precision int8: is calibrated on images; add `calib`"):
        Precision("int8").resolved(has_samples=False)
    with pytest.raises(InputError, match="'decoder=int8': activations are quantized in parts that read images"):
        precisions_of(("vision", "decoder"), None, ["decoder=int8"])
    with pytest.raises(InputError, match="'gptq'"):
        parse_precision("int8-gptq")
