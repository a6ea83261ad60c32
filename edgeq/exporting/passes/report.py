"""What a pass says it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RewriteReport:
    """What an exact rewrite did.

    Attributes:
        done: Names of what was rewritten, in graph order: nodes, or inputs and outputs where a pass is for them.
        left: Node name -> reason, for those that the rewrite is for but could not be applied to.
    """

    done: tuple[str, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether the graph is another one now."""
        return bool(self.done)
