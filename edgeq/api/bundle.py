"""`edgeq.export_bundle`: a Hugging Face folder as a model in parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from edgeq.api.arguments import FilePath, optional_path, path, require_positive
from edgeq.bundles.export import BundleRequest
from edgeq.bundles.export import export_bundle as write_bundle
from edgeq.bundles.manifest import Bundle
from edgeq.bundles.samples import read_samples
from edgeq.targets import for_runtime


def export_bundle(
    model: FilePath,
    target: str = "x86",
    *,
    runtime: str | None = None,
    preset: str | None = None,
    part: Sequence[str] = (),
    keep: Sequence[str] = (),
    calib: FilePath | None = None,
    tokenizer: FilePath | None = None,
    out: FilePath = "artifacts",
    threads: int | None = None,
) -> Bundle:
    """Returns a language or vision-language model in parts, each compared with PyTorch and in its own precision.

    The files are those that `edgeq export` writes of a Hugging Face folder.

    Args:
        model: A local Hugging Face folder. Nothing is downloaded, and its code is never run.
        target: `x86`, `x86-openvino` or `x86-ort`.
        runtime: For `x86`, the engine that files are planned for: `openvino` (the default) or `onnxruntime`.
        preset: `asymmetric`, `uniform-8` or `uniform-4`; by default everything is FP32.
        part: Precisions of single parts, `PART=PRECISION` each, such as `decoder=w4g128-gptq`.
        keep: Layers of parts with few bits that stay in float: names, regular expressions, or operator types.
        calib: What to calibrate on: a text file, or an `.npz` of arrays by input.
        tokenizer: Folder of the tokenizer, if it is not the model's; `none` for a model without.
        out: Folder for the bundle; one that is there is replaced.
        threads: CPU threads; by default all.

    Raises:
        InputError: a file is missing, or an argument cannot be used; nothing is written.
        ModelError: the model brings code, or cannot be exported.
        MissingDependencyError: transformers is not installed.
    """
    require_positive(threads, "threads")
    samples = optional_path(calib, "calib")
    request = BundleRequest(
        path(model, "model"),
        for_runtime(target, runtime),
        preset,
        tuple(part),
        tuple(keep),
        None if samples is None else partial(read_samples, samples),
        None if tokenizer is None else str(path(tokenizer, "tokenizer")),
        threads,
    )
    return write_bundle(request, path(out, "out"))
