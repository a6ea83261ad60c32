"""An engine on the disk: the plan and the manifest that says what it was built from and for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import edgeq
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.file_pair import pair_written
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.files import write_bytes
from edgeq.runtimes.tensorrt.build_options import BuildOptions, FromCache, FromImages, FromScales
from edgeq.runtimes.tensorrt.builder import Plan
from edgeq.runtimes.tensorrt.facts import BuildFacts, Platform
from edgeq.runtimes.tensorrt.library import TENSORRT, Library

_SCALES_FROM = {FromCache: "cache", FromImages: "images", FromScales: "ranges"}


def save_engine(
    source: Artifact,
    path: Path,
    plan: Plan,
    options: BuildOptions,
    platform: Platform,
    built_from: Mapping[str, str],
    layers: Mapping[str, int] | None = None,
    library: Library = TENSORRT,
) -> Artifact:
    """Returns the engine's artifact, after writing the plan and its manifest.

    Args:
        source: The ONNX file that it was built from.
        path: Where the engine goes.
        plan: The engine.
        options: What it was built by.
        platform: What it was built on.
        built_from: File name -> SHA-256 of everything that went in.
        layers: Precision -> number of layers, where they have been counted.
        library: What it was built with.

    Raises:
        InputError: it cannot be written.
    """
    explicit = options.int8 and options.calibration is None
    facts = BuildFacts(
        platform=platform,
        route="explicit" if explicit else "implicit" if options.int8 else "float",
        strongly_typed=plan.strongly_typed,
        scales_from=_SCALES_FROM.get(type(options.calibration)) if options.calibration is not None else None,
        built_from=dict(built_from),
        dla_core=options.dla_core,
        missing_scales=plan.missing_scales,
        float_layers=plan.float_layers,
        layers=dict(layers or {}),
        library=library.module,
        gpus=options.gpus,
    )
    by_flags = "int8" if options.int8 else "fp16" if options.fp16 else "fp32"
    with pair_written(path):
        write_bytes(path, plan.content)
        engine = dataclasses.replace(
            source,
            path=path,
            format=library.engines,
            precision=(source.precision or by_flags) if plan.strongly_typed else by_flags,
            inputs=plan.inputs,
            outputs=tuple(_with_batch(spec, options.batch) for spec in source.outputs),
            quantization={**source.quantization, **facts.to_json()},
            tools={
                "edgeq": edgeq.__version__,
                library.runtime: platform.tensorrt,
                **({"cuda": platform.cuda} if platform.cuda else {}),
            },
        )
        return engine.save()


def _with_batch(spec: TensorSpec, batch: int) -> TensorSpec:
    """Returns an output whose free first dimension is the batch; others become known when it runs."""
    shape = tuple(batch if axis == 0 and length is None else length for axis, length in enumerate(spec.shape))
    return dataclasses.replace(spec, shape=shape)
