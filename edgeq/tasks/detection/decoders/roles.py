"""What every decoder asks of a `Postprocessing`: its outputs by role, and its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing


def pick_outputs(
    outputs: Mapping[str, np.ndarray], post: Postprocessing, defaults: Mapping[str, str]
) -> dict[str, NDArray[np.float32]]:
    """Returns role -> output as float32.

    Args:
        outputs: Output name -> array.
        post: Names the output of each role.
        defaults: Role -> name where `post` names none. A decoder with a single role takes a model's only output,
            whatever its name.

    Raises:
        ModelError: the model has no output of that name.
        InputError: `post` names a role that the decoder does not have.
    """
    unknown = post.outputs.keys() - defaults.keys()
    if unknown:
        raise InputError(f"decoder {post.decoder}: has no role {sorted(unknown)[0]!r}, only {', '.join(defaults)}")
    picked = {}
    for role, default in defaults.items():
        name = post.outputs.get(role, default)
        if role not in post.outputs and len(defaults) == len(outputs) == 1:
            (name,) = outputs
        if name not in outputs:
            raise ModelError(
                f"decoder {post.decoder}: the model has no output {name!r} for the role {role!r}; found "
                f"{describe(outputs)}. Name the output of each role in the preset ([postprocessing.outputs])"
            )
        picked[role] = np.asarray(outputs[name], np.float32)
    return picked


def pick_options(post: Postprocessing, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the decoder's options: those that `post` sets, and the defaults of the rest.

    Args:
        post: The options that are set.
        defaults: Name -> default, whose type is that of the option: a number, `True` or `False` (0 and 1 will do), a
            name, or a tuple of numbers, which `post` gives as lists, nested as the decoder says.

    Raises:
        InputError: an option is unknown or of another type.
    """
    for name in post.options:
        if name not in defaults:
            known = f"only {', '.join(defaults)}" if defaults else "nor any other"
            raise InputError(f"decoder {post.decoder}: has no option {name!r}, {known}")
    return dict(defaults) | {
        name: _option(f"decoder {post.decoder}: option {name!r}", value, defaults[name])
        for name, value in post.options.items()
    }


def _option(what: str, value: Any, default: Any) -> Any:
    if isinstance(default, bool):
        fits, wanted = value in (0, 1), "true or false"
    elif isinstance(default, str):
        fits, wanted = isinstance(value, str), "a name"
    elif isinstance(default, tuple):
        fits, wanted = _is_array(value), "numbers in a list"
    else:
        fits, wanted = _is_number(value), "a number"
    if not fits:
        raise InputError(f"{what} is {value!r}, wanted {wanted}")
    return bool(value) if isinstance(default, bool) else _as_tuple(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_array(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(_is_number(each) or _is_array(each) for each in value)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, (list, tuple)) else value


def describe(outputs: Mapping[str, np.ndarray]) -> str:
    """Returns the outputs' names and shapes for an error."""
    return ", ".join(f"{name} {array.shape}" for name, array in outputs.items())
