"""Vision transformers through `edgeq export`: plans, parts kept in float, rescaled channels, attentions not known."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.graph import infer_shapes, read_onnx
from edgeq.exporting.graphs.transformer import find_transformer
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.options import ExportOptions
from edgeq.exporting.planning.keep import VitPlan
from edgeq.machine import read_machine
from edgeq.models.vit import VisionTransformer
from edgeq.models.vit_configs import VitConfig
from edgeq.runtimes import open_session
from edgeq.sources.model import ModelRequest
from edgeq.targets import get_target
from edgeq.targets.isa import with_isa
from edgeq.verbs.export import ExportResult, export_model
from tests import exact

PRESET = """[preprocessing]
height_px = 32
width_px = 32
resize = "stretch"
[postprocessing]
decoder = "classification"
[postprocessing.outputs]
scores = "scores"
"""


pytestmark = pytest.mark.usefixtures("exact_runtime")


def small_vit() -> nn.Module:
    """Returns an encoder whose normalisations have outlier channels, as trained ones do."""
    torch.manual_seed(1)
    model = VisionTransformer(VitConfig(64, 3, 4, 128, 8, image_px=32, outputs=7))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name, parameter in model.named_parameters():
            if name.endswith("norm1.weight"):
                parameter[3] = 12.0
    return model


class _LinearAttention(nn.Module):
    """Attends without a Softmax between two products that edgeq knows: the weights are squared."""

    output_names = ("scores",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.patches, self.head = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 7)
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        weights = (self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1).square()
        scores: torch.Tensor = self.head((weights @ self.v(x)).mean(1))
        return scores


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(12):
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (folder / "preset.toml").write_text(PRESET)
    return folder


def export(
    images: Path,
    out: Path,
    *,
    vit_plan: VitPlan = "balanced",
    keep: tuple[str, ...] = (),
    rescale: str | None = None,
    target: str = "x86",
    precisions: tuple[str, ...] = ("fp32", "int8"),
    factory: str = "small_vit",
) -> ExportResult:
    opset = get_target(target).rules.opset
    request = ModelRequest(f"tests.verbs.test_export_vit:{factory}", preset=str(images / "preset.toml"), opset=opset)
    return export_model(
        request, target, precisions, out, calibration=CalibrationSource(images, method="minmax"),
        options=ExportOptions(keep=keep, vit_plan=vit_plan, rescale=rescale),
    )  # fmt: skip


def smallest_cosine(exported: ExportResult) -> float:
    """Returns the smallest cosine between the scores of INT8 and of FP32, centred: exactly, and as OpenVINO adds."""
    fp32, int8 = (file.artifact for file in exported.files)
    cosines = []
    for runtime in (exact.EXACT, "openvino"):
        if exact.sums_exactly(runtime):
            one, other = (scores(artifact, runtime) for artifact in (fp32, int8))
            cosines.append(float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)))
    return min(cosines)


def scores(artifact: Artifact, runtime: str) -> np.ndarray:
    x = np.random.default_rng(0).uniform(0, 1, (1, 3, 32, 32)).astype(np.float32)
    with open_session(artifact, runtime, 1, "f32") as session:
        result = session.run({artifact.inputs[0].name: x})["scores"].ravel()
    return np.asarray(result - result.mean())


@pytest.mark.kernels
def test_the_plans_hold_their_accuracy_in_both_engines(images, tmp_path):
    quantized = {}
    for vit_plan in ("balanced", "fast", "safe"):
        exported = export(images, tmp_path / vit_plan, vit_plan=vit_plan)
        facts = exported.files[1].artifact.quantization
        assert facts["vit_plan"] == vit_plan
        quantized[vit_plan] = facts["int8_nodes"]
        assert smallest_cosine(exported) > 0.99
    has_kernels = with_isa(get_target("x86"), None, read_machine()).rules.int8_attention == "any"
    products = 3 * 2 if has_kernels else 0
    assert quantized["fast"] == quantized["balanced"] + 1 + products  # the patch embedding, and with VNNI the products
    assert quantized["safe"] == quantized["balanced"] - 3 * 2  # fc2 and projection


def test_the_plans_reach_dynamic_files(images, tmp_path):
    quantized = {}
    for vit_plan in ("balanced", "fast", "safe"):
        (file,) = export(images, tmp_path / vit_plan, vit_plan=vit_plan, precisions=("dynamic",)).files
        assert file.artifact.quantization["vit_plan"] == vit_plan
        quantized[vit_plan] = file.artifact.quantization["int8_nodes"]
    assert quantized["fast"] == quantized["balanced"] + 1
    assert quantized["safe"] == quantized["balanced"] - 3 * 2


def test_rescaled_channels_are_refused_for_tflite_files(images, tmp_path):
    """The converter folds the scale of a LayerNorm into the layers behind it, and so takes back what was rescaled."""
    with pytest.raises(InputError, match=r"`rescale`: a TFLite file cannot hold it.*add `format` onnx"):
        export(images, tmp_path, rescale="smooth", target="arm")
    assert not list(tmp_path.iterdir())


def test_parts_can_be_kept_in_float(images, tmp_path):
    exported = export(images, tmp_path, keep=("vit.end.fc1", "vit.qk"))
    reasons = exported.files[1].artifact.quantization["float_nodes"]
    kept = [reason for reason in reasons.values() if reason.startswith("kept")]
    assert sorted(kept) == ["kept by 'vit.end.fc1'", *["kept by 'vit.qk'"] * 6]


@pytest.mark.kernels
@pytest.mark.parametrize("rescale", ["smooth", "unify"])
def test_rescaled_channels_leave_fp32_as_it_was(images, tmp_path, rescale):
    plain, rescaled = export(images, tmp_path / "plain"), export(images, tmp_path / rescale, rescale=rescale)
    one, other = (scores(each.files[0].artifact, "onnxruntime") for each in (plain, rescaled))
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert smallest_cosine(rescaled) > 0.99
    assert plain.files[0].artifact.source_digest != rescaled.files[0].artifact.source_digest


def test_rescaling_wants_images(images, tmp_path):
    ranges = export(images, tmp_path).ranges_path
    assert ranges is not None
    request = ModelRequest("tests.verbs.test_export_vit:small_vit", preset=str(images / "preset.toml"))
    with pytest.raises(InputError, match="`rescale` smooth: measures channels on images"):
        export_model(
            request, "x86", ("int8",), tmp_path, calibration=CalibrationSource(ranges),
            options=ExportOptions(rescale="smooth"),
        )  # fmt: skip


@pytest.mark.kernels
def test_an_attention_that_is_not_known_is_named_and_left_in_float(images, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        exported = export(images, tmp_path, factory="_LinearAttention")
    assert "attention that edgeq does not know" in caplog.text
    products = [name for name, reason in exported.files[1].artifact.quantization["float_nodes"].items()
                if reason == "its weight is not a constant"]  # fmt: skip
    assert len(products) == 2
    assert smallest_cosine(exported) > 0.99


def test_fp16_files_for_tensorrt_are_audited_with_ranges(images, tmp_path):
    exported = export(images, tmp_path, target="jetson-orin-trt11", precisions=("fp16",))
    assert exported.ranges_path is not None
    assert exported.files[0].artifact.quantization["fp16_islands"] == {}


def test_weights_of_4_bits_follow_the_inputs_that_the_ranges_keep(images, tmp_path):
    kept = export(images, tmp_path / "kept", target="rtx", precisions=("w4",))
    assert kept.ranges_path is not None
    ranges = dataclasses.replace(Ranges.load(kept.ranges_path), samples=())
    ranges.save(tmp_path / "none.json")
    request = ModelRequest(
        "tests.verbs.test_export_vit:small_vit", preset=str(images / "preset.toml"), opset=get_target("rtx").rules.opset
    )
    none = export_model(request, "rtx", ("w4",), tmp_path, calibration=CalibrationSource(tmp_path / "none.json"))
    facts = [each.files[0].artifact.quantization for each in (kept, none)]
    count = facts[0]["w4_nodes"]
    wanted = [[f"{each} of {count} weights are rounded by what their layers read"] for each in (count, 0)]
    assert [each["notes"] for each in facts] == wanted
    x = np.random.default_rng(0).uniform(0, 1, (1, 3, 32, 32)).astype(np.float32)
    plain = small_vit().eval()(torch.from_numpy(x)).detach().numpy().ravel()
    errors = [
        np.linalg.norm(scores(each.files[0].artifact, "simulated-narrow") - plain + plain.mean())
        for each in (kept, none)
    ]
    assert errors[0] < 0.7 * errors[1], errors


def test_a_wrong_plan_is_told(images, tmp_path):
    request = dataclasses.replace(ModelRequest("tests.verbs.test_export_vit:small_vit"), preset="imagenet")
    with pytest.raises(InputError, match="`vit_plan` quick: wanted one of fast, balanced, safe"):
        export_model(
            request, "x86", ("fp32",), tmp_path, options=ExportOptions(vit_plan="quick"),  # type: ignore[arg-type]
        )  # fmt: skip


def test_only_what_the_class_token_needs_is_computed_and_packed_layers_are_kept_by_their_name(images, tmp_path):
    exported = export(images, tmp_path / "plain")
    assert isinstance(exported.model, FloatModel)
    packed = [name for name, role in find_transformer(exported.model.graph).roles.items() if role.part == "qkv"]
    graph = read_onnx(exported.files[0].artifact.path)
    infer_shapes(graph)
    roles = find_transformer(graph).roles
    tokens: dict[str, list[object]] = {"q": [], "k": [], "fc1": []}
    for node in graph.graph:
        role = roles.get(str(node.name))
        if role is not None and role.part in tokens:
            shape = node.outputs[0].shape
            tokens[role.part].append(None if shape is None else shape[1])
    assert tokens == {"q": [17, 17, 1], "k": [17, 17, 17], "fc1": [17, 17, 1]}
    kept = export(images, tmp_path / "kept", keep=(packed[0],)).files[1].artifact.quantization["float_nodes"]
    assert [reason for name, reason in kept.items() if name.startswith(packed[0])] == [f"kept by {packed[0]!r}"] * 3
