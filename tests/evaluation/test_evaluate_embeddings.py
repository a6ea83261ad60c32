"""`edgeq eval` of embeddings: what is compared with what, and a real network without its last layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.image_sets import unpack_cifar
from benchmarks.json_results import evaluate_artifacts
from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Artifact, Postprocessing, Preprocessing
from edgeq.exporting.tensor_spec import TensorSpec
from tests.exact import sums_exactly

SIDE_PX = 4


def save_pixels(
    path: Path, shape: tuple[int | None, ...] = (1, 48), noise: float = 0, zero_point: int | None = None, **changes: Any
) -> Artifact:
    """Writes a model by hand whose embedding is the image's pixels, each times a factor of its own near one.

    With a zero point the embedding is uint8, in steps of a hundredth.
    """
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    factors = np.random.default_rng(0).normal(1, noise, (1, 3, SIDE_PX, SIDE_PX)).astype(np.float32)
    nodes = [
        helper.make_node("Mul", ["image", "factors"], ["product"]),
        helper.make_node("Reshape", ["product", "shape"], ["real"]),
    ]
    if zero_point is None:
        output = TensorSpec("embedding", "float32", shape)
        nodes.append(helper.make_node("Identity", ["real"], ["embedding"]))
    else:
        output = TensorSpec("embedding", "uint8", shape, scale=0.01, zero_point=zero_point)
        nodes.append(helper.make_node("QuantizeLinear", ["real", "step", "zero_point"], ["embedding"]))
    graph = helper.make_graph(
        nodes,
        "pixels",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, factors.shape)],
        [helper.make_tensor_value_info("embedding", helper.np_dtype_to_tensor_dtype(np.dtype(output.dtype)), shape)],
        [
            numpy_helper.from_array(factors, "factors"),
            numpy_helper.from_array(np.array([length or -1 for length in shape]), "shape"),
            numpy_helper.from_array(np.float32(0.01), "step"),
            numpy_helper.from_array(np.uint8(zero_point or 0), "zero_point"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    fields: dict[str, Any] = {
        "path": path,
        "format": "onnx",
        "precision": "fp32",
        "target": "x86",
        "inputs": (TensorSpec("image", "float32", factors.shape),),
        "outputs": (output,),
        "preprocessing": Preprocessing(SIDE_PX, SIDE_PX, "stretch"),
        "postprocessing": Postprocessing("embedding"),
        "source_digest": "one model",
    }
    return Artifact(**fields | changes).save()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Draws twenty images at random."""
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(20):
        Image.fromarray(rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)).save(folder / f"{index:02}.png")
    return folder


def test_the_fp32_file_of_the_same_model_and_runtime_is_the_reference(tmp_path: Path, images: Path) -> None:
    pytest.importorskip("openvino")
    paths = [
        save_pixels(tmp_path / "other.onnx", noise=0.9, source_digest="another model").path,
        save_pixels(tmp_path / "int8.onnx", noise=0.5, precision="int8").path,
        save_pixels(tmp_path / "fp32.onnx").path,
    ]
    results = evaluate_artifacts(paths, None, images, runtimes=["onnxruntime", "openvino"])
    compared = [
        (result["artifact"], result["runtime"], result["reference"]["artifact"], result["reference"]["runtime"])
        for result in results
    ]
    assert compared == [
        (name, runtime, f"{reference}.onnx", runtime)
        for name, reference in (("other.onnx", "other"), ("int8.onnx", "fp32"), ("fp32.onnx", "fp32"))
        for runtime in ("onnxruntime", "openvino")
    ]
    for result in results:
        assert (result["task"], result["images"], result["annotations"]) == ("embedding", 20, "images")
        assert "nearest" in result["definition"]
        assert result["class_recall_at_1"] is None and "per_class" not in result
        exact = result["precision"] == "fp32"
        assert (result["cosine_min"] == pytest.approx(1)) == exact
        assert (result["recall_at_1"] == result["self_recall_at_10"] == 1) == exact
        json.dumps(result, allow_nan=False)


def test_quantized_outputs_are_decoded_before_they_are_compared(tmp_path: Path, images: Path) -> None:
    """Stored numbers are from 100 on: as they are, they would point in another direction than pixels from 0 on."""
    paths = [
        save_pixels(tmp_path / "int8.onnx", zero_point=100, precision="int8").path,
        save_pixels(tmp_path / "fp32.onnx").path,
    ]
    quantized, _ = evaluate_artifacts(paths, None, images, runtimes=["onnxruntime"])
    assert quantized["cosine_min"] > 0.9999


def test_bf16_is_compared_with_fp32_of_the_same_file(tmp_path: Path, images: Path) -> None:
    pytest.importorskip("openvino")
    path = save_pixels(tmp_path / "net.onnx", noise=0.1).path
    results = evaluate_artifacts([path], None, images, runtimes=["openvino"], compute_precisions=["bf16", "f32"])
    assert results[1]["cosine_min"] == pytest.approx(1)
    with pytest.raises(
        InputError, match=r"net\.onnx: .* name the fp32 file of the same model too, or give `reference`"
    ):
        evaluate_artifacts([path], None, images, runtimes=["openvino"], compute_precisions=["bf16"])


