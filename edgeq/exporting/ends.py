"""Whether a file has the inputs and outputs of the model that it was made from: names, order, types and shapes."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.errors import ModelError
from edgeq.exporting.tensor_spec import TensorSpec

Specs = tuple[Sequence[TensorSpec], Sequence[TensorSpec]]
"""Inputs and outputs of a model, each in order."""


def require_same_ends(name: str, found: Specs, expected: Specs, *, integers: bool = False) -> None:
    """Checks what is about to be written.

    Args:
        name: What to call it in errors.
        found: Its inputs and outputs.
        expected: Those of the model.
        integers: Whether real numbers may have become integers, because the user asked for it.

    Raises:
        ModelError: they differ; the message says which and how.
    """
    for kind, ours, theirs in zip(("input", "output"), found, expected, strict=True):
        if len(ours) != len(theirs):
            raise ModelError(
                f"{name}: has {len(ours)} {kind}s and the model {len(theirs)} ({_names(theirs)}); "
                "nothing was written, please report the model"
            )
        for position, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            if not _same(one, other, integers):
                raise ModelError(
                    f"{name}: {kind} {position} is {_described(one)}, and that of the model {_described(other)}; "
                    "nothing was written, please report the model"
                )


def _same(one: TensorSpec, other: TensorSpec, integers: bool) -> bool:
    same_type = one.dtype == other.dtype or (integers and one.scale is not None)
    fits = len(one.shape) == len(other.shape) and all(
        wanted is None or wanted == length for length, wanted in zip(one.shape, other.shape, strict=True)
    )
    return one.name == other.name and same_type and fits


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs)


def _described(spec: TensorSpec) -> str:
    shape = ", ".join("?" if length is None else str(length) for length in spec.shape)
    return f"{spec.name!r}, {spec.dtype} ({shape})"
