"""Run by `tests/runtimes/tensorrt/test_bindings.py` in a process of its own, over NVIDIA's real Python bindings.

`python -m tests.trt_bindings VERSION`: prints what differs between the bindings and the contract, and what of our
classes the bindings do not take, one line each. The libraries behind the bindings are empty: everything that they make
is null.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from edgeq.errors import EngineError
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.runtimes.tensorrt.calibrator import CALIBRATORS, Feed, make_calibrator
from edgeq.runtimes.tensorrt.library import Messages, construct, make_logger
from edgeq.runtimes.tensorrt.progress import make_progress_monitor
from tests.fake_cuda import Board, FakeCuda
from tests.trt_double import CONTRACT


def main() -> None:
    """Prints the differences."""
    trt = importlib.import_module("tensorrt_bindings")
    version = sys.argv[1]
    sys.modules["tensorrt"] = trt
    for line in (*differences(trt, CONTRACT["versions"][version]), *refusals(trt, version)):
        print(line)


def differences(trt: Any, contract: dict[str, Any]) -> Iterator[str]:
    """Yields what the contract says otherwise than the bindings."""
    for name, members in contract["enums"].items():
        owner: Any = trt
        for part in name.split("."):
            owner = getattr(owner, part)
        found = {member: int(value) for member, value in owner.__members__.items()}
        if found != members:
            yield f"enumeration {name}: {sorted(found.items() ^ members.items())}"
    yield from (f"{name} exists" for name in contract["removed_or_absent"] if hasattr(trt, name))
    for name, spec in contract["classes"].items():
        cls = getattr(trt, name)
        for attribute, (_, mode) in spec["properties"].items():
            setter = getattr(inspect.getattr_static(cls, attribute), "fset", None)
            if (setter is not None) != (mode == "rw"):
                yield f"{name}.{attribute} is not {mode}"
        for method, overloads in spec["methods"].items():
            text = getattr(cls, method).__doc__ or ""
            arguments = {argument[0] for overload in overloads for argument in overload["args"]}
            yield from (
                f"{name}.{method} has no {argument}"
                for argument in arguments
                # What a user overrides is bound for its documentation only.
                if not re.search(rf"\b{argument}\b", text) and "Calibrator" not in name and overloads[0]["args"]
            )


def refusals(trt: Any, version: str) -> Iterator[str]:
    """Yields what of ours the bindings do not take."""
    warnings.simplefilter("ignore", DeprecationWarning)
    if trt.__version__ != version:
        yield f"version {trt.__version__}"
    if not hasattr(trt, "init_libnvinfer_plugins"):
        yield "no init_libnvinfer_plugins"
    messages = Messages()
    logger = make_logger(trt, messages)
    logger.log(trt.ILogger.Severity.ERROR, "a message")
    if messages.errors != ["a message"]:
        yield f"the logger kept {messages.errors}"
    for make, what in ((lambda: trt.Builder(logger), "builder"), (lambda: trt.Runtime(logger), "runtime")):
        try:
            construct(make, what, messages)
            yield f"a {what} of nothing"
        except EngineError:
            pass
    FakeCuda.board = Board()
    for algorithm, name in CALIBRATORS.items():
        if not hasattr(trt, name):
            continue
        images = [np.ones((1, 2), np.float32)]
        feed = Feed(TensorSpec("image", "float32", (1, 2)), FakeCuda(), images=images)
        calibrator = make_calibrator(trt, algorithm, feed)
        if (
            not isinstance(calibrator, trt.IInt8Calibrator)
            or calibrator.get_algorithm().name
            != {
                "EntropyCalibration2": "ENTROPY_CALIBRATION_2",
                "MinMaxCalibration": "MINMAX_CALIBRATION",
            }[algorithm]
        ):
            yield f"{name} is of another algorithm"
        if len(calibrator.get_batch(["image"])) != 1 or calibrator.get_batch(["image"]) is not None:
            yield f"{name} gives other batches"
    config = types.SimpleNamespace(progress_monitor=None)
    with make_progress_monitor(trt, config, "build"):
        if (config.progress_monitor is None) == hasattr(trt, "IProgressMonitor"):
            yield "no progress monitor"


if __name__ == "__main__":
    main()
