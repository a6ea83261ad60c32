"""Method `best`: what is held out, what is measured, and that the best of it is what ends up in the file."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.collector import Collector
from edgeq.calibration.layerwise import Search, part_images
from edgeq.calibration.observed_model import calibrated_tensors
from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators import BEST, METHODS, Grid, Histogram
from edgeq.calibrators.candidates import Choice, candidates
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import InputError
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.files import sha256_file
from edgeq.inputs import items
from edgeq.inputs.images import list_images, read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.runtimes.observer import ActivationObserver
from edgeq.sources.model import ModelRequest, open_model
from tests.exporting.nets import graph, normal

digest_of = st.integers(0, 10**6).map(lambda number: hashlib.sha256(str(number).encode()).hexdigest())


@pytest.fixture(scope="module")
def model(small_onnx) -> FloatModel:
    return open_model(ModelRequest(str(small_onnx), preset="centernet")).model


@pytest.fixture(scope="module")
def images(drawn) -> list[Path]:
    return list_images(drawn.folder)[:12]


@pytest.fixture(scope="module")
def found(model, images, tmp_path_factory) -> tuple[Ranges, bytes]:
    """The ranges of method `best` over twelve images, three of them held out, and their file."""
    out = tmp_path_factory.mktemp("best") / "ranges.json"
    return calibrate(model, images, out, method=BEST, threads=1).ranges, out.read_bytes()


# What is held out


@given(digests=st.lists(digest_of, min_size=2, max_size=80, unique=True), num=st.integers(1, 40), random=st.randoms())
def test_images_are_parted_by_content_alone(digests, num, random):
    counted, held_out = part_images(digests, num)
    assert sorted(counted + held_out) == sorted(digests)
    assert len(held_out) == min(num, max(1, len(digests) // 4))
    assert part_images(random.sample(digests + digests, 2 * len(digests)), num) == (counted, held_out)
    assert max(held_out) < min(counted)


@pytest.mark.parametrize("digests", [[], ["a"], ["a", "a"]])
def test_one_image_cannot_be_parted(digests):
    with pytest.raises(InputError, match="give at least 2 different ones"):
        part_images(digests)


def test_neither_order_nor_copies_nor_names_show(model, images, found, tmp_path):
    copies = [Path(shutil.copy(image, tmp_path / f"{index}.png")) for index, image in enumerate(reversed(images))]
    out = tmp_path / "ranges.json"
    calibrate(model, [*copies[3:], *images, *copies[:3]], out, method=BEST, threads=2)
    assert out.read_bytes() == found[1]


def test_the_histograms_are_those_of_all_images(model, images, found, tmp_path):
    """So that any other method gives from the file what it gives from the images."""
    for method in METHODS:
        direct = calibrate(model, images, method=method, threads=1).ranges
        assert found[0].with_method(method) == direct
    assert found[0].provenance == direct.provenance


# What is measured


def activations(model: FloatModel, paths: list[Path]) -> list[dict[str, np.ndarray]]:
    values = [str(value.name) for node in model.graph.graph for value in node.outputs]
    observer = ActivationObserver(model.graph, ["image", *values], 1)
    return [observer.observe({"image": preprocess(read_image(path), model.preprocessing)[0]}) for path in paths]


def test_the_errors_are_those_of_the_held_out_images(model, images, found):
    """Every layer anew in torch, from the ranges that the other images give."""
    torch = pytest.importorskip("torch")
    from edgeq.exporting.graphs.graph import weight_of
    from edgeq.quantizers.round_nearest import round_nearest
    from edgeq.schemes import INT8_WEIGHT, PerAxis

    by_digest = {sha256_file(path): path for path in images}
    counted, held_out = part_images(by_digest)
    tensors = calibrated_tensors(model)
    seen = activations(model, [by_digest[digest] for digest in counted])
    histograms = {name: Histogram.of(*(arrays[name] for arrays in seen)) for name in tensors}
    held = activations(model, [by_digest[digest] for digest in held_out])
    nodes = {str(node.name): node for node in model.graph.graph}
    checked = 0
    for name, choice in found[0].choices.items():
        if len(choice.layers) != 1 or nodes[choice.layers[0]].op_type != "Conv":
            continue
        node = nodes[choice.layers[0]]
        assert node.inputs[0] is not None
        weight = weight_of(node)
        assert weight is not None
        attributes = {key: value.value for key, value in node.attributes.items()}
        rounded = round_nearest(weight, INT8_WEIGHT.along(PerAxis(0)), {})

        strides, padding = attributes["strides"], attributes["pads"][:2]

        def layer(value: np.ndarray, kernel: np.ndarray, strides: Any = strides, padding: Any = padding) -> np.ndarray:
            given = torch.from_numpy(value.astype(np.float32)), torch.from_numpy(kernel.astype(np.float32))
            return np.asarray(torch.nn.functional.conv2d(*given, None, strides, padding), np.float64)

        inputs = [arrays[str(node.inputs[0].name)] for arrays in held]
        reference = [layer(value, weight) for value in inputs]
        energy = sum(float(np.sum(output**2)) for output in reference)
        for candidate in ("lp", "mse", "minmax"):
            proposed = candidates()[candidate](histograms[name])
            for grid, errors in (
                (Grid.asymmetric(proposed.low, proposed.high), choice.asymmetric_errors),
                (Grid.symmetric(proposed.threshold), choice.symmetric_errors),
            ):
                outputs = [layer(grid.quantize(value), rounded.dequantize()) for value in inputs]
                error = sum(float(np.sum((a - b) ** 2)) for a, b in zip(outputs, reference, strict=True))
                assert errors[candidate] == pytest.approx(error / energy, rel=2e-3), (name, candidate)
        checked += 1
    assert checked >= 10


def test_the_choice_is_the_least_error_and_the_range_is_its(found):
    ranges = found[0]
    assert ranges.method == BEST
    assert ranges.options == {"bits": 8, "held_out": 3}
    assert ranges.choices.keys() == ranges.tensors.keys()
    assert len({choice.symmetric for choice in ranges.choices.values()}) > 1
    for name, choice in ranges.choices.items():
        histogram, interval = ranges.histograms[name], ranges.tensors[name]
        ends = candidates()[choice.asymmetric](histogram)
        assert (interval.low, interval.high) == (ends.low, ends.high)
        assert interval.threshold == candidates()[choice.symmetric](histogram).threshold
        for chosen, errors in (
            (choice.asymmetric, choice.asymmetric_errors),
            (choice.symmetric, choice.symmetric_errors),
        ):
            if choice.layers:
                assert errors.keys() == candidates().keys()
                assert errors[chosen] <= 1.01 * min(errors.values())
            else:
                assert (chosen, errors) == ("lp", {})


def test_what_no_layer_reads_falls_back(model, found):
    outputs = {str(value.name) for value in model.graph.graph.outputs}
    unread = {name for name, choice in found[0].choices.items() if not choice.layers}
    assert outputs <= unread
    readers = {
        name: {use.node.op_type for use in value.uses()}
        for node in model.graph.graph for value in node.outputs if (name := str(value.name)) in found[0].choices
    }  # fmt: skip
    assert all("Conv" not in readers[name] for name in unread if name in readers)


def small_search(
    text: str, weights: dict[str, np.ndarray], seen: dict[str, np.ndarray], bits: int = 8
) -> dict[str, Choice]:
    """Returns the choices for a graph whose images are given as the tensors' values."""
    net: ir.Model = graph(text, weights)
    search = Search(net, {name: Histogram.of(values) for name, values in seen.items()}, bits, 1)
    search.add({name: seen[name].astype(np.float32) for name in search.tensors})
    return search.choose()


