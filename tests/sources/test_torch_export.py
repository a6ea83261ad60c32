"""torch modules as ONNX graphs: what the terminal shows, and what is said of those that cannot be traced."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from edgeq.errors import ModelError
from edgeq.sources.torch_export import export_torch

IMAGE = torch.zeros(1, 3, 8, 8)


class Branching(nn.Module):
    """Takes one of two ways by the values of the image; torch.export prints the code that it could trace."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.conv(image)
        return found if found.mean() > 0 else -found


class Talking(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        print("shape", image.shape)
        print("warning", file=sys.stderr)
        return image + 1


class Counting(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image + torch.ones(len(image), 3, 1, 1)


def test_a_batch_that_the_module_fixes_is_not_called_free() -> None:
    with pytest.raises(ModelError, match=r"Counting fixes the number of images .* image.shape\[0\] instead, or omit"):
        export_torch(Counting().eval(), IMAGE, (), opset=18, dynamic_batch=True)
    export_torch(Counting().eval(), IMAGE, (), opset=18)


def test_a_way_that_depends_on_values_is_one_line_with_its_place(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError) as error:
        export_torch(Branching().eval(), IMAGE, (), opset=18)
    assert str(error.value).startswith(
        "Branching cannot be exported to ONNX for an input of shape (1, 3, 8, 8): what it does in test_torch_export.py:"
    )
    assert "(return found if found.mean() > 0 else -found) depends on the values of the image" in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_what_a_module_prints_stays_off_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    export_torch(Talking().eval(), IMAGE, (), opset=18)
    assert capfd.readouterr() == ("", "")
