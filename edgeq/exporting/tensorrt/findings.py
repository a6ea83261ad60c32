"""What the rules of `edgeq check` find, and what they know of the engine that a graph is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeq.exporting.tensorrt.qdq import Pairs

if TYPE_CHECKING:
    import onnx_ir as ir

Version = tuple[int, int]
"""Major and minor version of TensorRT."""

Severity = Literal["error", "advice"]


@dataclass(frozen=True)
class Finding:
    """A rule that a graph breaks.

    Attributes:
        rule: Its number, `T1` to `T16`.
        severity: `error` or `advice`.
        node: Name of the node; empty for the whole graph.
        sentence: What was found and what is wanted.
    """

    rule: str
    severity: Severity
    node: str
    sentence: str


@dataclass(frozen=True)
class Builder:
    """The TensorRT that a graph is for.

    Attributes:
        version: Its version.
        strongly_typed: Whether it computes every tensor in the type that the file gives it.
    """

    version: Version
    strongly_typed: bool

    @property
    def pairs(self) -> Pairs:
        """Where it sees Q/DQ pairs."""
        return Pairs(self.strongly_typed)

    @property
    def misplaced(self) -> Severity:
        """How severe a pair is that is no use: weak typing refuses it or guesses; strong typing computes floats."""
        return "advice" if self.strongly_typed else "error"


def finding(rule: str, severity: Severity, node: ir.Node, said: str) -> Finding:
    """Returns a finding about a node; `said` goes on where its operator and name end."""
    return Finding(rule, severity, str(node.name), f"{node.op_type} {node.name} {said}")