def test_a_tensor_that_is_moved_is_measured_where_it_is_read():
    x = normal(0, 1, 4, 6)
    text = """g (float[1,4,6] x) => (float[1,6,3] y, float[1,4,2] z) {
        t = Transpose<perm=[0,2,1]>(x) y = MatMul(t, w) z = MatMul(x, v) }"""
    net = graph(text, {"w": normal(1, 4, 3), "v": normal(2, 6, 2)})
    search = Search(net, {"x": Histogram.of(x)}, 8, 1)
    assert sorted(search.tensors) == ["t", "x"]
    search.add({"x": x, "t": x.transpose(0, 2, 1)})
    names = {str(node.name) for node in net.graph if node.op_type == "MatMul"}
    assert set(search.choose()["x"].layers) == names


def test_a_constant_that_is_joined_with_a_tensor_is_on_every_grid_to_choose_from():
    """Clipping the features would gain nothing: what is joined with them needs the room."""
    text = """g (float[1,4,6] x) => (float[1,8,3] y) { j = Concat<axis=1>(x, c) y = MatMul(j, w) }"""
    x, c = normal(0, 1, 4, 6), np.linspace(-4, 4, 24, dtype=np.float32).reshape(1, 4, 6)
    joined = np.concatenate([x, c], axis=1)
    weights = {"c": c, "w": normal(1, 6, 3)}
    net: ir.Model = graph(text, weights)
    search = Search(net, {"x": Histogram.of(x)}, 8, 1)
    search.add({"x": x, "j": joined})
    choice = search.choose()["x"]
    for errors in (choice.asymmetric_errors, choice.symmetric_errors):
        assert len(errors) > 3 and len(set(errors.values())) == 1


