"""`edgeq calibrate`: what makes the result, and that nothing else does."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

import edgeq
from edgeq.calibration import kept_parts
from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.collector import Collector
from edgeq.calibration.observed_model import calibrated_tensors
from edgeq.calibrators import METHODS, HistogramBuilder
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.errors import InputError, ModelError
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.planning.selection import select_layers
from edgeq.inputs import evenly_spaced, items
from edgeq.inputs.images import list_images, read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.resume import JobLog
from edgeq.runtimes.observer import ActivationObserver
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import TARGETS, get_target

# The quickest method: most tests are about what is counted.
run = functools.partial(calibrate, method="minmax")


@pytest.fixture(scope="module")
def model(small_onnx) -> FloatModel:
    return open_model(ModelRequest(str(small_onnx), preset="centernet")).model


@pytest.fixture(scope="module")
def images(drawn) -> list[Path]:
    return list_images(drawn.folder)[:12]


@pytest.fixture(scope="module")
def expected(model, images, tmp_path_factory):
    """The bytes of an undisturbed calibration."""
    out = tmp_path_factory.mktemp("expected") / "ranges.json"
    run(model, images, out)
    return out.read_bytes()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "ranges.json"


def partial_of(out: Path) -> Path:
    return out.with_name("ranges.json.partial")


def changed_part(text: str, **changes) -> str:
    line = json.loads(text)
    return json.dumps({**line, "part": line["part"] | changes}) + "\n"


def shuffle(images: list[Path], seed: int) -> list[Path]:
    return [images[i] for i in np.random.default_rng(seed).permutation(len(images))]


def stop_at(monkeypatch, number: int, error: type[BaseException]) -> None:
    """Lets the reading of an image fail, counted from 0."""
    calls = iter(range(10**6))

    def poisoned(path, stated_px):
        if next(calls) == number:
            raise error
        return read_image(path, stated_px)

    monkeypatch.setattr(items, "read_image", poisoned)


def test_the_order_of_the_images_does_not_show(model, images, expected, out):
    shuffled = shuffle(images, 0)
    assert shuffled != images
    run(model, shuffled, out)
    assert out.read_bytes() == expected


def test_the_maxima_of_channels_are_those_of_what_layers_read(model, images, expected, tmp_path):
    (tmp_path / "ranges.json").write_bytes(expected)
    maxima = Ranges.load(tmp_path / "ranges.json").channel_maxima
    assert model.input.name in maxima
    names = sorted(maxima)
    observer = ActivationObserver(model.graph, names, 1)
    found: dict[str, list[np.ndarray]] = {}
    for path in images:
        given = {model.input.name: preprocess(read_image(path), model.preprocessing)[0]}
        for name, array in observer.observe(given).items():
            found.setdefault(name, []).append(array.max(axis=(0, 2, 3)))
    for name in names:
        # A thread more or less adds up in another order.
        np.testing.assert_allclose(np.max(found[name], axis=0), np.array(maxima[name]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at", [1, 5, 11])
def test_an_interrupted_run_goes_on_to_the_same_bytes(model, images, expected, out, monkeypatch, caplog, at):
    with monkeypatch.context() as poisoned:
        stop_at(poisoned, at, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            run(model, images, out)
    assert [path.name for path in out.parent.iterdir()] == ["ranges.json.partial"]
    assert f"kept in {partial_of(out)}; rerun the command to resume" in caplog.text
    result = run(model, shuffle(images, at), out)
    assert 1 <= result.resumed <= at
    assert result.images == len(images)
    assert out.read_bytes() == expected
    assert [path.name for path in out.parent.iterdir()] == ["ranges.json"]


def test_a_killed_run_goes_on_from_what_it_kept(model, images, expected, out, monkeypatch):
    """A kill runs nothing more, so nothing is saved at the end; parts were saved on the way."""
    with monkeypatch.context() as killed:
        stop_at(killed, 9, KeyboardInterrupt)
        killed.setattr(Collector, "save_partial", lambda *_, **__: None)
        killed.setattr(kept_parts, "KEEP_S", 0.0)
        killed.setattr(kept_parts, "KEEP_SHARE", 0.0)
        with pytest.raises(KeyboardInterrupt):
            run(model, images, out)
    result = run(model, shuffle(images, 9), out)
    assert 7 <= result.resumed <= 9
    assert out.read_bytes() == expected
    assert [path.name for path in out.parent.iterdir()] == ["ranges.json"]


def test_an_image_that_changes_while_it_is_read_is_not_counted(model, images, out, tmp_path, monkeypatch):
    copies = [Path(shutil.copy(path, tmp_path)) for path in images]

    def rewritten(path, stated_px):
        pixels = read_image(path, stated_px)
        if path == copies[3]:
            path.write_bytes(images[4].read_bytes())
        return pixels

    monkeypatch.setattr(items, "read_image", rewritten)
    with pytest.raises(InputError, match=rf"{copies[3].name}: changed while it was read"):
        run(model, copies, out)


def test_images_that_were_counted_are_not_decoded_again(model, images, out, monkeypatch):
    with monkeypatch.context() as poisoned:
        stop_at(poisoned, 11, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            run(model, images, out)
    counted = len(json.loads(partial_of(out).read_text())["part"]["images"])
    decoded = []

    def noted(path, stated_px):
        decoded.append(path)
        return read_image(path, stated_px)

    monkeypatch.setattr(items, "read_image", noted)
    run(model, images, out)
    assert len(decoded) == len(images) - counted


def test_two_interruptions_add_up(model, images, expected, out, monkeypatch):
    for at in (4, 4):
        with monkeypatch.context() as poisoned:
            stop_at(poisoned, at, KeyboardInterrupt)
            with pytest.raises(KeyboardInterrupt):
                run(model, images, out)
    assert run(model, images, out).resumed > 4
    assert out.read_bytes() == expected


def test_an_interruption_before_the_first_image_leaves_nothing(model, images, out, monkeypatch):
    stop_at(monkeypatch, 0, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run(model, images, out)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("at", [0, 7, 50, 100])
def test_half_an_image_is_never_kept(model, images, expected, out, monkeypatch, at):
    update, calls = HistogramBuilder.update, iter(range(10**6))

    def poisoned(self, array):
        if next(calls) == at:
            raise MemoryError
        update(self, array)

    with monkeypatch.context() as patched:
        patched.setattr(HistogramBuilder, "update", poisoned)
        with pytest.raises(MemoryError):
            run(model, images, out)
    assert not out.exists()
    run(model, images, out)
    assert out.read_bytes() == expected


def test_a_full_disk_at_the_end_costs_no_image(model, images, expected, out, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(Ranges, "save", lambda *_: (_ for _ in ()).throw(InputError("no space left")))
        with pytest.raises(InputError, match="no space left"):
            run(model, images, out)
    assert partial_of(out).exists()
    stop_at(monkeypatch, 0, AssertionError)
    assert run(model, images, out).resumed == len(images)
    assert out.read_bytes() == expected


def test_what_cannot_be_kept_does_not_hide_the_reason(model, images, out, monkeypatch, caplog):
    stop_at(monkeypatch, 6, KeyboardInterrupt)
    monkeypatch.setattr(JobLog, "add", lambda *_: (_ for _ in ()).throw(InputError("no space left")))
    with pytest.raises(KeyboardInterrupt):
        run(model, images, out)
    assert "could not be kept: no space left" in caplog.text


@pytest.fixture
def partial(model, images, out, monkeypatch) -> Path:
    with monkeypatch.context() as poisoned:
        stop_at(poisoned, 6, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            run(model, images, out)
    return partial_of(out)


def test_the_part_of_another_model_is_not_used(model, images, partial, out, tmp_path, caplog):
    other = changed_weights(model, lambda weight: weight * 1.5)
    result = run(other, images, out)
    assert result.resumed == 0
    assert "starting again" in caplog.text
    assert "belongs to another model" in caplog.text
    run(other, images, tmp_path / "direct.json")
    assert out.read_bytes() == (tmp_path / "direct.json").read_bytes()
    assert not partial.exists()


def test_the_part_of_another_preprocessing_is_not_used(model, images, partial, out):
    other = dataclasses.replace(model, preprocessing=dataclasses.replace(model.preprocessing, channel_order="rgb"))
    assert run(other, images, out).resumed == 0


def test_the_part_of_other_images_is_not_used(model, images, partial, out, tmp_path, caplog):
    result = run(model, images[6:], out)
    assert (result.resumed, result.images) == (0, 6)
    assert "has counted images that this run does not take" in caplog.text
    run(model, images[6:], tmp_path / "direct.json")
    assert out.read_bytes() == (tmp_path / "direct.json").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: changed_part(text, images=None),
        lambda text: changed_part(text, statistics=[]),
        lambda text: changed_part(text, statistics=None),
        lambda text: text + text,
        lambda text: text.replace('"values": ', '"values": 1'),
    ],
    ids=["cut short", "another kind", "no images", "no histograms", "nothing", "twice", "wrong count"],
)
def test_a_damaged_part_is_not_used(model, images, expected, partial, out, caplog, damage):
    partial.write_text(damage(partial.read_text()))
    assert run(model, images, out).resumed == 0
    assert "starting again" in caplog.text
    assert out.read_bytes() == expected


def test_copies_of_an_image_count_once(model, images, expected, out, tmp_path):
    copies = [Path(shutil.copy(image, tmp_path / f"copy{i}.png")) for i, image in enumerate(images[:4])]
    result = run(model, [*copies, *images, *images], out)
    assert result.images == len(images)
    assert out.read_bytes() == expected


def test_an_unreadable_image_is_named_and_skipped(model, drawn, out, tmp_path, caplog):
    images = list_images(drawn.folder)
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:500])
    missing = tmp_path / "missing.png"
    result = run(model, [broken, *images[:20], missing, *images[20:]], out)
    assert set(result.skipped) == {broken, missing}
    assert result.images == len(images)
    assert f"skipped: {broken}: cannot be decoded" in caplog.text
    assert f"skipped: {missing}: cannot be read" in caplog.text
    run(model, images, tmp_path / "without.json")
    assert out.read_bytes() == (tmp_path / "without.json").read_bytes()


def test_too_many_unreadable_images_end_the_run(model, images, out, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no jpeg")
    with pytest.raises(InputError, match=r"1 of 13 images cannot be read, more than 5%; the last one: .*broken\.jpg"):
        run(model, [*images, broken], out)
    assert not out.exists()


def test_few_images_are_a_warning(model, drawn, caplog):
    run(model, list_images(drawn.folder)[:32])
    assert caplog.records == []
    run(model, list_images(drawn.folder)[:31])
    assert "calibrated on 31 images only" in caplog.text
    caplog.clear()
    run(model, list_images(drawn.folder)[:1] * 40)
    assert "calibrated on 1 image only" in caplog.text


def test_num_takes_images_evenly_spaced(model, drawn, tmp_path):
    images = list_images(drawn.folder)
    assert evenly_spaced(images, 4) == [images[0], images[10], images[20], images[30]]
    assert evenly_spaced(images, 40) == evenly_spaced(images, 1000) == images
    chosen = evenly_spaced(images, 7)
    assert len(set(chosen)) == 7
    assert chosen == sorted(chosen)
    run(model, images, tmp_path / "num.json", num=5)
    run(model, evenly_spaced(images, 5), tmp_path / "chosen.json")
    assert (tmp_path / "num.json").read_bytes() == (tmp_path / "chosen.json").read_bytes()
    with pytest.raises(InputError, match="`num` 0: wanted at least 1"):
        evenly_spaced(images, 0)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_taken_later_equals_one_taken_at_once(model, images, expected, out, method):
    run(model, images, out, method=method)
    direct = out.read_bytes()
    out.write_bytes(expected)
    Ranges.load(out).with_method(method).save(out)
    assert out.read_bytes() == direct


def test_the_ranges_are_those_of_the_activations(model, images, out):
    import onnx_ir as ir
    import onnxruntime

    from edgeq.inputs.preprocessing import preprocess

    ranges = run(model, images, out, method="minmax").ranges
    assert Ranges.load(out) == ranges
    graph = model.copy_graph()
    values = {value.name: value for node in graph.graph for value in node.outputs}
    graph.graph.outputs[:] = [values[name] for name in ranges.tensors if name in values]
    plain = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = [preprocess(read_image(path), model.preprocessing)[0] for path in images]
    names = [output.name for output in plain.get_outputs()]
    runs = [dict(zip(names, plain.run(names, {"image": array}), strict=True)) | {"image": array} for array in inputs]
    for name, interval in ranges.tensors.items():
        everything = np.stack([run[name] for run in runs])
        assert interval.low == pytest.approx(min(everything.min(), 0), rel=1e-4, abs=1e-6)
        assert interval.high == pytest.approx(max(everything.max(), 0), rel=1e-4, abs=1e-6)


def test_only_what_a_target_quantizes_is_observed(model):
    observed = set(calibrated_tensors(model))
    wanted = [select_layers(model.graph, get_target(name).rules).tensors for name in TARGETS]
    outputs = {str(value.name) for value in model.graph.graph.outputs}
    assert outputs <= observed  # for files whose outputs are integers
    observed -= outputs
    assert observed <= {name for tensors in wanted for name in tensors}
    producers = {value.name: node for node in model.graph.graph for value in node.outputs}
    behind = {
        name: [use.node.op_type for use in producers[name].outputs[0].uses()] for name in observed & set(producers)
    }
    fused = [name for name, readers in behind.items() if producers[name].op_type == "Conv" and readers == ["Relu"]]
    assert fused == []
    kinds = {producers[name].op_type for name in behind}
    assert "Relu" in kinds
    assert kinds <= {"Relu", "Conv", "Add"}  # both branches of a residual sum have a range of their own


def test_values_that_are_not_finite_name_tensor_and_image(model, images, out):
    broken = changed_weights(model, lambda weight: np.where(weight == weight.max(), np.nan, weight))
    with pytest.raises(ModelError, match=r"tensor '\w+', which Conv '\w+' computes, holds \d+ NaN .*000000\.png"):
        run(broken, images, out)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "average"}, "unknown method 'average'; known: entropy, lp, minmax, mse, percentile"),
        ({"method": "minmax", "options": {"percentile": 99.0}}, "method 'minmax' cannot take the options"),
        ({"method": "percentile", "options": {"percentile": 101.0}}, "percentile 101.0: wanted a number"),
    ],
)
def test_a_wrong_method_is_told_before_an_image_is_read(model, images, out, monkeypatch, options, message):
    stop_at(monkeypatch, 0, AssertionError)
    with pytest.raises(InputError, match=message):
        run(model, images, out, **options)


def test_a_place_that_cannot_be_written_is_told_before_an_image_is_read(model, images, tmp_path, monkeypatch):
    stop_at(monkeypatch, 0, AssertionError)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a folder; wanted the name of a file"):
        run(model, images, tmp_path)
    with pytest.raises(InputError, match="file is a file; choose another name"):
        run(model, images, tmp_path / "file" / "ranges.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_a_file_nothing_is_written(model, images, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(model, images)
    assert list(tmp_path.iterdir()) == []
    result.ranges.save(tmp_path / "ranges.json")
    assert (tmp_path / "ranges.json").read_bytes() == expected


def test_no_warning_comes_from_a_normal_run(model, drawn, out, caplog):
    with caplog.at_level(logging.DEBUG, "edgeq"):
        run(model, list_images(drawn.folder), out)
    assert caplog.records == []


def test_the_file_is_that_of_a_plain_loop(model, images, tmp_path):
    """Nothing of look-ahead, threads, statistics and resuming shows in the bytes."""
    from edgeq.files import sha256_file
    from edgeq.inputs.preprocessing import preprocess
    from edgeq.runtimes.observer import ActivationObserver

    calibrate(model, images, tmp_path / "ranges.json", threads=1, keep_samples=0)
    builders = {name: HistogramBuilder() for name in calibrated_tensors(model)}
    observer = ActivationObserver(model.graph, list(builders), 1)
    for path in images:
        for name, array in observer.observe({"image": preprocess(read_image(path), model.preprocessing)[0]}).items():
            builders[name].update(array)
    provenance = Provenance.of(
        model_digest=model.digest,
        preprocessing_digest=model.preprocessing.digest,
        image_digests=[sha256_file(path) for path in images],
        tool_version=edgeq.__version__,
    )
    histograms = {name: builder.histogram() for name, builder in builders.items()}
    plain = Ranges.from_histograms(histograms, provenance, "lp")
    # What is kept of channels, test_the_maxima_of_channels_are_those_of_what_layers_read says.
    maxima = Ranges.load(tmp_path / "ranges.json").channel_maxima
    dataclasses.replace(plain, channel_maxima=maxima).save(tmp_path / "plain.json")
    assert (tmp_path / "ranges.json").read_bytes() == (tmp_path / "plain.json").read_bytes()


@pytest.fixture(scope="module")
def arrays(model, images) -> np.ndarray:
    """What pre-processing makes of the images, `(N, 3, H, W)`."""
    from edgeq.inputs.preprocessing import preprocess

    return np.concatenate([preprocess(read_image(path), model.preprocessing)[0] for path in images])


def test_arrays_give_the_ranges_of_the_files(model, images, arrays, expected, out):
    given = [
        arrays,
        list(arrays),
        (row for row in arrays),
        iter([arrays[:5], arrays[5:]]),
        (read_image(path) for path in images),
    ]
    found = [run(model, data, out).ranges for data in given]
    out.write_bytes(expected)
    of_files = Ranges.load(out)
    for ranges in found:
        assert ranges.tensors == of_files.tensors
        assert ranges.histograms == of_files.histograms
        assert ranges.provenance.images == len(images)
    digests = [ranges.provenance.images_digest for ranges in found]
    assert len(set(digests[:4])) == 1
    assert len({*digests, of_files.provenance.images_digest}) == 3  # inputs, images in memory, files


def test_copies_of_an_array_count_once(model, arrays):
    assert run(model, np.concatenate([arrays, arrays[:5]])).images == len(arrays)


def test_an_iterable_that_raises_half_way_writes_nothing(model, arrays, out):
    def stream():
        yield from arrays[:5]
        raise OSError("the disk is gone")

    with pytest.raises(InputError, match=r"raised OSError at item 5 \(the disk is gone\)"):
        run(model, stream(), out)
    assert list(out.parent.iterdir()) == []


def test_an_array_that_does_not_fit_writes_nothing(model, arrays, out):
    with pytest.raises(InputError, match=r"item 5: has shape \(3, 32, 96\), the model takes \(3, 64, 96\)"):
        run(model, [*arrays[:5], arrays[5, :, ::2]], out)
    with pytest.raises(InputError, match="item 3: has values from 0 to 255"):
        run(model, [*arrays[:3], np.linspace(0, 255, arrays[0].size).reshape(arrays[0].shape)], out)
    assert list(out.parent.iterdir()) == []


def test_method_best_takes_arrays_that_can_be_read_twice(model, arrays):
    ranges = calibrate(model, list(arrays), method="best").ranges
    assert ranges.provenance.images == len(arrays)
    assert ranges.choices
    with pytest.raises(InputError, match="method best reads some images twice; give files or a list of arrays"):
        calibrate(model, iter(arrays), method="best")


def changed_weights(model: FloatModel, change) -> FloatModel:
    """Returns the model with other weights in its first convolution."""
    import onnx_ir as ir

    graph = model.copy_graph()
    first = next(node for node in graph.graph if node.op_type == "Conv")
    weight = first.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    weight.const_value = ir.tensor(change(weight.const_value.numpy()).astype(np.float32), name=weight.name)
    return dataclasses.replace(model, graph=graph)
