"""Runs a float TFLite graph and hands out the activations that calibration has to see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import EngineError
from edgeq.exporting.tflite.graph import read_graph, with_outputs
from edgeq.runtimes.base import Arrays, first_line
from edgeq.runtimes.litert import LiteRtSession, quiet_stderr

if TYPE_CHECKING:
    from edgeq.exporting.tflite.writer import TfliteModel


class TfliteObserver:
    """A float TFLite file in LiteRT with the observed tensors as outputs, so that XNNPACK still runs it.

    Args:
        content: The file's bytes.
        names: Tensors to observe; the graph's input is allowed.
        threads: CPU threads; `None` leaves it to the engine.
    """

    def __init__(self, content: bytes, names: Sequence[str], threads: int | None = None) -> None:
        engine = LiteRtSession.import_engine()
        graph = read_graph(content, "the float TFLite graph")
        numbers = {tensor.name: tensor.index for tensor in graph.tensors}
        observed = with_outputs(content, [numbers[name] for name in names])
        (self._input,) = graph.inputs
        self._indices = {name: numbers[name] for name in names}
        try:
            with quiet_stderr():
                self._interpreter = engine.Interpreter(model_content=observed, num_threads=threads)
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"the float TFLite graph cannot be run for calibration: {first_line(error)}") from error

    def observe(self, image: np.ndarray) -> Arrays:
        """Returns tensor name -> float32 activations, channel-last, for one input as the file takes it.

        Raises:
            EngineError: the engine failed.
        """
        try:
            self._interpreter.set_tensor(self._input, image)
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"the float TFLite graph failed during calibration: {first_line(error)}") from error
        return {name: self._interpreter.get_tensor(index) for name, index in self._indices.items()}


def observe_file(
    model: TfliteModel, tensors: Sequence[str], threads: int | None = None
) -> Callable[[np.ndarray], Arrays]:
    """Returns what runs a float TFLite file on an input `(1, C, H, W)` and hands out activations by tensor name.

    Raises:
        EngineError: LiteRT cannot run the file.
    """
    observer, image = TfliteObserver(model.content, tensors, threads), model.input
    return lambda array: observer.observe(image.encode(array))
