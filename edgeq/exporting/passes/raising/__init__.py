"""What a newer opset writes differently, as rules by operator and by the opset that brought the change.

Versions of an operator that only took more types, or attributes whose default is the old behaviour, need no rule. A
rule finds its node in the form before its opset and leaves what is valid in it.
"""

from __future__ import annotations

from edgeq.exporting.passes.node_builder import Rule
from edgeq.exporting.passes.raising.attributes import ATTRIBUTES
from edgeq.exporting.passes.raising.axes import AXES
from edgeq.exporting.passes.raising.before_7 import BEFORE_7
from edgeq.exporting.passes.raising.normalization import NORMALIZATION
from edgeq.exporting.passes.raising.resampling import RESAMPLING

RAISING: dict[tuple[str, int], Rule] = {**ATTRIBUTES, **AXES, **BEFORE_7, **NORMALIZATION, **RESAMPLING}
"""Operator and opset -> the rule that brings a node up to that opset."""
