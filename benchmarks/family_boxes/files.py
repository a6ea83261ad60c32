"""ONNX files in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Run = Callable[[NDArray[np.float32]], dict[str, NDArray[Any]]]


def session_of(path: Path) -> Run:
    """Returns a function from a file's input to its outputs by name, on one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]
    return lambda taken: dict(zip(names, session.run(None, {entry: taken}), strict=True))
