"""`edgeq build` and `edgeq inspect` on the pretended Jetson."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys

import numpy as np
import pytest
from PIL import Image

from edgeq.calibrators import Histogram
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.errors import EngineError, InputError, MismatchError, ModelError
from edgeq.exporting.artifact import Artifact, Preprocessing
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.exporting.tensorrt.cache import make_cache, parse_cache
from edgeq.files import sha256_file
from edgeq.measurement.engine_comparison import RouteResult, better
from edgeq.runtimes import open_session
from edgeq.verbs.build import BuildRequest, build_engines
from edgeq.verbs.inspect import inspect_engine
from tests.tiny import save_conv_net
from tests.trt_fixtures import SCALES, board, faults, image, install, old_trt, reference, save_net, trt, trt10

__all__ = ["board", "faults", "old_trt", "trt", "trt10"]


@pytest.fixture
def exported(tmp_path):
    """What `edgeq export --target jetson-orin --precision fp32,fp16,int8` leaves: three files and a cache."""
    folder = tmp_path / "artifacts"
    folder.mkdir()
    fp16 = save_net(folder / "net.jetson-orin.fp16.onnx", qdq=False)
    plain = save_net(folder / "net.jetson-orin.fp32.onnx", qdq=False)
    dataclasses.replace(plain, precision="fp32").save()
    cache = make_cache(SCALES, version="10.3.0")
    (folder / "net.jetson-orin.int8.cache").write_bytes(cache.render())
    int8 = save_net(folder / "net.jetson-orin.int8.onnx", qdq=True)
    stored = {"file": "net.jetson-orin.int8.cache", "float_file": plain.path.name}
    facts = {"calibration_cache": stored, "float_nodes": {"conv1": "asked for"}}
    int8 = dataclasses.replace(int8, quantization=facts).save()
    return {"folder": folder, "fp32": plain.path, "fp16": fp16.path, "int8": int8.path}


@pytest.fixture
def pictured(tmp_path):
    """A model that takes images, and a folder of 12 of them."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{number:02d}.png")
    artifact = save_conv_net(tmp_path / "conv.fp16.onnx", precision="fp16")
    return artifact, folder


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_qdq_file_becomes_an_engine_with_a_manifest(trt, exported):
    if trt.__version__.startswith("11"):
        artifact = Artifact.load(exported["int8"])
        dataclasses.replace(artifact, target="jetson-orin-trt11").save()
    (built,) = build_engines([exported["int8"]], BuildRequest())
    assert built.artifact.path == exported["folder"] / "net.jetson-orin.int8.engine"
    loaded = Artifact.load(built.artifact.path)
    assert (loaded.format, loaded.precision) == ("engine", "int8")
    assert built.facts.route == "explicit"
    assert built.facts.layers["int8"] == 3
    assert built.facts.platform.tensorrt == loaded.tools["tensorrt"] == trt.__version__
    assert (built.facts.platform.gpu, built.facts.platform.compute_capability) == ("Orin", "8.7")
    assert built.facts.built_from == {exported["int8"].name: sha256_file(exported["int8"])}
    assert built.device_memory_bytes == 123_456
    with open_session(loaded, "tensorrt") as session:
        result = session.run(image())["result"]
    np.testing.assert_array_equal(result, reference(Artifact.load(exported["int8"]), image()))


def test_a_float_file_becomes_a_float_engine(old_trt, exported, tmp_path):
    (built,) = build_engines([exported["fp16"]], BuildRequest(out=tmp_path / "new" / "engines"))
    assert built.artifact.path == tmp_path / "new" / "engines" / "net.jetson-orin.fp16.engine"
    assert (built.artifact.precision, built.facts.route) == ("fp16", "float")
    assert set(built.facts.layers) == {"fp16", "reformat"}


def test_layers_that_fp16_cannot_compute_are_built_in_fp32(old_trt, exported):
    artifact = Artifact.load(exported["fp16"])
    dataclasses.replace(artifact, quantization={"fp16_islands": {"conv1": "it overflows"}}).save()
    (built,) = build_engines([exported["fp16"]], BuildRequest())
    assert built.facts.layers["fp32"] == 1


