"""What every decoder asks of a `Postprocessing`: its outputs by role, and its options."""

from __future__ import annotations

from collections.abc import Mapping

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


def pick_options(post: Postprocessing, defaults: Mapping[str, float]) -> dict[str, float]:
    """Returns the decoder's options: those that `post` sets, and the defaults of the rest.

    Raises:
        InputError: an option is unknown or not a number.
    """
    for name, value in post.options.items():
        if name not in defaults:
            known = f"only {', '.join(defaults)}" if defaults else "nor any other"
            raise InputError(f"decoder {post.decoder}: has no option {name!r}, {known}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"decoder {post.decoder}: option {name!r} is {value!r}, wanted a number")
    return {**defaults, **post.options}


def describe(outputs: Mapping[str, np.ndarray]) -> str:
    """Returns the outputs' names and shapes for an error."""
    return ", ".join(f"{name} {array.shape}" for name, array in outputs.items())
