"""A classifier that the command line can name, `tests.api.nets:Classifier`, and a program can hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LABELS = ("ant", "bee", "cat", "dog", "emu")


class Classifier(nn.Module):
    """Two convolutions with BatchNorm and Dropout, and a linear layer; always with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.features = nn.Sequential(
                nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()
            )
            self.dropout = nn.Dropout(0.5)
            self.head = nn.Linear(16, len(LABELS))

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.dropout(self.features(images).mean((2, 3))))
        return scores
