"""Runs the file of one part in ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgeq.errors import EngineError, MissingDependencyError

_LOG_FATAL = 4


class PartSession:
    """The file of a part, open in ONNX Runtime.

    Args:
        path: The ONNX file.
        threads: CPU threads; by default all.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        EngineError: it cannot open the file.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError("onnxruntime", None, "running a part of a model") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = _LOG_FATAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EngineError(f"{path}: ONNX Runtime cannot open it ({_line(error)})") from error
        self._path = path
        self.inputs = tuple(each.name for each in self._session.get_inputs())
        """Names of the inputs."""
        self.outputs = tuple(each.name for each in self._session.get_outputs())
        """Names of the outputs."""

    def run(self, feed: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        """Returns the outputs in order; entries of `feed` that are no inputs are left out.

        Raises:
            EngineError: an input is missing or of another type or shape.
        """
        try:
            return list(self._session.run(None, {name: feed[name] for name in self.inputs if name in feed}))
        except Exception as error:
            raise EngineError(f"{self._path}: ONNX Runtime cannot run it ({_line(error)})") from error


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
