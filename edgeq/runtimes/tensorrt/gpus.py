"""GPUs: that of this machine, and the kinds that a library builds for by name (`SM86` for compute capability 8.6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeq.errors import EngineError, InputError
from edgeq.runtimes.cuda import Cuda, driver_problem, open_cuda
from edgeq.runtimes.tensorrt.library import TENSORRT_RTX, Library, Messages, describe

_ORIN = "SM87"
_FIRST_WITH = {"fp8": 89, "w4": 80, "fp4": 120}
"""Precision of a file -> the first compute capability that computes it; others are computed by all."""


def open_gpu(library: Library, binding: str | None = None) -> Cuda:
    """Returns the GPU of this machine.

    Args:
        library: What is to use it, for the error.
        binding: A CUDA binding; by default the first that works.

    Raises:
        InputError: there is no such binding.
        EngineError: there is no GPU, or no driver or binding for it.
    """
    try:
        return open_cuda(binding)
    except EngineError as error:
        if not library.names_gpus or (problem := driver_problem()) is None:
            raise
        raise EngineError(
            f"{library.title} runs on a GPU with NVIDIA's driver, and {problem}; install the driver (`nvidia-smi` "
            "lists the GPU once it works)"
        ) from error


def known_gpus(trt: Any) -> tuple[str, ...]:
    """Returns the names of the kinds of GPU that a library builds for, the oldest first."""
    return tuple(sorted((name for name in trt.ComputeCapability.__members__ if name.startswith("SM")), key=_number))


def gpu_of(compute_capability: str) -> str:
    """Returns a compute capability as libraries name it: `8.6`, `86`, and `sm86` are `SM86`."""
    return f"SM{compute_capability.strip().upper().removeprefix('SM').replace('.', '')}"


def this_gpu(trt: Any, binding: str | None = None) -> str:
    """Returns the kind of GPU that this machine has, as the library names it.

    Args:
        trt: The library.
        binding: A CUDA binding; by default the first that works.

    Raises:
        InputError: it has none, or one that the library does not build for.
    """
    try:
        facts = open_gpu(TENSORRT_RTX, binding).facts()
    except EngineError as error:
        example = ",".join(known_gpus(trt)[-3:-1]).lower()
        raise InputError(f"`sm`: say which GPUs to build for (`sm` {example}), because {error}") from error
    return parse_gpus(trt, [facts.compute_capability])[0]


def parse_gpus(trt: Any, names: Sequence[str]) -> tuple[str, ...]:
    """Returns kinds of GPU as the library names them, each once.

    Args:
        trt: The library.
        names: As users write them: `sm86`, `86` or `8.6`.

    Raises:
        InputError: the library does not build for one of them.
    """
    known = known_gpus(trt)
    found = [gpu_of(name) for name in names]
    for name, wanted in zip(names, found, strict=True):
        if wanted not in known:
            advice = "choose of these"
            if wanted == _ORIN:
                advice = (
                    "engines for Orin are built on the board, from files of `target` jetson-orin; sm86 is the nearest"
                )
            raise InputError(f"`sm` {name}: {describe(trt)} builds for {', '.join(known).lower()}; {advice}")
    return tuple(dict.fromkeys(found))


def require_precision(file: str, precision: str, gpus: Sequence[str]) -> None:
    """Checks that GPUs compute what a file is written in.

    Args:
        file: The file, for the error.
        precision: Its precision.
        gpus: Kinds of GPU, as `parse_gpus` returns them.

    Raises:
        InputError: one does not.
    """
    first = _FIRST_WITH.get(precision, 0)
    if older := [name for name in gpus if _number(name) < first]:
        raise InputError(
            f"{file}: is written in {precision}, which GPUs from sm{first} on compute, and "
            f"{', '.join(older).lower()} is asked for; omit it from `sm`, or export with `precision` int8"
        )


def _number(name: str) -> int:
    return int(name.removeprefix("SM"))


def set_gpus(trt: Any, config: Any, names: Sequence[str], messages: Messages) -> None:
    """Makes a build one for some kinds of GPU.

    Args:
        trt: The library.
        config: The build's configuration.
        names: The kinds; none leaves it to the library.
        messages: What the library says meanwhile.

    Raises:
        EngineError: the library refuses one.
    """
    if not names:
        return
    config.num_compute_capabilities = len(names)  # first: while it is 0 none can be set
    for index, name in enumerate(names):
        kind = getattr(trt.ComputeCapability, name)
        if not config.set_compute_capability(compute_capability=kind, index=index):
            raise EngineError(f"{describe(trt)} refused {name}; {messages.said()}")