def test_the_implicit_route_takes_the_exported_cache_and_keeps_the_plans_float_layers(old_trt, exported, caplog):
    caplog.set_level(logging.INFO, "edgeq")
    (built,) = build_engines([exported["int8"]], BuildRequest(route="implicit"))
    assert (built.facts.route, built.facts.scales_from) == ("implicit", "cache")
    assert built.facts.float_layers == ("conv1",)
    assert built.facts.layers["int8"] == 2
    assert built.facts.built_from.keys() == {"net.jetson-orin.fp32.onnx", "net.jetson-orin.int8.cache"}
    restamped = "it is used as one of" in caplog.text
    assert restamped is (old_trt.__version__ != "10.3.0")


def test_ranges_set_scales_by_name(old_trt, exported):
    plain = Artifact.load(exported["fp32"])
    ends = {name: 127 * scale for name, scale in SCALES.items()}
    histograms = {name: Histogram.of(np.linspace(-end, end, 999, dtype=np.float32)) for name, end in ends.items()}
    assert plain.preprocessing is not None
    provenance = Provenance(plain.source_digest, plain.preprocessing.digest, 1, "images", "0")
    path = exported["folder"] / "net.ranges.json"
    Ranges.from_histograms(histograms, provenance, "minmax").save(path)
    (built,) = build_engines([exported["fp16"]], BuildRequest(calibration=path))
    assert (built.facts.scales_from, built.facts.layers["int8"]) == ("ranges", 3)
    assert built.artifact.path.name == "net.jetson-orin.int8.engine"
    other = dataclasses.replace(provenance, model_digest="of another")
    Ranges.from_histograms(histograms, other, "minmax").save(path)
    with pytest.raises(MismatchError, match="another model"):
        build_engines([exported["fp16"]], BuildRequest(calibration=path))


@pytest.mark.parametrize("algorithm", ["entropy", "minmax"])
def test_images_calibrate_on_the_board_as_the_model_takes_them(old_trt, pictured, algorithm):
    artifact, folder = pictured
    (built,) = build_engines([artifact.path], BuildRequest(calibration=folder, num=5, algorithm=algorithm))
    assert (built.facts.route, built.facts.scales_from) == ("implicit", "images")
    cache = parse_cache(built.artifact.path.with_suffix(".calibrated.cache").read_bytes(), "written")
    # White is the brightest that this pre-processing can make of a pixel.
    assert 0 < cache.scales()["image"] * 127 <= (1 - 0.406) / 0.225 + 1e-6


def test_images_that_cannot_be_read_stop_the_build_and_leave_nothing(old_trt, pictured, tmp_path):
    artifact, folder = pictured
    for number in (3, 4, 5):
        (folder / f"{number:02d}.png").write_bytes(b"\x89PNG cut")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"1 of 12 images cannot be read, more than 5%"):
        build_engines([artifact.path], BuildRequest(calibration=folder))
    assert contents(tmp_path) == before


# -- Both routes


def test_both_keeps_the_faster_engine_at_equal_accuracy(old_trt, exported, faults):
    faults.slower["explicit"] = 2.0
    (built,) = build_engines([exported["int8"]], BuildRequest(route="both"))
    assert built.facts.route == "implicit"
    explicit, implicit = built.compared
    assert (explicit.route, explicit.ratio) == ("explicit", 1.0)
    assert implicit.ratio < 1
    assert implicit.relative_error is not None and implicit.relative_error < 1e-5  # the double computes the float file
    assert contents(exported["folder"])[-1] == "net.jetson-orin.int8.onnx.json"


def test_both_keeps_the_more_accurate_engine_where_the_faster_one_is_wrong(old_trt, exported, faults):
    faults.slower["explicit"] = 2.0
    faults.distort["implicit"] = 3.0
    (built,) = build_engines([exported["int8"]], BuildRequest(route="both"))
    assert built.facts.route == "explicit"
    explicit, implicit = (result.relative_error for result in built.compared)
    assert explicit is not None and implicit is not None and implicit > 3 > 2 * explicit


