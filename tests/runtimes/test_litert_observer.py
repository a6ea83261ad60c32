"""The activations of a float TFLite file, as calibration sees them."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.errors import EngineError
from edgeq.exporting.tflite.plan import observed_tensors
from edgeq.runtimes.litert_observer import TfliteObserver
from tests import tflite_nets
from tests.exporting import nets
from tests.small import SIZE


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return tflite_nets.channel_last(nets.normal(1, 1, 3, *SIZE))


def test_activations_are_those_of_the_interpreter_that_keeps_them_all(image: np.ndarray) -> None:
    """The engine's own way, which runs without XNNPACK's fusions over operators."""
    from ai_edge_litert.interpreter import Interpreter

    model = tflite_nets.centernet()
    with pytest.warns(UserWarning, match="intended for debugging"):
        interpreter = Interpreter(model_content=model.content, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    interpreter.set_tensor(model.graph.inputs[0], image)
    interpreter.invoke()
    names = observed_tensors(model.graph)
    found = TfliteObserver(model.content, names, threads=1).observe(image)
    assert list(found) == names
    for tensor in model.graph.tensors:
        if tensor.name in found:
            wanted = interpreter.get_tensor(tensor.index)
            np.testing.assert_allclose(found[tensor.name], wanted, atol=1e-4 * max(1, np.abs(wanted).max()))


def test_the_image_itself_and_any_order(image: np.ndarray) -> None:
    model = tflite_nets.centernet()
    observer = TfliteObserver(model.content, ["hm", "image", "conv_2d_1"])
    first = observer.observe(image)
    kept = {name: array.copy() for name, array in first.items()}
    second = observer.observe(2 * image)
    assert list(first) == ["hm", "image", "conv_2d_1"]
    np.testing.assert_array_equal(second["image"], 2 * image)
    for name, array in first.items():  # they outlive the next run: another thread counts them meanwhile
        np.testing.assert_array_equal(array, kept[name])
        assert not np.array_equal(array, second[name])


def test_a_wrong_input_is_one_line() -> None:
    observer = TfliteObserver(tflite_nets.centernet().content, ["hm"])
    with pytest.raises(EngineError, match=r"^the float TFLite graph failed during calibration: ") as caught:
        observer.observe(np.zeros((1, 3, 4, 4), np.float32))
    assert "\n" not in str(caught.value)
