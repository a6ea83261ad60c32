"""Builds an engine from an ONNX file, on the device that is to run it.

Weak typing (TensorRT 8 to 10): flags allow FP16 and INT8, scales come from Q/DQ nodes (explicit) or by tensor name
(implicit), and TensorRT chooses by speed. Strong typing (the only one from 11 on): the file's types decide.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import EngineError, InputError, MismatchError, ModelError
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.exporting.tensorrt.cache import CalibrationCache, header_version
from edgeq.files import write_bytes
from edgeq.runtimes.cuda import Cuda
from edgeq.runtimes.tensorrt.build_options import BuildOptions, FromCache, FromScales
from edgeq.runtimes.tensorrt.calibrator import Feed, batch_spec, make_calibrator
from edgeq.runtimes.tensorrt.gpus import set_gpus
from edgeq.runtimes.tensorrt.library import Messages, construct, describe, make_logger
from edgeq.runtimes.tensorrt.progress import make_progress_monitor

_MAX_PARSER_ERRORS = 5
_Q_NODE = b"QuantizeLinear"
_LEVELS = 127
# Types of layers that have no precision of their own.
_NO_COMPUTATION = frozenset({"CONSTANT", "CONCATENATION", "SHAPE"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A built engine.

    Attributes:
        content: The serialized engine.
        strongly_typed: Whether the network was strongly typed.
        missing_scales: Tensors that TensorRT found no scale for.
        float_layers: Layers that were kept out of INT8.
        cache: The calibration cache that TensorRT wrote, where it calibrated.
        inputs: The inputs with the batch size that was built for.
    """

    content: bytes
    strongly_typed: bool
    missing_scales: tuple[str, ...]
    float_layers: tuple[str, ...]
    cache: bytes | None
    inputs: tuple[TensorSpec, ...]


def can_calibrate(trt: Any) -> bool:
    """Returns whether this TensorRT takes implicit scales."""
    return hasattr(trt.BuilderFlag, "INT8") and hasattr(trt, "IInt8EntropyCalibrator2")


def has_qdq(model: bytes) -> bool:
    """Returns whether an ONNX file has Q/DQ nodes: operator types stand in it as plain text."""
    return _Q_NODE in model


def build_plan(trt: Any, cuda: Cuda | None, onnx: Path, inputs: tuple[TensorSpec, ...], options: BuildOptions) -> Plan:
    """Returns the engine of an ONNX file.

    Args:
        trt: TensorRT's module.
        cuda: Device that it builds on and for; only calibration on images needs it.
        onnx: The ONNX file; external data lies beside it.
        inputs: Its inputs.
        options: How it is built.

    Raises:
        ModelError: TensorRT's parser does not take the file; the message names nodes.
        MismatchError: the scales are those of another model, or this TensorRT cannot do what is asked for.
        InputError: a shape is not fixed, or the calibration images cannot be used.
        EngineError: TensorRT failed; the message holds what it said.
    """
    messages = Messages()
    with warnings.catch_warnings():
        # TensorRT 10 warns of every call of the implicit route; there is no other one on a DLA.
        warnings.simplefilter("ignore", DeprecationWarning)
        return _Build(trt, cuda, onnx, inputs, options, messages).run()


