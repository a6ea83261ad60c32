"""The ResNets for CIFAR-10: their layers are those of the paper, and INT8 keeps what real ones have learnt."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from benchmarks.image_sets import unpack_cifar
from benchmarks.json_results import evaluate_artifacts, merge
from edgeq.calibration.source import CalibrationSource
from edgeq.models.cifar_resnet import CifarResNet
from edgeq.reporting.comparison import compare
from edgeq.sources.model import ModelRequest
from edgeq.verbs.export import export_model
from tests.exact import sums_exactly
from tests.golden import CIFAR_RESNETS_EVERY_FIFTH


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameters_are_those_of_the_papers_table_6(depth, millions):
    assert sum(each.numel() for each in CifarResNet(depth).parameters()) / 1e6 == pytest.approx(millions, rel=0.03)


def test_a_shortcut_takes_every_other_pixel_and_fills_channels_with_zeros():
    block = CifarResNet(20).layer2[0].eval()
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)  # the branch gives nothing
    x = torch.rand(1, 16, 8, 8)
    with torch.no_grad():
        y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any() and not y[:, 24:].any()


@pytest.fixture(scope="module")
def unpacked(shared_data, tmp_path_factory) -> tuple[Path, Path]:
    """The label files of the images to calibrate on, and of every fifth test image."""
    folder = tmp_path_factory.mktemp("cifar")
    calibration = unpack_cifar(shared_data, "cifar10_train5k_jpeg_calib", folder / "train", every=10)
    return calibration, unpack_cifar(shared_data, "cifar10_test10k_jpeg", folder / "test", every=5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CIFAR_RESNETS_EVERY_FIFTH)
def test_int8_keeps_top_1_within_three_tenths_of_a_point(shared_data, unpacked, tmp_path, exact_runtime, name):
    calibration, test = unpacked
    request = ModelRequest(f"cifar_{name}", shared_data / "weights" / f"{name}_cifar10.safetensors")
    images = CalibrationSource(calibration.parent)
    fp32, int8 = export_model(request, "x86", ("fp32", "int8"), tmp_path, calibration=images).paths
    score = functools.partial(evaluate_artifacts, annotations=test, images_dir=test.parent)
    expected = CIFAR_RESNETS_EVERY_FIFTH[name]
    (float_result,) = score([fp32], runtimes=["openvino"])
    assert float_result["top1"] == pytest.approx(expected, abs=0.0005)
    for result in score([int8], runtimes=[each for each in (exact_runtime, "openvino") if sums_exactly(each)]):
        # The same file of numbers, whichever engine ran it: the drop is that of its 2,000 images.
        _, comparison = compare(merge([float_result, result | {"runtime": "openvino"}]))
        drop = comparison.main
        assert drop is not None and drop.low is not None
        # Another CPU's plan changes some 3 of 100 answers, either way: alone that moves 2,000 images by .4 points.
        assert drop.low <= 0.3 and drop.points <= 1, (result["runtime"], drop)
