"""`edgeq.export_checkpoint`: a Hugging Face folder with weights of few bits."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgeq.api.arguments import FilePath, Listener, path, reporting, require_positive
from edgeq.verbs.export_checkpoint import CheckpointResult
from edgeq.verbs.export_checkpoint import export_checkpoint as write


def export_checkpoint(
    folder: FilePath,
    format: str,
    precision: str = "w4",
    *,
    out: FilePath,
    group_size: int | None = None,
    weight_method: str | None = None,
    skip: str | Iterable[str] | None = None,
    calib: FilePath | np.ndarray | None = None,
    num: int | None = None,
    threads: int | None = None,
    progress: Listener = None,
) -> CheckpointResult:
    """Returns what was written: a Hugging Face folder with the weights of its linear layers in few bits.

    The folder is the one that `edgeq export FOLDER --format gptq` writes with the same arguments.

    Args:
        folder: A local Hugging Face folder with weights in `.safetensors`. Its code is never run.
        format: `gptq`, `awq` or `compressed-tensors`.
        precision: `w2`, `w4` or `w8`; `awq` takes `w4`, `compressed-tensors` `w4` and `w8`.
        out: The new folder: absent or empty.
        group_size: Inputs of a layer that share a scale, 16 to 256; by default 128.
        weight_method: `rtn`, `hqq` (format `awq`), `gptq`, `gptq-act-order`, `awq` or `awq+gptq`; by default
            `gptq-act-order` with `calib`, and `rtn` without.
        skip: What stays in FP16: a part (`vision`, `connector`, `lm_head`, `decoder`), a module's name or its
            beginning, a type (`Linear`), a regular expression, or several of them; by default vision, connector and
            lm_head.
        calib: What decoders read to calibrate on: numbers of tokens `(sequences, length)`, a `.npy` file of them, or a
            text file, which the folder's tokenizer reads.
        num: Maximum number of sequences; by default 64.
        threads: CPU threads of torch.
        progress: Called for each job, returns an `edgeq.Progress`.

    Raises:
        InputError: an argument cannot be used, or the folder is not whole; nothing is written.
        ModelError: a file is damaged, or transformers cannot build the decoder.
        MissingDependencyError: a method reads inputs, and transformers is not installed.
    """
    require_positive(num, "num")
    require_positive(threads, "threads")
    with reporting(progress):
        return write(
            path(folder, "folder"),
            path(out, "out"),
            layout=format,
            precision=precision,
            group_size=group_size,
            weight_method=weight_method,
            skip=(skip,) if isinstance(skip, str) else None if skip is None else tuple(skip),
            calib=calib if calib is None or isinstance(calib, np.ndarray) else path(calib, "calib"),
            num=num,
            threads=threads,
        )
