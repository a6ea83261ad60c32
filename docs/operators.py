"""Writes docs/operators.md: what each target's files do with each ONNX operator.

Nothing is declared here: every operator is exported in a separate small model, and the files are read. `make docs`
runs it; tests/test_operators_page.py tries some rows again.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.files import write_text
from tests.fuzz.builder import UnsuitableError
from tests.fuzz.choices import Choices, Repeated, Seeded
from tests.fuzz.exports import TARGETS, Exports, FaultError, RefusedError, quiet
from tests.fuzz.grammar import OPSETS as DRAWN_OPSETS
from tests.fuzz.grammar import alone
from tests.fuzz.operators import MAKERS

if TYPE_CHECKING:
    import onnx

PAGE = Path(__file__).parents[1] / "docs" / "operators.md"

OPSETS = (17, 18, 20, 21, 22, 23, 24, 13, 9, 7)
"""Of the models; the first that has the operator."""

NOT_TRIED = {
    "text": ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"),
    "files of images inside a model": ("ImageDecoder",),
    "no input to compute with": ("RandomNormal", "RandomUniform"),
    "a function over sequences, which no vision model has": ("SequenceMap",),
    "newer than any opset that an engine here reads": (
        "BitCast", "CausalConvWithState", "CumProd", "LinearAttention", "SwiGLU",
    ),
}  # fmt: skip
"""Why no model is made of an operator -> the operators."""

_HEAD = """<!-- Written by `make docs` (docs/operators.py), from files that are exported there; do not edit. -->
# Operators

What `edgeq export` writes of each ONNX operator in an INT8 file of each target. Each was exported in a separate
small model, between two layers. In a larger model it can differ: the manifest says why a layer stays in float
(`float_nodes`).

- **INT8**: a layer that reads integers, or an operator that hands integers on. With `as`, by other operators.
- **float**: it computes in float, between a DequantizeLinear and a QuantizeLinear if its neighbours are in INT8.
- **as X, Y**: it is written by these operators, which compute the same.
- **folded**: it is computed once, when the file is written.
- **refused**: with the reason below the table.

Files of `arm` are the ONNX ones here; TFLite has other operators. Files of `rtx` are those of `jetson-orin-trt11`.
"""

_DRAWN = """## Drawn by the fuzzer

`python -m tests.fuzz` draws models from these operators, several behind one another, and checks every file that is
written of them. The numbers are of ONNX's operators that are not deprecated in that opset.
"""


@dataclass(frozen=True)
class Row:
    """What targets do with one operator.

    Attributes:
        operator: Its name.
        cells: Target -> what its INT8 file has of it.
        refusals: Target -> why it has no file.
    """

    operator: str
    cells: Mapping[str, str]
    refusals: Mapping[str, str]

    @property
    def line(self) -> str:
        """The row of the table."""
        return f"| {self.operator} | " + " | ".join(self.cells[target] for target in TARGETS) + " |"


def operators() -> list[str]:
    """Returns ONNX's operators that are not deprecated, by name."""
    import onnx

    found = {each.name for each in onnx.defs.get_all_schemas() if each.domain == "" and not each.deprecated}
    return sorted(found - {"Constant"})


def row(operator: str) -> Row | None:
    """Returns what targets do with an operator; `None` if no model is made of it."""
    import onnx

    try:
        subject = alone(operator, Repeated(()), OPSETS)
    except (UnsuitableError, KeyError):
        return None
    cells, refusals = {}, {}
    source = [node.op_type for node in subject.model.graph.node]
    with tempfile.TemporaryDirectory() as folder, quiet():
        exports = Exports(subject, Path(folder))
        for target in TARGETS:
            try:
                (file,) = exports.files(target, ["int8"])
                cells[target] = cell(operator, source, onnx.load(file.artifact.path).graph)
            except RefusedError as refusal:
                cells[target], refusals[target] = "refused", refusal.message
            except FaultError as fault:
                cells[target], refusals[target] = "fails", fault.detail
    return Row(operator, cells, refusals)


def cell(operator: str, source: Sequence[str], integers: onnx.GraphProto) -> str:
    """Returns what an INT8 file has of an operator.

    Args:
        operator: Its name.
        source: The operators of the model.
        integers: The INT8 file.
    """
    own = [node for node in integers.node if node.op_type == operator]
    if own:
        return "INT8" if any(_in_integers(node, integers) for node in own) else "float"
    beside = {*source, *_BESIDE, *(_OF_MATMUL if operator != "MatMul" else ())}
    further = [node for node in integers.node if node.op_type not in beside]
    if not further:
        return "folded"
    words = ", ".join(dict.fromkeys(node.op_type for node in further))
    return f"INT8 as {words}" if any(_in_integers(node, integers) for node in further) else f"as {words}"


