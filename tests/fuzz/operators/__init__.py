"""Makers of nodes, one for each operator and for patterns of several, by name in `MAKERS`."""

from __future__ import annotations

from tests.fuzz.operators import control, elementwise, layers, moves, patterns, reductions
from tests.fuzz.operators.table import MAKERS, Maker

__all__ = ["MAKERS", "Maker", "control", "elementwise", "layers", "moves", "patterns", "reductions"]
