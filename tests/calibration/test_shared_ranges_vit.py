"""One calibration, of the ONNX graph, serves the static TFLite file of a vision transformer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("torchvision")

from torchvision.models import VisionTransformer as TorchvisionTransformer

from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators.ranges import Ranges
from edgeq.exporting.options import ExportOptions
from edgeq.exporting.planning.keep import VitPlan
from edgeq.inputs.images import list_images
from edgeq.models.vit import VisionTransformer
from edgeq.models.vit_configs import VitConfig
from edgeq.sources.model import ModelRequest, open_model
from edgeq.verbs.export import export_model
from tests import tflite_nets
from tests.verbs.test_export_vit import PRESET

pytestmark = pytest.mark.slow

SIDE_PX, BLOCKS = 16, 2


def zoo() -> nn.Module:
    return _seeded(VisionTransformer(VitConfig(32, BLOCKS, 4, 64, 8, image_px=SIDE_PX, outputs=7)))


def torchvision() -> nn.Module:
    encoder: nn.Module = TorchvisionTransformer(SIDE_PX, 8, BLOCKS, 4, 32, 64, num_classes=7)
    encoder.output_names = ("scores",)  # type: ignore[assignment]
    return _seeded(encoder)


def _seeded(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "preset.toml").write_text(PRESET.replace("= 32", f"= {SIDE_PX}"))
    return folder


@pytest.mark.parametrize("plan", ["fast", "balanced", "safe"])
@pytest.mark.parametrize("factory", ["zoo", "torchvision"])
def test_a_vit_s_ranges_suffice_without_images(images: Path, tmp_path: Path, factory: str, plan: VitPlan) -> None:
    tflite_nets.require_converter()
    request = ModelRequest(f"{__name__}:{factory}", preset=str(images / "preset.toml"))
    ranges = tmp_path / "ranges.json"
    calibrate(open_model(request).model, list_images(images), ranges, method="minmax", threads=1)
    exported = export_model(
        request, "arm", ["int8"], tmp_path, calibration=CalibrationSource(ranges), formats=["tflite"],
        options=ExportOptions(vit_plan=plan),
    )  # fmt: skip
    facts = exported.files[0].artifact.quantization
    assert facts["ranges_digests"] == [Ranges.load(ranges).digest]
    # The layer before GELU is dynamic; `fast` alone quantizes the patch embedding, as in ONNX files, and `safe` keeps
    # what writes into the residual stream: projection and fc2.
    kept = {"fast": 0, "balanced": 1, "safe": 1 + 2 * BLOCKS}[plan]
    assert facts["layers"] == {"int8": 2 + 3 * BLOCKS - kept, "dynamic": BLOCKS} | ({"float": kept} if kept else {})
    assert len(facts["float_nodes"]) == kept and all("kept by" in each for each in facts["float_nodes"].values())
