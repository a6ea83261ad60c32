"""One pass gathers every statistic that is asked for, and an interrupted one is resumed with all of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from edgeq.calibration.collector import Collector
from edgeq.calibration.layer_inputs import moment_requests
from edgeq.calibration.observed_model import ObservedOnnxModel
from edgeq.calibration.statistics import STATISTICS, Request, Statistic
from edgeq.calibration.statistics.channel_extremes import ChannelExtremesStatistic
from edgeq.calibration.statistics.channel_means import ChannelMeans
from edgeq.calibration.statistics.second_moments import SecondMoments
from edgeq.calibrators import Histogram
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.passes.cleaning import clean
from edgeq.inputs import ImageFile, Item, UnreadableImages, image_files
from edgeq.inputs.images import list_images
from tests.calibration.test_statistics import ZEROS

TEXT = """
<ir_version: 9, opset_import: ["" : 18]>
net (float[1, 3, 8, 8] image) => (float[1, 5] scores) {
  [conv] c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (image, w)
  [relu] r = Relu (c)
  [depthwise] d = Conv <kernel_shape = [3, 3], group = 4> (r, v)
  [same] s = Conv <kernel_shape = [3, 3], auto_pad = "SAME_UPPER"> (d, u)
  [flat] f = Flatten (s)
  [linear] scores = MatMul (f, m)
}
"""


@pytest.fixture(scope="module")
def model() -> FloatModel:
    import onnx

    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(TEXT)
    for name, shape in (("w", (4, 3, 3, 3)), ("v", (4, 1, 3, 3)), ("u", (2, 4, 3, 3)), ("m", (8, 5))):
        array = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    graph = ir.from_proto(proto)
    clean(graph)
    return FloatModel("net", graph, Preprocessing(8, 8, resize="stretch"))


@pytest.fixture(scope="module")
def images(drawn) -> list[Item]:
    return image_files(list_images(drawn.folder)[:9])


REQUESTS = [
    Request("c", "histogram"),
    Request("r", "histogram"),
    Request.of("c", "channel_extremes", axis=1),
    Request.of("r", "channel_means", axis=1),
    Request.of("f", "channel_means", axis=-1),
]


def start(model: FloatModel, out: Path | None, requests: list[Request] = REQUESTS) -> Collector:
    names = list(dict.fromkeys(request.tensor for request in requests))
    return Collector(ObservedOnnxModel(model, names, 1), out, requests)


def gather(collector: Collector, images: list[Item]) -> dict[Request, Statistic]:
    collector.run(images, UnreadableImages(len(images)).add)
    return collector.statistics()


def as_json(statistics: dict[Request, Statistic]) -> str:
    return json.dumps([statistic.to_json() for statistic in statistics.values()])


def outputs(model: FloatModel, images: list[Item], names: list[str]) -> dict[str, np.ndarray]:
    """What plain ONNX Runtime computes for the tensors, over all images."""
    from edgeq.inputs import model_input

    graph = model.copy_graph()
    values = {value.name: value for node in graph.graph for value in node.outputs}
    graph.graph.outputs[:] = [values[name] for name in names]
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    arrays = [model_input(item.read(), model.preprocessing, item.name)[0] for item in images]
    found = [session.run(names, {"image": array}) for array in arrays]
    return {name: np.concatenate([run[index] for run in found]) for index, name in enumerate(names)}


def test_one_pass_gathers_them_all(model, images, monkeypatch):
    reads = []
    read = ImageFile.read

    def note(item: ImageFile) -> np.ndarray:
        reads.append(item.path)
        return read(item)

    monkeypatch.setattr(ImageFile, "read", note)
    statistics = gather(start(model, None), images)
    assert len(reads) == len(images)
    found = outputs(model, images, ["c", "r", "f"])
    histogram, _, extremes, means, flat = statistics.values()
    assert isinstance(extremes, ChannelExtremesStatistic)
    assert isinstance(means, ChannelMeans)
    assert isinstance(flat, ChannelMeans)
    expected = Histogram.of(found["c"])
    assert Histogram.from_json(histogram.to_json()).total == expected.total
    np.testing.assert_allclose(extremes.extremes.minimum, found["c"].min(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(extremes.extremes.maximum, found["c"].max(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(means.means, found["r"].astype(np.float64).mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(flat.means, found["f"].astype(np.float64).mean(axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("at", [1, 3, 5])
def test_an_interrupted_pass_is_resumed_with_every_statistic(model, images, tmp_path, monkeypatch, at):
    (tmp_path / "zeros_statistic.py").write_text(ZEROS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(STATISTICS, "zeros", "zeros_statistic:Zeros")  # a new one: one file, and this line
    requests = [*REQUESTS, Request("r", "zeros")]
    expected = as_json(gather(start(model, None, requests), images[::-1]))
    out = tmp_path / "out" / "statistics.json"
    for stop in (at, at + 3):
        collector = start(model, out, requests)
        collector.resume(images)
        with pytest.raises(KeyboardInterrupt):
            gather(collector, _interrupted(images, stop))
        collector.save_partial()
    collector = start(model, out, requests)
    collector.resume(images)
    assert collector.resumed >= at + 2
    assert as_json(gather(collector, images)) == expected
    collector.forget_partial()
    assert list(out.parent.iterdir()) == []


class _Interrupting(ImageFile):
    def read(self):
        raise KeyboardInterrupt


def _interrupted(images: list[Item], stop: int) -> list[Item]:
    return [*images[:stop], _Interrupting(Path(images[stop].name)), *images[stop + 1 :]]


def test_other_statistics_of_the_same_tensors_are_another_job(model, images, tmp_path, caplog):
    out = tmp_path / "statistics.json"
    collector = start(model, out)
    gather(collector, images[:3])
    collector.save_partial()
    other = start(model, out, REQUESTS[:-1])
    other.resume(images)
    assert other.resumed == 0
    assert "belongs to another model, other statistics" in caplog.text


def test_second_moments_of_every_layer(model, images):
    """A layer's weight W and moments M tell the energy of its output: the sum of its squares is trace(W M W^T)."""
    requests = moment_requests(model.graph)
    assert list(requests) == ["conv", "depthwise", "linear"]  # the engine pads the other one
    names = [request.tensor for request in requests.values()]
    collector = Collector(ObservedOnnxModel(model, names, 1), None, list(requests.values()))
    statistics = gather(collector, images)
    found = outputs(model, images, ["c", "d", "scores"])
    nodes = {node.name: node for node in model.graph.graph}
    for (layer, request), output in zip(requests.items(), found.values(), strict=True):
        weight = nodes[layer].inputs[1].const_value.numpy().astype(np.float64)
        weight = weight.T if layer == "linear" else weight
        moments = statistics[request]
        assert isinstance(moments, SecondMoments)
        groups = weight.reshape(len(moments.matrices), -1, moments.matrices.shape[1])
        energy = np.einsum("gok,gkl,gol->", groups, moments.matrices, groups)
        assert energy == pytest.approx(float((output.astype(np.float64) ** 2).sum()), rel=1e-5)
        assert moments.rows == output.size // weight.shape[0]