@pytest.mark.parametrize(
    ("errors", "ratios", "wanted"),
    [
        ((0.01, 0.0105), (1.0, 0.5), 1),
        ((0.01, 0.02), (1.0, 0.5), 0),
        ((0.01, 0.0), (1.0, 1.2), 1),
        ((0.01, 0.0095), (1.0, 1.2), 0),
        ((None, None), (1.0, 0.5), 1),
    ],
)
def test_what_better_means(errors, ratios, wanted):
    results = [RouteResult("", error, ratio) for error, ratio in zip(errors, ratios, strict=True)]
    assert better(results) == wanted


# -- What is refused


def test_routes_that_do_not_go_with_a_file_are_refused(trt10, exported):
    for route in ("explicit", "both"):
        with pytest.raises(InputError, match="has no Q/DQ nodes"):
            build_engines([exported["fp16"]], BuildRequest(route=route))
    with pytest.raises(InputError, match="`route` implicit needs scales"):
        build_engines([exported["fp16"]], BuildRequest(route="implicit"))
    with pytest.raises(InputError, match="omit `calib`"):
        build_engines([exported["int8"]], BuildRequest(calibration=exported["folder"]))
    with pytest.raises(InputError, match="own calibrators are entropy, minmax"):
        build_engines([exported["int8"]], BuildRequest(algorithm="mse"))
    exported["fp32"].unlink()
    with pytest.raises(InputError, match=r"fp32\.onnx: no such file; `route` implicit builds from it"):
        build_engines([exported["int8"]], BuildRequest(route="implicit"))


@pytest.mark.parametrize("route", ["implicit", "both"])
def test_tensorrt_11_has_no_implicit_route_and_wants_its_own_files(monkeypatch, board, faults, exported, route):
    install(monkeypatch, "11.4.0.106", board, faults)
    for wished in (None, route):
        with pytest.raises(MismatchError, match="`target` jetson-orin-trt11"):
            build_engines([exported["int8"]], BuildRequest(route=wished))
    for path in (exported["int8"], exported["fp32"]):
        dataclasses.replace(Artifact.load(path), target="jetson-orin-trt11").save()
    with pytest.raises(MismatchError, match="has no implicit quantization"):
        build_engines([exported["int8"]], BuildRequest(route=route))


def test_a_broken_line_of_a_cache_is_named_and_nothing_is_left(trt10, exported):
    path = exported["folder"] / "net.jetson-orin.int8.cache"
    path.write_text(path.read_text().replace("relu0: ", "relu0: x"))
    before = contents(exported["folder"])
    with pytest.raises(InputError, match=r"line 4 is 'relu0: x"):
        build_engines([exported["int8"]], BuildRequest(route="implicit"))
    path.unlink()
    with pytest.raises(InputError, match=r"cache cannot be read \(No such file"):
        build_engines([exported["int8"]], BuildRequest(route="implicit"))
    before.remove(path.name)
    assert contents(exported["folder"]) == before


def test_a_cache_of_another_model_is_refused(trt10, exported, tmp_path):
    path = tmp_path / "other.cache"
    path.write_bytes(make_cache({"elsewhere": 0.5}).render())
    with pytest.raises(MismatchError, match="another model"):
        build_engines([exported["fp16"]], BuildRequest(calibration=path))


def test_a_failed_build_leaves_the_old_engine(trt, faults, exported):
    if trt.__version__.startswith("11"):
        dataclasses.replace(Artifact.load(exported["int8"]), target="jetson-orin-trt11").save()
    build_engines([exported["int8"]], BuildRequest())
    before = {path.name: path.read_bytes() for path in exported["folder"].iterdir()}
    faults.context_memory = True
    with pytest.raises(EngineError, match="no execution context"):
        build_engines([exported["int8"]], BuildRequest())
    assert {path.name: path.read_bytes() for path in exported["folder"].iterdir()} == before


def test_unsupported_operators_are_named(trt10, tmp_path):
    save_net(tmp_path / "net.onnx", qdq=False, extra="Strange")
    with pytest.raises(ModelError, match=r"node strange \(Strange\)"):
        build_engines([tmp_path / "net.onnx"], BuildRequest())


