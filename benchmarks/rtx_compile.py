"""Does NVIDIA's own compiler take a file? `python -m benchmarks.rtx_compile FILE.onnx` says so, without a GPU.

TensorRT for RTX (`pip install tensorrt-rtx-cu12`) has TensorRT 11's parser and builder, and builds for compute
capability 8.6, the nearest that it knows to Orin's 8.7. It is strongly typed alone.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGE = "tensorrt_rtx"
CAPABILITY = "SM86"
TIMEOUT_S = 600.0


def compiled(path: Path) -> str:
    """Returns `built`, or what the parser or the builder said, in a line; empty where the package is not installed.

    The work is done in a process of its own: a crash of the library is its answer, and no end of a benchmark.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        return ""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.rtx_compile", str(path)],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {TIMEOUT_S:.0f} s"
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines else f"died with {done.returncode}"


def build(path: Path) -> str:
    """Returns what `compiled` does, of this process."""
    trt: Any = importlib.import_module(PACKAGE)
    said: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                said.append(" ".join(message.split()))

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model=path.read_bytes(), path=str(path)):
        error = parser.get_error(0)
        return f"parser: {error.node_operator()} {error.node_name()}: {' '.join(error.desc().split())}"
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(getattr(trt.ComputeCapability, CAPABILITY), 0):
        return f"builder: {CAPABILITY} is not known"
    plan = builder.build_serialized_network(network=network, config=config)
    return "built" if plan is not None else f"builder: {said[-1] if said else 'gave no reason'}"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="the ONNX file")
    return parser


def main() -> None:
    print(build(make_parser().parse_args().file), flush=True)


if __name__ == "__main__":
    main()