def test_softmax_outputs_and_both_sides_of_a_product():
    logits = 4 * normal(0, 1, 2, 16, 16)
    weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    values = normal(1, 1, 2, 16, 8)
    text = """g (float[1,2,16,16] s, float[1,2,16,8] v) => (float[1,2,16,8] y) {
        p = Softmax<axis=-1>(s) y = MatMul(p, v) }"""
    choices = small_search(text, {}, {"p": weights, "v": values}, bits=4)
    assert choices["p"].layers == choices["v"].layers
    assert {"unit", "clip-0.5"} <= choices["p"].asymmetric_errors.keys()
    assert "unit" not in choices["v"].asymmetric_errors
    # Four bits over [0, 1] round most of the probabilities away.
    errors = choices["p"].asymmetric_errors
    assert errors[choices["p"].asymmetric] <= 1.01 * min(errors.values()) < errors["unit"]


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 1000))
def test_errors_grow_as_bits_go(seed):
    x = normal(seed, 1, 64, 16)
    text = "g (float[1,64,16] x) => (float[1,64,8] y) { y = MatMul(x, w) }"
    found = [small_search(text, {"w": normal(seed + 1, 16, 8)}, {"x": x}, bits)["x"] for bits in (8, 6, 4)]
    least = [min(choice.asymmetric_errors.values()) for choice in found]
    assert all(narrow > 4 * wide for wide, narrow in itertools.pairwise(least))


def test_a_layer_that_is_always_zero_decides_nothing():
    choices = small_search(
        "g (float[1,4,6] x) => (float[1,4,2] y) { y = MatMul(x, w) }",
        {"w": np.zeros((6, 2), np.float32)}, {"x": normal(0, 1, 4, 6)},
    )  # fmt: skip
    assert choices["x"] == Choice("lp", "lp")


# The file and the command


def test_the_file_says_why_and_comes_back(found, tmp_path):
    ranges, content = found
    path = tmp_path / "ranges.json"
    path.write_bytes(content)
    assert Ranges.load(path) == ranges
    lines = [line for line in content.decode().splitlines() if '"asymmetric_errors"' in line]
    assert len(lines) == sum(bool(choice.layers) for choice in ranges.choices.values())
    ranges.with_method("lp").save(path)
    assert "choices" not in json.loads(path.read_text())


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, "has no 'asymmetric'"),
        ({"asymmetric": "lp"}, "has no 'symmetric'"),
        ([], r"is \[\], wanted keys with values"),
        ({"asymmetric": "a", "symmetric": "b", "layers": 3}, "layers is 3, wanted a list"),
    ],
)
def test_a_broken_choice_is_one_line(found, tmp_path, entry, said):
    document = json.loads(found[1])
    document["choices"]["image"] = entry
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps(document))
    with pytest.raises(
        InputError, match=rf"ranges.json: \$\.choices\['image'\]\.? ?{said}.*run `edgeq calibrate` again"
    ):
        Ranges.load(path)