def test_an_engine_without_int8_layers_is_warned_of(trt10, faults, exported, caplog):
    faults.no_int8 = True
    build_engines([exported["int8"]], BuildRequest())
    assert "no layer of the engine runs in INT8" in caplog.text


# -- The command line


def test_build_and_inspect_on_the_command_line(trt10, exported, edgeq, tmp_path):
    outcome = edgeq("build", exported["int8"], "--route", "both", "--timing-cache", tmp_path / "timing")
    assert outcome.code == 0, outcome
    assert "net.jetson-orin.int8.engine" in outcome.out
    assert "explicit" in outcome.out and "implicit" in outcome.out
    engine = exported["folder"] / "net.jetson-orin.int8.engine"
    outcome = edgeq("inspect", engine, "--json", tmp_path / "layers.json")
    assert outcome.code == 0, outcome
    assert "reformat" in outcome.out and "int8" in outcome.out
    written = json.loads((tmp_path / "layers.json").read_text())
    assert written["counts"]["reformat"] >= 1
    assert written["build"]["platform"]["tensorrt"] == "10.3.0"
    assert 0 < written["shares"]["reformat"] < 1
    assert inspect_engine(engine).inspection.counts == written["counts"]


def test_refusals_are_one_line(trt10, exported, edgeq, monkeypatch):
    assert "results: none attached" in edgeq("inspect", exported["int8"]).out
    assert "--route implicit needs scales" in edgeq("build", exported["fp16"], "--route", "implicit").error
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "TensorRT's Python module cannot be imported" in edgeq("build", exported["int8"]).error


def test_no_cuda_binding_is_one_line(trt10, exported, edgeq, monkeypatch):
    monkeypatch.setattr("edgeq.runtimes.cuda.BINDINGS", {"cudart": "edgeq.runtimes.cuda.cudart:CudaRuntime"})
    monkeypatch.setattr("edgeq.runtimes.cuda.cudart._candidates", lambda: iter(()))
    assert edgeq("build", exported["int8"]).error.startswith("no CUDA binding works here (cudart: CUDA's runtime")


def test_eval_scores_engines(trt10, drawn, edgeq, tmp_path):
    """An engine of a network that maps images to heat maps goes through the same task as every other artifact."""
    pytest.importorskip("torch")
    from edgeq.sources.model import ModelRequest
    from edgeq.verbs.export import export_model
    from tests.small import save_small_centernet

    weights = save_small_centernet(tmp_path / "small.safetensors", seed=0)
    labels = "ellipse,rectangle,triangle,star,ring,cross"
    request = ModelRequest("centernet_resnet18", weights=weights, size=(64, 96), labels=labels, opset=17)
    source = export_model(request, "jetson-orin", ["fp16"], tmp_path).files[0].artifact
    (built,) = build_engines([source.path], BuildRequest())
    data = ["--images", drawn.folder, "--annotations", drawn.annotations]
    for path, name in ((built.artifact.path, "engine.json"), (source.path, "onnx.json")):
        runtime = ["--runtime", "onnxruntime"] if path.suffix == ".onnx" else []
        outcome = edgeq("eval", path, *data, *runtime, "--json", tmp_path / name)
        assert outcome.code == 1 and "are meaningless" in outcome.err, "its weights are random, so it finds nothing"
    engine, onnx = (json.loads((tmp_path / name).read_text()) for name in ("engine.json", "onnx.json"))
    assert engine["runtime"] == "tensorrt"
    assert engine["AP"] == pytest.approx(onnx["AP"], abs=1e-6)
    assert engine["environment"]["gpu"] == "Orin"


def test_a_spec_of_an_unknown_size_is_not_needed_for_outputs(trt10, tmp_path):
    source = save_net(tmp_path / "net.onnx", qdq=True, batch=None)
    (built,) = build_engines([source.path], BuildRequest(batch=3))
    assert built.artifact.inputs[0].shape == built.artifact.outputs[0].shape == (3, 32, 32, 32)
    assert isinstance(built.artifact.inputs[0], TensorSpec)
    assert isinstance(built.artifact.preprocessing, Preprocessing)