_BESIDE = ("QuantizeLinear", "DequantizeLinear", "Cast", "Constant")
_OF_MATMUL = ("Reshape", "Gemm")
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add")


def _in_integers(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """A layer reads integers; what hands them on reads and writes those of one scale."""
    makers = {name: each for each in graph.node for name in each.output}
    computed = [makers[name] for name in node.input if name in makers]
    if not computed or any(each.op_type != "DequantizeLinear" for each in computed):
        return False
    if node.op_type in _LAYERS:
        return True
    readers = [each for each in graph.node if set(each.input).intersection(node.output)]
    return any(each.op_type == "QuantizeLinear" and each.input[1] == computed[0].input[1] for each in readers)


@dataclass(frozen=True)
class Coverage:
    """What the fuzzer can draw in files of one opset.

    Attributes:
        opset: The opset.
        drawn: Operators of ONNX that some model has.
        missing: Those that none has.
    """

    opset: int
    drawn: frozenset[str]
    missing: frozenset[str]

    @classmethod
    def of(cls, opset: int) -> Coverage:
        """Returns that of an opset, from one small model of each maker that fits; constants are in every model."""
        import onnx

        found: set[str] = set()
        sources: tuple[Choices, ...] = (Repeated(()), *map(Seeded, range(3)))
        for maker, choices in itertools.product(MAKERS, sources):
            if maker not in found:
                with contextlib.suppress(UnsuitableError):
                    found.update(node.op_type for node in alone(maker, choices, [opset]).model.graph.node)
        latest: dict[str, onnx.defs.OpSchema] = {}
        for each in onnx.defs.get_all_schemas_with_history():
            if not each.domain and each.since_version <= opset:
                latest[each.name] = max(each, latest.get(each.name, each), key=lambda one: one.since_version)
        every = {name for name, each in latest.items() if not each.deprecated} - {"Constant"}
        return cls(opset, frozenset(found & every), frozenset(every - found))

    @property
    def line(self) -> str:
        """The row of the table."""
        return f"| {self.opset} | {len(self.drawn)} of {len(self.drawn | self.missing)} |"


def page(rows: Sequence[Row], untried: Sequence[str], coverages: Sequence[Coverage]) -> str:
    """Returns the whole page.

    Args:
        rows: What was tried.
        untried: Operators of ONNX that no model was made of.
        coverages: What the fuzzer can draw, by opset.
    """
    names = [f"`{target}`" for target in TARGETS]
    lines = [_HEAD, f"| Operator | {' | '.join(names)} |", "|" + "---|" * (len(names) + 1), *(row.line for row in rows)]
    if any(each.refusals for each in rows):
        lines += ["", "## Refused", "", *_refused(rows)]
    why = {operator: reason for reason, operators in NOT_TRIED.items() for operator in operators}
    lines += ["", "## Not tried", ""]
    lines += [f"- {operator}: {why.get(operator, '?')}" for operator in untried]
    lines += ["", _DRAWN, "| Opset | Operators that are drawn |", "|---:|---:|", *(each.line for each in coverages)]
    return "\n".join(lines) + "\n"


def _refused(rows: Sequence[Row]) -> list[str]:
    """Returns a line for each reason, with the operators and targets, and the first one's words."""
    operators: dict[str, dict[str, list[str]]] = {}
    words: dict[str, str] = {}
    for each in rows:
        for target, message in each.refusals.items():
            reason = re.sub(r"'[^']*'|[0-9]+|" + each.operator, "", message)
            words.setdefault(reason, message)
            operators.setdefault(reason, {}).setdefault(each.operator, []).append(target)
    lines = []
    for reason, targets in operators.items():
        named = [
            f"{operator} ({'all targets' if len(found) == len(TARGETS) else ', '.join(found)})"
            for operator, found in targets.items()
        ]
        lines.append(f"- {', '.join(named)}: `{words[reason]}`")
    return lines


def main() -> None:
    """Writes the page."""
    found = {operator: row(operator) for operator in operators()}
    rows = [each for each in found.values() if each is not None]
    untried = [operator for operator, each in found.items() if each is None]
    write_text(PAGE, page(rows, untried, [Coverage.of(opset) for opset in sorted(DRAWN_OPSETS)]))


if __name__ == "__main__":
    main()
