"""How the weights of a whole model are quantized: a weight method, with AWQ's channel scales before it or without."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.errors import InputError
from edgeq.quantizers import ROUND


@dataclass(frozen=True)
class Recipe:
    """A way to quantize the weights of a model.

    Attributes:
        method: A name of `edgeq.quantizers.WEIGHT_METHODS`.
        scales_channels: Whether the channels of what layers read are scaled first (`edgeq.quantizers.channel_scales`).
        reads_inputs: Whether it goes by what the layers read.
    """

    method: str
    scales_channels: bool = False
    reads_inputs: bool = True


RECIPES = {
    "rtn": Recipe(ROUND, reads_inputs=False),
    "hqq": Recipe("hqq", reads_inputs=False),
    "gptq": Recipe("gptq"),
    "gptq-act-order": Recipe("gptq-act-order"),
    "awq": Recipe("clip", scales_channels=True),
    "awq+gptq": Recipe("gptq-act-order", scales_channels=True),
}
"""What `weight_method` takes: round to nearest, HQQ, GPTQ, the same with the inputs of largest moments first, AWQ, and
AWQ's scales with GPTQ's rounding in this order."""

BY_INPUTS, WITHOUT_INPUTS = "gptq-act-order", "rtn"
"""What is taken where the choice is left open, with inputs of the layers and without: on ViT-d128 at 2 and 3
bits nothing else lost less."""


def get_recipe(name: str) -> Recipe:
    """Returns the recipe of that name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in RECIPES:
        raise InputError(f"`weight_method` {name}: wanted one of {', '.join(RECIPES)}")
    return RECIPES[name]
