"""`edgeq export --finetune`: the file is the trained one where that is better, and says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import edgeq as package
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.runtimes import open_session
from tests.conftest import Outcome
from tests.verbs.test_export_options import PRESET, save

Edgeq = Callable[..., Outcome]

NET = """net (float[1,3,16,16] image) => (float[1,5] scores) {
    a = Conv<pads=[1,1,1,1], strides=[2,2]>(image, w0, b0)  b = Relu(a)
    c = Conv<pads=[1,1,1,1]>(b, w1)  d = Relu(c)  e = Conv<pads=[1,1,1,1]>(d, w2)  f = Relu(e)
    g = GlobalAveragePool(f)  h = Flatten(g)  scores = Gemm(h, w3)
}"""
IMAGES = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("finetune"), np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(IMAGES):
        small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((16, 16)).save(folder / "images" / f"{number:02}.png")
    shapes = {"w0": (16, 3, 3, 3), "w1": (16, 16, 3, 3), "w2": (16, 16, 3, 3), "w3": (16, 5), "b0": (16,)}
    save(
        folder / "net.onnx", NET, {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    )
    (folder / "preset.toml").write_text(PRESET)
    return folder


def distance(folder: Path, out: Path, precision: str) -> float:
    """How far the scores of a file are from the model's, in ONNX Runtime, over images that were not trained on."""
    int8, fp32 = (Artifact.load(out / f"net.x86-ort.{name}.onnx") for name in (precision, "fp32"))
    inputs = np.random.default_rng(1).normal(0.5, 0.3, (16, 1, 3, 16, 16)).astype(np.float32)
    found = []
    for artifact in (int8, fp32):
        with open_session(artifact, "onnxruntime", 1) as session:
            found.append(np.stack([session.run({"image": each})["scores"] for each in inputs]))
    return float(np.square(found[0] - found[1]).sum() / np.square(found[1]).sum())


@pytest.mark.kernels
def test_a_file_of_4_bits_is_the_better_for_it_and_says_so(
    edgeq: Edgeq, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    command = ["export", "net.onnx", "--preset", "preset.toml", "--target", "x86-ort", "--precision", "fp32,w4a8",
               "--calib", "images", "--threads", "1"]  # fmt: skip
    assert edgeq(*command, "--out", tmp_path / "plain").code == 0
    trained = edgeq(*command, "--out", tmp_path / "trained", "--finetune", str(IMAGES))
    assert trained.code == 0, trained
    assert "finetuned: squared error of the outputs" in trained.out and "12 images held out of 48" in trained.out
    before, after = (distance(folder, tmp_path / name, "w4a8") for name in ("plain", "trained"))
    assert after < before
    facts = Artifact.load(tmp_path / "trained" / "net.x86-ort.w4a8.onnx").quantization_facts.finetuning
    assert facts is not None and facts.kept and facts.output_error_after < facts.output_error_before
    plain, better = (onnx.load(tmp_path / name / "net.x86-ort.w4a8.onnx") for name in ("plain", "trained"))
    assert [node.op_type for node in plain.graph.node] == [node.op_type for node in better.graph.node]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"finetune": 15}, "`finetune` 15: wanted at least 16 images, better 256 or more"),
        ({"finetune": 49}, "`finetune` 49: there are 48 images to calibrate on; give more, or `finetune` at most 48"),
        ({"finetune": 16, "precision": "fp32"}, "`finetune`: changes int8, w4a8 onnx files"),
        ({"finetune": 16, "target": "arm"}, "`finetune`: trains ONNX files, and the TFLite file would differ"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    folder: Path, tmp_path: Path, options: dict[str, object], error: str
) -> None:
    model = package.load(folder / "net.onnx", preset=folder / "preset.toml")
    arguments = {"precision": "int8", "calib": folder / "images", "out": tmp_path / "out", **options}
    with pytest.raises(InputError, match=error):
        package.export(model, **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
