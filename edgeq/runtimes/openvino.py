"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeq.errors import InputError
from edgeq.exporting.openvino.package import EXTRA, PACKAGE, without_telemetry
from edgeq.results.measurement import LayerProfile, LayerTime
from edgeq.runtimes.base import LATENCY, THROUGHPUT, Arrays, Session
from edgeq.runtimes.layer_samples import precision_name, typical_ms

_PRECISIONS = ("f32", "bf16", "f16")
_MS = 1e3


class OpenVinoSession(Session):
    """An ONNX file, or one of OpenVINO's own format, in its CPU plugin, tuned for the latency of one request at a time.

    Tuned for throughput, as many requests run at the same time as OpenVINO recommends, each on the same inputs: a run
    takes until the last of them is done.

    Float layers of an `fp32` file are computed in f32: OpenVINO's own default is bf16 where the CPU has AMX, which is
    another result and another speed than the file's name promises. Files of other precisions keep that default.
    """

    runtime = "openvino"
    package = PACKAGE
    extra = EXTRA
    formats = ("onnx", "openvino")
    hints = (LATENCY, THROUGHPUT)

    @classmethod
    def import_engine(cls) -> Any:
        """Returns the package `openvino`, with its telemetry switched off."""
        with without_telemetry():
            return super().import_engine()

    def _open(self, compute_precision: str | None) -> None:
        self._engine = self.import_engine()
        self._core, self._asked = self._engine.Core(), self._settings(compute_precision)
        self._compiled = self._compile(self._asked)
        self._require_tensors(
            (name for port in self._compiled.inputs for name in port.get_names()),
            (name for port in self._compiled.outputs for name in port.get_names()),
        )
        count = 1 if self.hint == LATENCY else int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests = [self._compiled.create_infer_request() for _ in range(count)]
        self._ports = {spec.name: self._compiled.output(spec.name) for spec in self.artifact.outputs}

    def _compile(self, settings: Mapping[str, Any]) -> Any:
        try:
            return self._core.compile_model(str(self.artifact.path), "CPU", dict(settings))
        except RuntimeError as error:
            raise self._refused(error) from error

    def _settings(self, compute_precision: str | None) -> dict[str, Any]:
        if compute_precision is None and self.artifact.precision == "fp32":
            compute_precision = "f32"
        settings: dict[str, Any] = {"PERFORMANCE_HINT": self.hint.upper()}
        if self.hint == LATENCY:
            settings["NUM_STREAMS"] = 1
        if self.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self.threads
        if compute_precision is not None:
            if compute_precision not in _PRECISIONS:
                raise InputError(f"compute precision {compute_precision!r}: openvino knows {', '.join(_PRECISIONS)}")
            settings["INFERENCE_PRECISION_HINT"] = compute_precision
        return settings

    def _run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        try:
            # The inputs are only read, so they need no copy; the outputs do, the next run overwrites them.
            if self.hint == LATENCY:
                results = self._requests[0].infer(dict(inputs), share_inputs=True, share_outputs=False)
                return {name: results[port] for name, port in self._ports.items()}
            for request in self._requests:
                request.start_async(dict(inputs), share_inputs=True)
            for request in self._requests:
                request.wait()
        except RuntimeError as error:
            raise self._failed(error) from error
        results = self._requests[0].results
        return {name: np.array(results[port]) for name, port in self._ports.items()}

    def time_layers(self, inputs: Mapping[str, np.ndarray], runs: int) -> LayerProfile:
        """Returns the times of the plugin's layers, of the file compiled once more with counters (`PERF_COUNT`)."""
        compiled = self._compile({**self._asked, "PERF_COUNT": True})
        request = compiled.create_infer_request()
        samples: dict[str, list[float]] = {}
        try:
            for _ in range(runs + 1):
                request.infer(dict(inputs), share_inputs=True)
                executed = [each for each in request.profiling_info if each.status == each.Status.EXECUTED]
                for each in executed:
                    samples.setdefault(each.node_name, []).append(each.real_time.total_seconds() * _MS)
        except RuntimeError as error:
            raise self._failed(error) from error
        nodes = _nodes_of_layers(compiled.get_runtime_model())
        return LayerProfile(
            "OpenVINO's PERF_COUNT",
            runs,
            tuple(
                LayerTime(
                    each.node_name,
                    each.node_type,
                    precision_name(each.exec_type.rpartition("_")[2]),
                    typical_ms(samples[each.node_name][1:]),
                    nodes.get(each.node_name, ()),
                )
                for each in executed
            ),
        )

    def _engine_environment(self) -> dict[str, Any]:
        tuned = {} if self.hint == LATENCY else {
            "hint": self.hint,
            "streams": int(self._compiled.get_property("NUM_STREAMS")),
            "requests": len(self._requests),
        }  # fmt: skip
        return tuned | {
            # 2026.4.1-22982-e213a147257-releases/2026/4
            "engine": f"openvino {self._engine.__version__.partition('-')[0]}",
            "threads": int(self._compiled.get_property("INFERENCE_NUM_THREADS")),
            "compute_precision": self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string(),
        }

    def close(self) -> None:
        """Frees the compiled model and its threads."""
        self._compiled, self._requests = None, []
        self._ports = {}


def _nodes_of_layers(model: Any) -> dict[str, tuple[str, ...]]:
    """Returns layer -> names of the nodes that were fused to it, some of them made by OpenVINO's own passes."""
    found = {}
    for layer in model.get_ordered_ops():
        names = layer.get_rt_info()["originalLayersNames"].astype(str)
        found[layer.friendly_name] = tuple(name for name in names.split(",") if name)
    return found
