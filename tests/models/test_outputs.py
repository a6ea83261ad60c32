"""Models that return more than tensors: the output that is chosen, and its name."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeq.errors import ModelError
from edgeq.models.outputs import tensor_outputs

IMAGE = torch.linspace(-1, 1, 12).view(1, 3, 2, 2)


@dataclass
class PlainOutput:
    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class OutputDict(OrderedDict[str, Any]):
    """As transformers' ModelOutput: its values are attributes too, and those that are None are no items."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Returning(nn.Module):
    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.wrap = wrap

    def forward(self, image: Tensor) -> Any:
        return self.wrap(image * self.scale)


@pytest.mark.parametrize(
    ("wrap", "expected", "name"),
    [
        (lambda x: OutputDict(last_hidden_state=x, logits=x + 1), IMAGE + 1, "logits"),
        (lambda x: OutputDict(last_hidden_state=x, pooler_output=x + 1, image_embeds=x + 2), IMAGE + 2, "embedding"),
        (lambda x: PlainOutput(x, x + 1, (x,)), IMAGE + 1, "embedding"),
        (PlainOutput, IMAGE, "last_hidden_state"),
        (lambda x: {"loss": None, "logits": x}, IMAGE, "logits"),
        (lambda x: {"scores": x, "hidden_states": (x,)}, IMAGE, "scores"),
    ],
)
def test_one_output_is_chosen_and_named(wrap, expected, name):
    chosen = tensor_outputs(Returning(wrap).eval(), IMAGE)
    assert chosen.output_names == (name,)
    torch.testing.assert_close(chosen(IMAGE), expected)


def test_an_unknown_dict_gives_all_its_tensors():
    chosen = tensor_outputs(Returning(lambda x: {"hm": x, "wh": x + 1, "note": "text"}), IMAGE)
    assert chosen.output_names == ("hm", "wh")
    torch.testing.assert_close(chosen(IMAGE), (IMAGE, IMAGE + 1))


@pytest.mark.parametrize(
    ("wrap", "names", "expected"),
    [
        (lambda x: OutputDict(logits=x, pred_boxes=x + 1, aux=(x,)), ("logits", "pred_boxes"), (IMAGE, IMAGE + 1)),
        (lambda x: (x, [x + 1, x + 2]), ("output_0", "output_1_0", "output_1_1"), (IMAGE, IMAGE + 1, IMAGE + 2)),
        (lambda x: [{"boxes": x, "note": "text"}, None], ("output_0_boxes",), IMAGE),
        (lambda x: {"levels": (x, x + 1), "size": 3}, ("levels_0", "levels_1"), (IMAGE, IMAGE + 1)),
    ],
)
def test_tensors_inside_tuples_lists_and_dicts_are_outputs(wrap, names, expected):
    chosen = tensor_outputs(Returning(wrap).eval(), IMAGE)
    assert chosen.output_names == names
    torch.testing.assert_close(chosen(IMAGE), expected)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, x), lambda x: [x]])
def test_tensors_stay_as_they_are(wrap):
    module = Returning(wrap)
    assert tensor_outputs(module, IMAGE) is module


@pytest.mark.parametrize(
    ("wrap", "found"), [(lambda x: {"text": "a"}, r"dict \(text\)"), (lambda x: 3, r"int \(no fields\)")]
)
def test_no_tensor_is_one_clear_line(wrap, found):
    with pytest.raises(ModelError, match=rf"Returning returns an object of type {found}; wanted a tensor, a tuple"):
        tensor_outputs(Returning(wrap), IMAGE)


@pytest.mark.parametrize("wrap", [lambda x: PlainOutput(x, x + 1), lambda x: OutputDict(logits=x)])
def test_what_is_chosen_can_be_exported(wrap):
    program = torch.export.export(tensor_outputs(Returning(wrap).eval(), IMAGE), (IMAGE,))
    torch.testing.assert_close(
        program.module()(IMAGE), wrap(IMAGE).get("logits") if isinstance(wrap(IMAGE), dict) else IMAGE + 1
    )
