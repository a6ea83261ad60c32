"""What is said of a model that is neither a file nor a name that edgeq knows."""

from __future__ import annotations

from pathlib import Path

from edgeq.errors import InputError
from edgeq.inputs.presets import preset_names
from edgeq.models.names import is_zoo_name, zoo_names
from edgeq.wording import did_you_mean

__all__ = ["require_known", "zoo_names"]

_CHECKPOINTS = (".pt", ".pth", ".ckpt", ".safetensors")


def known_names() -> list[str]:
    """Returns the names of the zoo, which MODEL may be instead of a file."""
    return zoo_names()


def require_known(reference: str) -> None:
    """Returns if a model that is no file of ours is a name of the zoo or `package.module:factory`.

    Raises:
        InputError: it is neither; the message says what to give instead.
    """
    if is_zoo_name(reference) or ":" in reference:
        return
    if Path(reference).suffix in _CHECKPOINTS:
        raise InputError(
            f"{reference}: a checkpoint of torch does not say what network it is of; export it to ONNX with the tool "
            "that trained it (of ultralytics: yolo export format=onnx), or name the network and give this file as "
            "`weights`"
        )
    near = did_you_mean(reference, zoo_names())
    if not near and reference.lower() in preset_names():
        raise InputError(
            f"{reference} is a family of models; give a file of such a model, exported to .onnx or .tflite with the "
            "tool that trained it, and its family is recognised"
        )
    raise InputError(
        f"unknown model {reference!r}; {near}wanted an .onnx or .tflite file, "
        f"package.module:factory, or one of: {', '.join(zoo_names())}"
    )