class _Build:
    """The objects of one build, which TensorRT wants alive to its end."""

    def __init__(
        self,
        trt: Any,
        cuda: Cuda | None,
        onnx: Path,
        inputs: tuple[TensorSpec, ...],
        options: BuildOptions,
        messages: Messages,
    ) -> None:
        self._trt = trt
        self._cuda = cuda
        self._onnx = onnx
        self._options = options
        self._messages = messages
        self._inputs = tuple(batch_spec(spec, options.batch) for spec in inputs)
        self._dynamic = any(None in spec.shape for spec in inputs)
        self._logger = make_logger(trt, messages)
        self._feed: Feed | None = None
        self._parser: Any = None
        self._timing_cache: Any = None
        weak = hasattr(trt.BuilderFlag, "INT8")
        self._strong = not weak or (
            options.strongly_typed and hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
        )
        if options.calibration is not None and (self._strong or not can_calibrate(trt)):
            raise MismatchError(
                f"{onnx}: {describe(trt)} takes no calibration for this file, only Q/DQ nodes; build the "
                "INT8 file by `route` explicit"
            )

    def run(self) -> Plan:
        """Returns the engine."""
        trt = self._trt
        if hasattr(trt, "init_libnvinfer_plugins"):
            trt.init_libnvinfer_plugins(self._logger, "")
        builder = self._made(lambda: trt.Builder(self._logger), "builder")
        network = self._made(lambda: builder.create_network(self._creation_flags()), "network")
        self._parse(network)
        config = self._made(builder.create_builder_config, "builder configuration")
        config.set_memory_pool_limit(pool=trt.MemoryPoolType.WORKSPACE, pool_size=int(self._options.workspace_bytes))
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        self._set_precisions(config)
        set_gpus(trt, config, self._options.gpus, self._messages)
        profile = self._add_profile(builder, config)
        self._set_dla(builder, config)
        float_layers = self._keep_in_float(network, config)
        self._keep_in_fp32(network, config)  # last: it overrules FP16
        calibrator = self._set_calibration(network, config, profile)  # config does not keep it alive
        self._load_timing_cache(config)
        with make_progress_monitor(trt, config, f"build {self._onnx.name}") as monitor:
            memory = builder.build_serialized_network(network=network, config=config)
        monitor.finish()
        if self._feed is not None:
            self._feed.finish(self._messages)
        del calibrator
        if memory is None:
            raise EngineError(
                f"{self._onnx}: {describe(trt)} built no engine; {self._messages.said()}; "
                f"{self._messages.advice('EDGEQ_DEBUG=1 shows its whole log')}"
            )
        self._save_timing_cache(config)
        return Plan(
            content=bytes(memory),
            strongly_typed=self._strong,
            missing_scales=tuple(dict.fromkeys(self._messages.missing_scales)),
            float_layers=float_layers,
            cache=None if self._feed is None else self._feed.written,
            inputs=self._inputs,
        )

    def _made(self, make: Callable[[], Any], what: str) -> Any:
        return construct(make, what, self._messages)

    def _creation_flags(self) -> int:
        flags = self._trt.NetworkDefinitionCreationFlag
        if self._strong:
            return 1 << int(flags.STRONGLY_TYPED)
        # TensorRT 8 wants it, 10 ignores it.
        return 1 << int(flags.EXPLICIT_BATCH) if hasattr(flags, "EXPLICIT_BATCH") else 0

    def _parse(self, network: Any) -> None:
        parser = self._made(lambda: self._trt.OnnxParser(network, self._logger), "ONNX parser")
        self._parser = parser  # the network's weights lie in its memory
        if parser.parse(model=self._onnx.read_bytes(), path=str(self._onnx)):
            return
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        shown = "; ".join(_describe(error) for error in errors[:_MAX_PARSER_ERRORS])
        more = f" and {len(errors) - _MAX_PARSER_ERRORS} more" if len(errors) > _MAX_PARSER_ERRORS else ""
        raise ModelError(
            f"{self._onnx}: {describe(self._trt)} cannot take it: {shown or self._messages.said()}{more}; "
            "`edgeq check FILE --target jetson-orin` lists what it accepts"
        )

    def _set_precisions(self, config: Any) -> None:
        flags = self._trt.BuilderFlag
        if not (self._options.int8 or self._options.fp16):
            config.clear_flag(flags.TF32)  # an fp32 engine computes in FP32
        if self._strong:
            return
        if self._options.int8:
            config.set_flag(flags.INT8)
        if self._options.fp16:  # without it, what is not INT8 falls back to FP32
            config.set_flag(flags.FP16)

    def _add_profile(self, builder: Any, config: Any) -> Any:
        """Returns the optimization profile of a network with a free batch dimension, or `None`."""
        if not self._dynamic:
            return None
        profile = self._made(builder.create_optimization_profile, "optimization profile")
        for spec in self._inputs:
            profile.set_shape(input=spec.name, min=spec.shape, opt=spec.shape, max=spec.shape)
        if config.add_optimization_profile(profile) < 0:
            raise EngineError(f"{self._onnx}: TensorRT refused `batch` {self._options.batch}; {self._messages.said()}")
        return profile

    def _set_dla(self, builder: Any, config: Any) -> None:
        core = self._options.dla_core
        if core is None:
            return
        if not 0 <= core < builder.num_DLA_cores:
            raise InputError(
                f"`dla` {core}: {describe(self._trt)} finds {builder.num_DLA_cores} DLA cores here; "
                "omit `dla` to build for the GPU"
            )
        if not self._strong and self._options.int8 and self._options.calibration is None:
            raise MismatchError(
                f"{self._onnx}: a DLA takes no Q/DQ nodes in {describe(self._trt)}; give `route` implicit"
            )
        config.default_device_type = self._trt.DeviceType.DLA
        config.DLA_core = core
        config.set_flag(self._trt.BuilderFlag.GPU_FALLBACK)

    def _keep_in_float(self, network: Any, config: Any) -> tuple[str, ...]:
        """Asks for FP16 in the layers that stay out of INT8, and returns their names."""
        if self._options.calibration is None:
            return ()
        found = self._computing(network, self._options.float_layers)
        for layer in found:
            # Its output type is left alone: that of the network's outputs would change with it.
            layer.precision = self._trt.DataType.HALF
        return self._obeyed(config, self._options.float_layers, found, "float")

    def _keep_in_fp32(self, network: Any, config: Any) -> None:
        """Asks for FP32 in the layers that FP16 cannot compute, and in what they hand on."""
        if self._strong or not self._options.fp16:
            return
        found = self._computing(network, self._options.fp32_layers)
        for layer in found:
            layer.precision = self._trt.DataType.FLOAT
            for index in range(layer.num_outputs):
                if not layer.get_output(index).is_network_output:  # those are FP32 anyway
                    layer.set_output_type(index=index, dtype=self._trt.DataType.FLOAT)
        self._obeyed(config, self._options.fp32_layers, found, "FP32")

    def _computing(self, network: Any, nodes: frozenset[str]) -> list[Any]:
        """Returns the layers of some ONNX nodes that compute float tensors."""
        floats = (self._trt.DataType.FLOAT, self._trt.DataType.HALF)
        found = []
        for layer in _layers(network):
            outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
            computes = layer.type.name not in _NO_COMPUTATION and all(output.dtype in floats for output in outputs)
            if _onnx_node(layer) in nodes and outputs and computes:
                found.append(layer)
        return found

    def _obeyed(self, config: Any, wanted: frozenset[str], found: list[Any], precision: str) -> tuple[str, ...]:
        """Makes TensorRT keep the precisions of layers, and returns the names of their nodes."""
        kept = tuple(dict.fromkeys(_onnx_node(layer) for layer in found))
        if kept and hasattr(self._trt.BuilderFlag, "OBEY_PRECISION_CONSTRAINTS"):
            config.set_flag(self._trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        if lost := wanted.difference(kept):
            names = _few(sorted(lost))
            _log.warning("%s: TensorRT has no layers named %s to keep in %s", self._onnx.name, names, precision)
        return kept

    def _set_calibration(self, network: Any, config: Any, profile: Any) -> Any:
        """Returns the calibrator, or `None` where none is needed; it has to live until the build is done."""
        calibration = self._options.calibration
        if calibration is None:
            return None
        if isinstance(calibration, FromScales):
            self._set_ranges(network, calibration.scales)
            return None
        if len(self._inputs) != 1:
            raise InputError(f"{self._onnx}: has {len(self._inputs)} inputs; TensorRT's calibrators are fed one image")
        (spec,) = self._inputs
        assert self._cuda is not None  # noqa: S101 - a library that calibrates builds on its GPU
        if isinstance(calibration, FromCache):
            self._check_names(network, calibration.cache.bits)
            self._feed = Feed(spec, self._cuda, cache=self._restamped(calibration.cache))
            algorithm = calibration.cache.algorithm
        else:
            self._feed = Feed(spec, self._cuda, images=calibration.images)
            algorithm = calibration.algorithm
        calibrator = make_calibrator(self._trt, algorithm, self._feed)
        config.int8_calibrator = calibrator
        if profile is not None and not config.set_calibration_profile(profile):
            raise EngineError(f"{self._onnx}: TensorRT refused the calibration's shape; {self._messages.said()}")
        return calibrator

    def _restamped(self, cache: CalibrationCache) -> bytes:
        version = str(self._trt.__version__)
        if cache.version != header_version(version):
            _log.info("the calibration cache is of TensorRT %d; it is used as one of %s", cache.version, version)
        return cache.restamped(version).render()

    def _set_ranges(self, network: Any, scales: Mapping[str, float]) -> None:
        self._check_names(network, scales)
        for tensor in _tensors(network):
            scale = scales.get(tensor.name)
            if scale is None or not 0 < scale < np.inf:
                continue
            if not tensor.set_dynamic_range(min=-_LEVELS * scale, max=_LEVELS * scale):
                raise EngineError(f"{self._onnx}: TensorRT refused the range of {tensor.name!r} ({scale * _LEVELS:g})")

    def _check_names(self, network: Any, scales: Iterable[str]) -> None:
        """Refuses scales of another model, and warns of those that fit in part."""
        names = {tensor.name for tensor in _tensors(network)}
        known = names.intersection(scales)
        if not known:
            example = next(iter(scales), None)
            raise MismatchError(
                f"{self._onnx}: none of its {len(names)} tensors has a scale in the calibration, which begins with "
                f"{example!r}; it is that of another model, export it again with this one"
            )
        inputs = [spec.name for spec in self._inputs if spec.name not in known]
        if inputs:
            _log.warning("%s: the calibration has no scale for the input %s", self._onnx.name, ", ".join(inputs))

    def _load_timing_cache(self, config: Any) -> None:
        path = self._options.timing_cache
        if path is None:
            return
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise InputError(f"{path}: the timing cache cannot be read ({error.strerror})") from error
        for attempt in (content, b""):
            cache = config.create_timing_cache(serialized_timing_cache=attempt)
            if cache is not None and config.set_timing_cache(cache=cache, ignore_mismatch=False):
                self._timing_cache = cache
                if attempt != content:
                    _log.warning("%s: is a timing cache of another device or version; it is written again", path)
                return
        raise EngineError(f"TensorRT made no timing cache; {self._messages.said()}")

    def _save_timing_cache(self, config: Any) -> None:
        if self._options.timing_cache is not None:
            write_bytes(self._options.timing_cache, bytes(config.get_timing_cache().serialize()))


def _describe(error: Any) -> str:
    """Returns a parser's error with the node that it is about; TensorRT 8 knows only the node's number."""
    name = error.node_name() if hasattr(error, "node_name") else ""
    kind = error.node_operator() if hasattr(error, "node_operator") else ""
    node = f"node {name or error.node()}{f' ({kind})' if kind else ''}"
    return f"{node}: {' '.join(str(error.desc()).split())}"


def _layers(network: Any) -> Iterator[Any]:
    yield from (network.get_layer(index) for index in range(network.num_layers))


def _tensors(network: Any) -> Iterator[Any]:
    yield from (network.get_input(index) for index in range(network.num_inputs))
    for layer in _layers(network):
        yield from (layer.get_output(index) for index in range(layer.num_outputs))


def _onnx_node(layer: Any) -> str:
    """Returns the name of the ONNX node that a layer comes from: its metadata tells where one node became several."""
    metadata = str(getattr(layer, "metadata", "") or "")
    prefix = "[ONNX Layer: "
    if metadata.startswith(prefix) and metadata.endswith("]"):
        return metadata[len(prefix) : -1]
    return str(layer.name)


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