def test_best_needs_images_and_says_so(model, found, images, tmp_path, edgeq):
    path = tmp_path / "lp.json"
    found[0].with_method("lp").save(path)
    assert (
        "method best measures the model's layers on images"
        in edgeq("calibrate", "--from", path, "--method", "best", "--out", tmp_path / "new.json").error
    )
    assert not (tmp_path / "new.json").exists()
    with pytest.raises(InputError, match="choose another method"):
        CalibrationSource(path, method=BEST).ranges(model, tmp_path, 1)
    path.write_bytes(found[1])
    assert CalibrationSource(path, method=BEST).ranges(model, tmp_path, 1)[0] == found[0]
    with pytest.raises(InputError, match="give at least 2 different ones"):
        calibrate(model, images[:1] * 5, method=BEST)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power": 3.0}, r"method 'best' cannot take the options \['power'\]"),
        ({"bits": 9}, "9 bits: wanted a whole number from 2 to 8"),
        ({"held_out": 0}, "held_out 0: wanted at least 1"),
    ],
)
def test_wrong_options_are_told_before_an_image_is_read(model, images, monkeypatch, options, message):
    monkeypatch.setattr(items, "read_image", lambda *_: pytest.fail("read"))
    with pytest.raises(InputError, match=message):
        calibrate(model, images, method=BEST, options=options)


@pytest.mark.parametrize("killed", [False, True], ids=["interrupted", "killed"])
def test_an_interrupted_search_keeps_what_was_counted(model, images, found, tmp_path, monkeypatch, caplog, killed):
    """A kill runs nothing more, so nothing is saved at the end."""
    out = tmp_path / "ranges.json"
    add, calls = Search.add, iter(range(100))

    def interrupted(self, arrays):
        if next(calls) == 1:
            raise KeyboardInterrupt
        add(self, arrays)

    with monkeypatch.context() as patched:
        patched.setattr(Search, "add", interrupted)
        if killed:
            patched.setattr(Collector, "save_partial", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            calibrate(model, images, out, method=BEST, threads=1)
    said = "rerun the command to resume; method best then measures all of its 3 held-out images"
    assert killed or (f"9 images counted so far: kept in {out}.partial" in caplog.text and said in caplog.text)
    result = calibrate(model, images, out, method=BEST, threads=1)
    assert (result.resumed, result.images) == (9, 12)
    assert out.read_bytes() == found[1]


def test_an_unreadable_held_out_image_is_named_and_skipped(model, drawn, tmp_path, caplog):
    images = list_images(drawn.folder)
    broken = tmp_path / "broken.png"
    digests = [sha256_file(path) for path in images]
    for salt in itertools.count():
        broken.write_bytes(f"no image {salt}".encode())
        if sha256_file(broken) < min(digests):
            break
    result = calibrate(model, [*images, broken], method=BEST, threads=1, options={"held_out": 2})
    assert list(result.skipped) == [broken]
    assert result.ranges.options == {"bits": 8, "held_out": 1}
    assert result.images == len(images)


def test_the_command_writes_what_the_export_reads(edgeq, small_onnx, drawn, tmp_path):
    base = ["--preset", "centernet", "--num", 8, "--threads", 1]
    done = edgeq("calibrate", small_onnx, drawn.folder, *base, "--method", "best", "--out", tmp_path / "r.json")
    assert "tensors by best; images counted: 8" in done.out
    edgeq(
        "export", small_onnx, *base[:2], "--precision", "int8", "--calib", tmp_path / "r.json", "--out", tmp_path / "a"
    )
    edgeq("export", small_onnx, *base, "--precision", "int8", "--calib", drawn.folder, "--method", "best",
          "--out", tmp_path / "b")  # fmt: skip
    first, second = (tmp_path / folder / "small.x86.int8.onnx" for folder in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert json.loads(next((tmp_path / "b").glob("*int8*.json")).read_text())["quantization"]["method"] == BEST
