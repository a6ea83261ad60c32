"""What stays in float of a TFLite file in its own terms: operators by name, by regular expression, or by kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeq.errors import InputError
from edgeq.exporting.planning.keep import kept_by

if TYPE_CHECKING:
    from edgeq.exporting.tflite.graph import Graph, Operator


def resolve_operators(graph: Graph, keep: Sequence[str]) -> dict[str, str]:
    """Returns name of an operator, which is that of its first output, -> why it stays in float.

    Args:
        graph: A float graph whose tensors have names of their own.
        keep: Names of operators, regular expressions over the whole name, or kinds.

    Raises:
        InputError: an entry is no regular expression or matches nothing.
    """
    kept: dict[str, str] = {}
    for pattern in keep:
        matched = named_operators(graph, pattern) or _matching(graph, pattern)
        if not matched:
            names = ", ".join(operator_name(graph, operator) for operator in graph.operators[:5])
            raise InputError(f"`keep` {pattern!r}: matches no operator; they are named by their outputs, like {names}")
        kept.update(dict.fromkeys(matched, kept_by(pattern)))
    return kept


def named_operators(graph: Graph, name: str) -> list[str]:
    """Returns the names of the operators of a name or kind."""
    names = ((operator_name(graph, operator), operator.kind) for operator in graph.operators)
    return [found for found, kind in names if name in (found, kind)]


def operator_name(graph: Graph, operator: Operator) -> str:
    """Returns what an operator is called: as its first output."""
    return graph.tensors[operator.outputs[0]].name


def _matching(graph: Graph, pattern: str) -> list[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"`keep` {pattern!r}: is not a regular expression ({error})") from None
    names = (operator_name(graph, operator) for operator in graph.operators)
    return [name for name in names if expression.fullmatch(name)]