def test_any_file_can_be_the_reference_and_is_no_result(tmp_path: Path, images: Path, edgeq: Any) -> None:
    artifact = save_pixels(tmp_path / "int8.onnx", noise=0.5, precision="int8", source_digest="")
    artifact.manifest_path.unlink()
    reference = save_pixels(tmp_path / "fp32.onnx")
    preset = tmp_path / "pixels.toml"
    preset.write_text("[preprocessing]\nresize = 'stretch'\n[postprocessing]\ndecoder = 'embedding'\n")
    arguments = ["eval", artifact.path, "--images", images, "--preset", preset, "--json", tmp_path / "eval.json"]
    assert "int8.onnx: its embeddings are scored against the float model's" in edgeq(*arguments).error
    done = edgeq(*arguments, "--reference", reference.path)
    assert (done.code, done.out.splitlines()[-1]) == (0, "task: embedding")
    assert {"cosine", "recall@1"} <= set(done.out.split())
    assert "Cosine and recall over 20 images of images: measured with" in done.out
    result = json.loads((tmp_path / "eval.json").read_text())
    assert result["reference"] == {
        "artifact": "fp32.onnx", "digest": reference.digest, "runtime": "onnxruntime",
    }  # fmt: skip
    assert 0.5 < result["cosine"] < 0.99


def test_images_that_cannot_be_read_are_left_out_of_both(tmp_path: Path, images: Path) -> None:
    (images / "07.png").write_bytes(b"no image")
    paths = [
        save_pixels(tmp_path / "fp32.onnx").path,
        # Its own pre-processing makes it a group of its own.
        save_pixels(tmp_path / "int8.onnx", precision="int8", preprocessing=Preprocessing(SIDE_PX, SIDE_PX)).path,
    ]
    for result in evaluate_artifacts(paths, None, images):
        assert (result["images"], result["skipped_images"]) == (19, ["07.png"])
        assert result["cosine_min"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("shape", "changes", "error", "message"),
    [
        ((1, 16, 3), {}, ModelError, r"wanted one embedding \(1, length\) of an image, found embedding \(1, 16, 3\)"),
        ((1, None), {}, ModelError, r"output 'embedding' has the shape \(1, None\), wanted \(1, length\)"),
        ((1, 48), {"postprocessing": Postprocessing("embedding", {"embedding": "y"})}, ModelError, "no output 'y'"),
    ],
)
def test_models_that_give_no_embedding_are_one_clear_line(
    tmp_path: Path, images: Path, shape: tuple[int | None, ...], changes: dict[str, Any], error: Any, message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        evaluate_artifacts([save_pixels(tmp_path / "net.onnx", shape, **changes).path], None, images)
    assert "\n" not in str(caught.value)


def test_references_that_do_not_fit_are_told(tmp_path: Path, images: Path) -> None:
    path = save_pixels(tmp_path / "int8.onnx", precision="int8").path
    short = save_pixels(tmp_path / "short.onnx", (1, 24))
    with pytest.raises(InputError, match=r"int8\.onnx: its embeddings have 48 numbers, .* short\.onnx 24"):
        evaluate_artifacts([path], None, images, reference=short.path)
    detector = save_pixels(tmp_path / "net.onnx", postprocessing=Postprocessing("centernet"))
    with pytest.raises(InputError, match=r"`reference` net\.onnx: only embeddings .* these files are for detection"):
        evaluate_artifacts([detector.path], None, images, reference=detector.path)
    with pytest.raises(InputError, match=r"int8\.onnx is for embedding and net\.onnx for detection"):
        evaluate_artifacts([path], None, images, reference=detector.path)


def test_a_resnet_without_its_last_layer(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact_runtime: str
) -> None:
    """INT8 of a real network finds most of what FP32 finds, in exact sums and in OpenVINO where its sums are exact."""
    pytest.importorskip("torch")
    pytest.importorskip("openvino")
    from edgeq.calibration.source import CalibrationSource
    from edgeq.sources.model import ModelRequest
    from edgeq.verbs.export import export_model

    (tmp_path / "headless_resnet.py").write_text(
        "import torch\nfrom edgeq.models.cifar_resnet import CifarResNet\n"
        "def make():\n    model = CifarResNet(20)\n    model.linear = torch.nn.Identity()\n"
        "    model.output_names = ('embedding',)\n    return model\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "embedding.toml").write_text(
        "[preprocessing]\nheight_px = 32\nwidth_px = 32\nresize = 'stretch'\nmean = [0.485, 0.456, 0.406]\n"
        "std = [0.229, 0.224, 0.225]\n[postprocessing]\ndecoder = 'embedding'\n"
    )
    from safetensors.torch import load_file, save_file

    state = load_file(shared_data / "weights" / "resnet20_cifar10.safetensors")
    save_file(
        {name: value for name, value in state.items() if not name.startswith("linear")}, tmp_path / "net.safetensors"
    )
    train = unpack_cifar(shared_data, "cifar10_train5k_jpeg_calib", tmp_path / "train", every=50).parent
    test = unpack_cifar(shared_data, "cifar10_test10k_jpeg", tmp_path / "test", every=20)
    request = ModelRequest("headless_resnet:make", tmp_path / "net.safetensors", str(tmp_path / "embedding.toml"))
    files = export_model(request, "x86", ("fp32", "int8"), tmp_path / "out", calibration=CalibrationSource(train)).files
    paths = [file.artifact.path for file in files]
    results = evaluate_artifacts(paths, test, test.parent, runtimes=[exact_runtime, "openvino"], threads=1)
    for result in results:
        assert (result["images"], result["reference"]["runtime"]) == (500, result["runtime"])
        if result["precision"] == "fp32":
            assert result["cosine_min"] == pytest.approx(1)
            assert result["recall_at_1"] == result["self_recall_at_1"] == 1
            assert 0.7 < result["class_recall_at_1"] < result["class_recall_at_10"] <= 1
        elif sums_exactly(result["runtime"]):
            assert 0.99 < result["cosine"] < 1
            assert 0.7 < result["recall_at_1"] <= result["recall_at_10"]
            assert result["recall_at_10"] > 0.98
