"""Which operator gets which precision, on graphs made by hand: the rules by their numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pytest

from edgeq.errors import InputError
from edgeq.exporting.graphs.moves import TFLITE_MOVES_VALUES
from edgeq.exporting.tflite.graph import Graph, Operator, Tensor
from edgeq.exporting.tflite.keep import resolve_operators
from edgeq.exporting.tflite.plan import (
    Schemes,
    mixed_ranges,
    needed_tensors,
    observed_tensors,
    select_everywhere,
    select_operators,
    tied,
)
from edgeq.schemes import DYNAMIC_INT8, FLOAT, LayerScheme
from edgeq.targets.tflite import INT8, INT16X8, LITERT
from tests import tflite_nets

Line = tuple[str, str, Sequence[str]]
"""An operator: its output, its kind, its inputs; those that nothing computes are constants, but for `image`."""


def graph(*lines: Line, outputs: Sequence[str] = ()) -> Graph:
    """Returns a float graph that takes `image`; by default the last tensor is its output."""
    names = ["image"]
    for made, _, given in lines:
        names += [name for name in (*given, *made.split()) if name not in names]
    computed = {name for made, _, _ in lines for name in made.split()} | {"image"}
    number = {name: index for index, name in enumerate(names)}
    tensors = tuple(
        Tensor(index, name, (1, 8, 8, 4), "float32", name not in computed) for index, name in enumerate(names)
    )
    operators = tuple(
        Operator(index, kind, tuple(number[name] for name in given), tuple(number[name] for name in made.split()))
        for index, (made, kind, given) in enumerate(lines)
    )
    return Graph(tensors, operators, (0,), tuple(number[name] for name in outputs or (lines[-1][0],)))


def precisions(found: Graph, **options: object) -> dict[str, str]:
    return {decision.name: decision.scheme.name for decision in select_operators(found, **options).values()}  # type: ignore[arg-type]


def conv(made: str, given: str, kind: str = "CONV_2D") -> Line:
    return made, kind, (given, f"w_{made}", f"b_{made}")


BODY = (conv("a", "image"), conv("b", "a"))


def test_layers_are_int8_and_the_last_one_of_a_head_is_dynamic() -> None:
    found = graph(*BODY, conv("hm", "b"), conv("c", "b"), ("wh", "TRANSPOSE_CONV", ("shape", "w", "c", "bias")),
                  outputs=("hm", "wh"))  # fmt: skip
    assert precisions(found) == {"a": "int8", "b": "int8", "hm": "dynamic", "c": "int8", "wh": "dynamic"}
    assert precisions(found, integer_heads=True) == dict.fromkeys(("a", "b", "hm", "c", "wh"), "int8")


@pytest.mark.parametrize(
    "behind",
    [
        [("y", "LOGISTIC", ("h",))],
        [("t", "TRANSPOSE", ("h", "p")), ("r", "RESHAPE", ("t", "s")), ("y", "CONCATENATION", ("r",))],
        [("t", "MUL", ("h", "k")), ("u", "ADD", ("t", "o")), ("y", "EXP", ("u",))],
    ],
)
def test_a_head_is_found_behind_what_decodes_it(behind: list[Line]) -> None:
    assert precisions(graph(*BODY, conv("h", "b"), *behind))["h"] == "dynamic"


def test_a_sum_of_two_maps_before_an_output_is_no_head() -> None:
    found = graph(*BODY, conv("c", "b"), ("y", "ADD", ("c", "b")))
    assert precisions(found) == {"a": "int8", "b": "int8", "c": "int8", "y": "float"}


def test_a_classifiers_last_layer_is_int8() -> None:
    found = graph(*BODY, ("m", "MEAN", ("b", "axes")), ("y", "FULLY_CONNECTED", ("m", "w", "bias")))
    assert precisions(found) == {"a": "int8", "b": "int8", "m": "int8", "y": "int8"}


@pytest.mark.parametrize("function", ["LOGISTIC", "TANH", "GELU", "HARD_SWISH", "ELU"])
def test_a_layer_before_a_function_that_is_no_relu_is_dynamic_and_float_where_it_is_depthwise(function: str) -> None:
    found = graph(
        conv("a", "image"), ("s", function, ("a",)), conv("d", "s", "DEPTHWISE_CONV_2D"), ("t", function, ("d",)),
        conv("c", "t"), conv("y", "c"),
    )  # fmt: skip
    assert precisions(found) == {"a": "dynamic", "d": "float", "c": "int8", "y": "dynamic"}


def test_relu_stays_between_int8_layers() -> None:
    found = graph(*BODY, ("r", "RELU", ("b",)), conv("c", "r"), conv("y", "c"))
    assert precisions(found)["r"] == precisions(found)["c"] == "int8"


def test_a_residual_sum_between_int8_layers_is_int8() -> None:
    found = graph(*BODY, ("sum", "ADD", ("b", "a")), conv("c", "sum"), conv("y", "c"))
    assert precisions(found)["sum"] == "int8"


def test_what_leads_to_no_int8_layer_is_float() -> None:
    found = graph(*BODY, ("sum", "ADD", ("b", "a")), ("p", "MAX_POOL_2D", ("sum",)), ("y", "SOFTMAX", ("p",)))
    assert precisions(found) == {"a": "int8", "b": "int8", "sum": "float", "p": "float"}


def test_what_reads_a_float_map_is_float() -> None:
    found = graph(*BODY, ("e", "EXP", ("b",)), ("sum", "ADD", ("e", "a")), conv("c", "sum"), conv("y", "c"))
    # `b` stands before a function, so it is dynamic, and gives real numbers.
    assert precisions(found) == {"a": "int8", "b": "dynamic", "sum": "float", "c": "int8", "y": "dynamic"}


def test_a_transformers_residual_stream_is_float() -> None:
    def linear(made: str, given: str) -> Line:
        return conv(made, given, "FULLY_CONNECTED")

    def norm(made: str, given: str) -> list[Line]:
        return [
            (f"{made}1", "MEAN", (given, "axes")), (f"{made}2", "SUB", (given, f"{made}1")),
            (f"{made}3", "MUL", (f"{made}2", f"{made}2")), (f"{made}4", "MEAN", (f"{made}3", "axes")),
            (f"{made}5", "ADD", (f"{made}4", "epsilon")), (f"{made}6", "RSQRT", (f"{made}5",)),
            (made, "MUL", (f"{made}2", f"{made}6")),
        ]  # fmt: skip

    found = graph(
        conv("patches", "image"), ("x", "ADD", ("patches", "positions")), *norm("n", "x"), linear("qkv", "n"),
        ("soft", "SOFTMAX", ("qkv",)), linear("o", "soft"), ("x2", "ADD", ("x", "o")), *norm("m", "x2"),
        linear("up", "m"), ("g", "GELU", ("up",)), linear("down", "g"), ("x3", "ADD", ("x2", "down")),
        *norm("k", "x3"), linear("y", "k"),
    )  # fmt: skip
    found_precisions = precisions(found)
    by_kind = {decision.name: decision.op_type for decision in select_operators(found).values()}
    assert {name for name, kind in by_kind.items() if kind == "FULLY_CONNECTED"} == {"qkv", "o", "up", "down", "y"}
    for name, kind in by_kind.items():
        wanted = {"FULLY_CONNECTED": "int8", "CONV_2D": "int8"}.get(kind, "float")
        assert found_precisions[name] == ("dynamic" if name == "up" else wanted), name


@pytest.mark.parametrize("kind", ["ADD", "MUL"])
def test_an_operand_that_is_constant_keeps_an_operator_in_float(kind: str) -> None:
    found = graph(*BODY, ("k", kind, ("b", "offset")), conv("c", "k"), conv("y", "c"))
    assert precisions(found)["k"] == "float"


def test_padding_directly_behind_the_image_is_int8_and_arithmetic_is_not() -> None:
    padded = graph(("p", "PAD", ("image", "pads")), conv("a", "p"), conv("y", "a"))
    assert precisions(padded)["p"] == "int8"
    scaled = graph(("p", "MUL", ("image", "image")), conv("a", "p"), conv("y", "a"))
    assert precisions(scaled)["p"] == "float"


def test_what_computes_positions_is_no_question_of_precision() -> None:
    """A GridSample adds up indices, in integers."""
    found = graph(
        *BODY, ("where", "ADD", ("b", "a")), ("g", "GATHER_ND", ("b", "where")), conv("c", "g"), conv("y", "c")
    )
    whole = tuple(dataclasses.replace(each, dtype="int32") if each.name == "where" else each for each in found.tensors)
    assert "where" in precisions(found)
    assert "where" not in precisions(dataclasses.replace(found, tensors=whole))


def test_a_layer_whose_weight_is_computed_is_float() -> None:
    found = graph(*BODY, ("c", "CONV_2D", ("b", "a")), conv("y", "c"))
    assert precisions(found)["c"] == "float"
    assert select_operators(found)[2].reason == "its weight is not a constant"
    assert "c" not in {decision.name for decision in select_everywhere(found, DYNAMIC_INT8).values()}


JOINED = graph(
    conv("a", "image"), conv("b", "a"), conv("c", "a"), ("p", "MAX_POOL_2D", ("b",)),
    ("j", "CONCATENATION", ("p", "c")), conv("d", "j"), conv("y", "d"),
)  # fmt: skip


@pytest.mark.parametrize(("wide", "apart"), [(2.0, False), (1000.0, True)])
def test_a_concatenation_of_mixed_ranges_goes_apart(wide: float, apart: bool) -> None:
    decisions = select_operators(JOINED)
    assert decisions[4].scheme == INT8
    widths: Mapping[str, float] = {"p": 1.0, "c": wide}
    found = mixed_ranges(JOINED, decisions, widths)
    assert found == ({4} if apart else set())
    decisions = select_operators(JOINED, apart=found)
    assert decisions[4].scheme == (FLOAT if apart else INT8)
    static = [JOINED.operators[index] for index, decision in decisions.items() if decision.scheme == INT8]
    groups = [{JOINED.tensors[index].name for index in members} for members in tied(JOINED, static)]
    assert ({"b", "p"} if apart else {"b", "p", "c", "j"}) in groups
    assert {"a"} in groups and {"image"} in groups


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("b", {"b"}),  # a whole name: `b`, although others have the letter
        ("DEPTHWISE_CONV_2D", {"deep"}),
        ("CONV_2D", {"a", "b", "y"}),
        ("[ab]", {"a", "b"}),
        ("sum", {"sum"}),
    ],
)
def test_what_is_kept_stays_in_float(pattern: str, kept: set[str]) -> None:
    found = graph(*BODY, conv("deep", "b", "DEPTHWISE_CONV_2D"), ("sum", "ADD", ("deep", "a")), conv("y", "sum"))
    names = resolve_operators(found, [pattern])
    decisions = select_operators(found, names)
    assert kept <= {decision.name for decision in decisions.values() if decision.scheme == FLOAT}
    assert {decision.name for decision in decisions.values() if decision.reason == f"kept by {pattern!r}"} == kept
    for scheme in (DYNAMIC_INT8, INT16X8):
        assert not kept & {decision.name for decision in select_everywhere(found, scheme, names).values()}


def test_what_reads_a_kept_layer_only_is_float_too() -> None:
    found = graph(*BODY, ("p", "MAX_POOL_2D", ("b",)), conv("c", "p"), conv("y", "c"))
    assert precisions(found, kept={"b": "asked for"})["p"] == "float"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("no such", "`keep` 'no such': matches no operator; they are named by their outputs, like a, b"),
        ("(", r"`keep` '\(': is not a regular expression"),
    ],
)
def test_a_wrong_keep_is_told(pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_operators(graph(*BODY), [pattern])


def test_one_precision_everywhere() -> None:
    found = graph(*BODY, conv("d", "b", "DEPTHWISE_CONV_2D"), ("p", "MAX_POOL_2D", ("d",)), conv("c", "p"),
                  ("up", "TRANSPOSE_CONV", ("shape", "w", "c")), ("y", "LOGISTIC", ("up",)))  # fmt: skip

    def names(scheme: LayerScheme, schemes: Schemes = LITERT) -> set[str]:
        decisions = select_everywhere(found, scheme, schemes=schemes)
        assert {decision.scheme for decision in decisions.values()} == {scheme}
        return {decision.name for decision in decisions.values()}

    assert names(DYNAMIC_INT8) == {"a", "b", "c", "up"}
    assert names(DYNAMIC_INT8, {**LITERT, "TRANSPOSE_CONV": (INT8,)}) == {"a", "b", "c"}
    assert names(INT16X8) == {"a", "b", "d", "p", "c", "up"}


def test_only_what_is_computed_is_observed_and_needed() -> None:
    found = graph(("p", "PAD", ("image", "pads")), conv("a", "p"), ("q", "MAX_POOL_2D", ("a",)), conv("b", "q"),
                  conv("hm", "b"), ("y", "LOGISTIC", ("hm",)))  # fmt: skip
    assert observed_tensors(found) == ["image", "a", "b", "hm", "y"]
    decisions = select_operators(found)
    assert needed_tensors(found, decisions, integer_io=False) == ["image", "a", "b"]
    assert needed_tensors(found, select_operators(found, integer_heads=True), integer_io=True) == [
        "image",
        "a",
        "b",
        "y",
    ]


def test_a_real_detector() -> None:
    """CenterNet: all in INT8 but the last layer of each head."""
    found = precisions(tflite_nets.centernet().graph)
    assert {name for name, precision in found.items() if precision != "int8"} == {"hm", "wh", "reg"}
    assert [found[name] for name in ("hm", "wh", "reg")] == ["dynamic"] * 3
    assert len(found) == len(tflite_nets.centernet().graph.operators)


def test_a_real_classifier() -> None:
    graph_ = tflite_nets.mobile().graph
    found = {
        decision.op_type + str(number): decision.scheme.name for number, decision in select_operators(graph_).items()
    }
    assert [name for name, precision in found.items() if precision == "dynamic"] == [
        f"CONV_2D{graph_.producer[operator.inputs[0]].index}"
        for operator in graph_.operators if operator.kind == "LOGISTIC"
    ]  # fmt: skip
    assert [precision for name, precision in found.items() if "CONCAT" in name or "MEAN" in name] == ["int8"] * 2


def test_every_operator_that_moves_values_has_schemes() -> None:
    assert LITERT.keys() >= TFLITE_MOVES_VALUES


def test_what_a_target_does_not_declare_stays_in_float() -> None:
    schemes = {kind: known for kind, known in LITERT.items() if kind not in ("CONV_2D", "ADD")}
    found = graph(*BODY, conv("deep", "b", "DEPTHWISE_CONV_2D"), ("sum", "ADD", ("deep", "deep")), conv("y", "sum"))
    decisions = {decision.name: decision for decision in select_operators(found, schemes=schemes).values()}
    assert decisions["a"].reason == "the target leaves CONV_2D in float" and decisions["deep"].scheme == INT8
    assert "sum" not in decisions
    assert not select_everywhere(found, DYNAMIC_INT8, schemes=schemes)
