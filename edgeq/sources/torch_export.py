"""torch -> ONNX with the dynamo exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import require_onnx, specs
from edgeq.exporting.passes.cleaning import clean
from edgeq.exporting.passes.gelu import fuse_gelu
from edgeq.exporting.passes.opset import lower_opset

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    import torch

_NATIVE_OPSET = 18
"""The lowest opset that the dynamo exporter writes itself; lower ones are converted afterwards."""


def export_torch(
    module: torch.nn.Module,
    example: torch.Tensor,
    output_names: Sequence[str],
    *,
    opset: int,
    dynamic_batch: bool = False,
) -> ir.Model:
    """Returns the cleaned ONNX graph of a torch module.

    LayerNorm is one operator at every opset, GELU (exact and tanh) from 20 on, scaled_dot_product_attention from 23 on.
    Below, GELU is written in the order of operators that ONNX Runtime fuses.

    Args:
        module: In eval mode, one image batch in, one tensor or a tuple of tensors out.
        example: An input `(1, 3, H, W)`, float32.
        output_names: Names of the outputs, in order; missing ones are called `output_N`.
        opset: ONNX opset, 17 to 24.
        dynamic_batch: Whether the batch dimension stays free; height and width are always fixed.

    Raises:
        ModelError: the module cannot be traced, has no equivalent in that opset, or fixes a batch that should be free.
        MissingDependencyError: the `export` extra is not installed.
    """
    require_onnx("exporting a torch model")
    import onnx_ir as ir
    import torch

    # The exporter specialises on a batch of one, so a free batch has to be traced with two.
    traced = example.repeat(2, 1, 1, 1) if dynamic_batch else example
    with quiet_export():
        try:
            with torch.no_grad():
                outputs = module(traced)
            count = len(outputs) if isinstance(outputs, (tuple, list)) else 1
            names = [output_names[i] if i < len(output_names) else f"output_{i}" for i in range(count)]
            model = ir.from_proto(_program(module, traced, names, max(opset, _NATIVE_OPSET), dynamic_batch))
        # The exporter raises errors of many kinds, from its own tree to plain RuntimeError.
        except Exception as error:
            raise ModelError(
                f"{type(module).__name__} cannot be exported to ONNX for an input of shape {tuple(example.shape)}: "
                f"{last_cause(error)}"
            ) from error
    clean(model)
    if dynamic_batch and specs(model.graph.inputs)[0].shape[0] is not None:
        raise ModelError(
            f"{type(module).__name__} fixes the number of images while it is traced, as len(image) does; take "
            "image.shape[0] instead, or omit `dynamic_batch`"
        )
    if opset < _NATIVE_OPSET:
        lower_opset(model, opset)
        clean(model)
    fuse_gelu(model)
    return model


def _program(
    module: torch.nn.Module, example: torch.Tensor, output_names: Sequence[str], opset: int, dynamic_batch: bool
) -> onnx.ModelProto:
    import torch

    program = torch.onnx.export(
        module,
        (example,),
        input_names=["image"],
        output_names=output_names,
        opset_version=opset,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None,
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # noqa: S101 - only with `f=` given does it return nothing
    return program.model_proto


def last_cause(error: BaseException) -> str:
    """Returns in one line what the exporter, or torch.export below it, failed at."""
    while error.__cause__ is not None:
        error = error.__cause__
    if type(error).__name__ == "GuardOnDataDependentSymNode":
        return (
            f"what it does{_place(error)} depends on the values of the image, which torch.export cannot trace; write "
            "it with torch.where and with shapes that are fixed"
        )
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _place(error: BaseException) -> str:
    """Returns the innermost line of a traceback outside torch, which is the network's; nothing if there is none."""
    import torch

    own = (f"{Path(torch.__file__).parent}{os.sep}", __file__, "<")
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(own)]
    return f" in {Path(lines[-1].filename).name}:{lines[-1].lineno} ({lines[-1].line})" if lines else ""


@contextlib.contextmanager
def quiet_export() -> Iterator[None]:
    """Keeps the exporter's progress prints, deprecation notes and version chatter off the user's terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    heard = io.StringIO()
    # Of a graph that it cannot finish, torch.export prints the code on stderr.
    with warnings.catch_warnings(), contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
