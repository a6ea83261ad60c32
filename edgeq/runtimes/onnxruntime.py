"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeq.boundary import parse_json
from edgeq.errors import EngineError, InputError
from edgeq.exporting.graphs.float4 import write_out_float4
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.graphs.weights import map_weights
from edgeq.exporting.onnx.weight_only import FP4
from edgeq.registry import registered
from edgeq.results.measurement import LayerProfile, LayerTime
from edgeq.runtimes.base import Arrays, Session
from edgeq.runtimes.layer_samples import precision_name, typical_ms
from edgeq.targets import TARGETS, get_target

_LOG_FATAL = 4

_KERNEL, _US_PER_MS = "_kernel_time", 1e3
_FUSED = re.compile(r"_token_\d+$")
"""What ONNX Runtime appends to the name of a node that it has fused with the Q/DQ pairs around it."""

_ROUNDS_BIASES = "WeightBiasQuantization"
"""An optimizer that rounds biases to int32. With FP16 scales it divides in FP16, and loses those above 65504 steps."""

_FUSED_JOIN = "QLinearConcat"
"""Version 1.32 fuses a Concat between Q/DQ pairs of FP16 scales to this operator, which takes none, and fails."""


class OnnxRuntimeSession(Session):
    """An ONNX file in ONNX Runtime's CPU execution provider, with all graph optimizations that compute what it says."""

    runtime = "onnxruntime"
    package = "onnxruntime"
    extra = None

    @classmethod
    def import_engine(cls) -> Any:
        """Returns the package `onnxruntime`, with its telemetry switched off."""
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        return super().import_engine()

    def _open(self, compute_precision: str | None) -> None:
        if compute_precision not in (None, "f32"):
            raise InputError(
                f"onnxruntime computes float layers in f32 only, not in {compute_precision!r}; use the openvino runtime"
            )
        self._engine = self.import_engine()
        self._session = self._load(self._session_options())
        self._require_tensors(
            (node.name for node in self._session.get_inputs()), (node.name for node in self._session.get_outputs())
        )
        self._outputs = [spec.name for spec in self.artifact.outputs]

    def _has_fp16_scales(self) -> bool:
        target = self.artifact.target
        if self.artifact.quantization_facts.fp16_scales:
            return True
        return target in registered("target", TARGETS) and get_target(target).rules.fp16 == "graph"

    def _load(self, options: Any) -> Any:
        try:
            return self._start(options)
        except Exception as error:
            if _FUSED_JOIN not in str(error):
                raise self._refused(error) from error
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        return self._start(options)

    def _start(self, options: Any) -> Any:
        disabled = [_ROUNDS_BIASES] if self._has_fp16_scales() else None
        return self._engine.InferenceSession(
            self._content(options),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=disabled,
            enable_fallback=0,  # it prints what went wrong, and tries the same again
        )

    def _content(self, options: Any) -> str | bytes:
        """Returns the path of the file; of one with FP4 weights, which this engine lacks, its content in floats."""
        if self.artifact.precision != FP4:
            return str(self.artifact.path)
        model = read_onnx(self.artifact.path)
        write_out_float4(model)
        proto, folder = map_weights(model)
        if folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        content: bytes = proto.SerializeToString()
        return content

    def _session_options(self) -> Any:
        options = self._engine.SessionOptions()
        options.intra_op_num_threads = self.threads or 0  # 0: one a physical core
        options.inter_op_num_threads = 1
        # Errors come back as exceptions; the log would say them a second time.
        options.log_severity_level = _LOG_FATAL
        return options

    def _run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        try:
            arrays = self._session.run(self._outputs, inputs)
        except Exception as error:
            raise self._failed(error) from error
        return dict(zip(self._outputs, arrays, strict=True))

    def time_layers(self, inputs: Mapping[str, np.ndarray], runs: int) -> LayerProfile:
        """Returns the times of ONNX Runtime's kernels, of the file opened once more with its profiler."""
        options = self._session_options()
        options.enable_profiling = True
        with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
            options.profile_file_prefix = str(Path(folder) / "layers")
            session = self._load(options)
            try:
                for _ in range(runs + 1):
                    session.run(self._outputs, dict(inputs))
                file = Path(session.end_profiling())
            except Exception as error:
                raise self._failed(error) from error
            profile = file.read_bytes()
        events = parse_json(profile, list[_Event], source=file.name, kind="ONNX Runtime's profile", error=EngineError)
        return LayerProfile("ONNX Runtime's profiler", runs, _layers(events))

    def _engine_environment(self) -> dict[str, Any]:
        return {
            "engine": f"onnxruntime {self._engine.__version__}",
            "threads": self.threads,
            "compute_precision": "f32",
        }

    def close(self) -> None:
        """Frees the session's weights and threads."""
        self._session = None


class _Arguments(msgspec.Struct):
    op_name: str = ""
    input_type_shape: list[dict[str, Any]] = []


class _Event(msgspec.Struct):
    """An entry of a profile; `dur` is in microseconds."""

    cat: str = ""
    name: str = ""
    dur: float = 0.0
    args: _Arguments = msgspec.field(default_factory=_Arguments)


def _layers(events: Sequence[_Event]) -> tuple[LayerTime, ...]:
    kernels: dict[str, list[_Event]] = {}
    for event in events:
        if event.cat == "Node" and event.name.endswith(_KERNEL):
            kernels.setdefault(event.name.removesuffix(_KERNEL), []).append(event)
    layers = []
    for name, found in kernels.items():
        read = found[0].args.input_type_shape
        node = _FUSED.sub("", name)
        layers.append(
            LayerTime(
                name,
                found[0].args.op_name,
                precision_name(next(iter(read[0]), "") if read else ""),
                typical_ms([event.dur / _US_PER_MS for event in found[1:] or found]),
                () if node == name else (node,),
            )
        )
    return tuple(layers)
