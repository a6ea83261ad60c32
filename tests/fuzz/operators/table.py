"""The table of makers: operator -> what adds a node of it behind a tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.fuzz.builder import Builder, Value

Make = Callable[[Builder, Value], Value]


@dataclass(frozen=True)
class Maker:
    """What adds an operator to a graph.

    Attributes:
        operator: Its name, or that of a pattern of several operators, in lower case.
        make: Adds it behind a tensor, and returns what it gives.
        weight: How often it is drawn, compared with others.
        jumps: Whether its result jumps where its input changes a little.
        takes: Type of the tensor that it takes: `float`, `bool` or `integer`.
    """

    operator: str
    make: Make
    weight: int = 1
    jumps: bool = False
    takes: str = "float"


MAKERS: dict[str, Maker] = {}


def maker(
    *operators: str, weight: int = 1, jumps: bool = False, takes: str = "float"
) -> Callable[[Callable[..., Value]], Callable[..., Value]]:
    """Registers a function as the maker of operators; one of several gets the operator's name as third argument."""

    def register(make: Callable[..., Value]) -> Callable[..., Value]:
        for operator in operators:

            def one(b: Builder, x: Value, operator: str = operator) -> Value:
                return make(b, x) if len(operators) == 1 else make(b, x, operator)

            assert operator not in MAKERS, operator
            MAKERS[operator] = Maker(operator, one, weight, jumps, takes)
        return make

    return register
