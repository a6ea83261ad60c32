"""Subgraphs, sequences, optional values, and operators on integers of quantized files."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.fuzz.builder import Builder, Value
from tests.fuzz.operators.layers import as_rank, scaled
from tests.fuzz.operators.table import maker


@maker("If", weight=2)
def if_(b: Builder, x: Value) -> Value:
    """Two branches that read a tensor of the graph around them; the condition depends on the image or on nothing."""
    branches = []
    for number, operator in enumerate(("Relu", "Neg")):
        name = f"branch{number}_{len(b.nodes)}"
        node = helper.make_node(operator, [x.name], [name], f"{name}_node")
        result = helper.make_tensor_value_info(name, x.kind, None if b.free_batch else x.shape)
        branches.append(helper.make_graph([node], name, [], [result]))
    if b.chance(40):
        condition = b.constant(np.array(True))
    else:
        total = b.node("Mul", [b.node("Size", [x]), b.constant(np.int64(2))])
        condition = b.node("Greater", [b.node("Cast", [total], to=TensorProto.FLOAT), b.constant(np.float32(1))])
    b.read.add(x.name)
    return b.many(
        "If", [condition], 1, shapes=[x.shape], kinds=[x.kind], then_branch=branches[0], else_branch=branches[1]
    )[0]


@maker("Loop")
def loop(b: Builder, x: Value) -> Value:
    stem = f"loop{len(b.nodes)}"
    names = [f"{stem}_{part}" for part in ("step", "go", "in", "out", "stay")]
    nodes = [
        helper.make_node("Tanh", [names[2]], [names[3]], f"{stem}_tanh"),
        helper.make_node("Identity", [names[1]], [names[4]], f"{stem}_go_on"),
    ]
    state = None if b.free_batch else x.shape
    body = helper.make_graph(
        nodes,
        stem,
        [
            helper.make_tensor_value_info(names[0], TensorProto.INT64, []),
            helper.make_tensor_value_info(names[1], TensorProto.BOOL, []),
            helper.make_tensor_value_info(names[2], x.kind, state),
        ],
        [
            helper.make_tensor_value_info(names[4], TensorProto.BOOL, []),
            helper.make_tensor_value_info(names[3], x.kind, state),
        ],
    )
    count, go = b.constant(np.int64(2)), b.constant(np.array(True))
    return b.many("Loop", [count, go, x], 1, shapes=[x.shape], kinds=[x.kind], body=body)[0]


@maker("Scan")
def scan(b: Builder, x: Value) -> Value:
    b.since(9)
    b.require(x.rank >= 3 and not b.free_batch)
    stem = f"scan{len(b.nodes)}"
    names = [f"{stem}_{part}" for part in ("sum_in", "row", "sum", "out")]
    rows = [x.shape[0], *x.shape[2:]]
    nodes = [
        helper.make_node("Add", names[:2], [names[2]], f"{stem}_add"),
        helper.make_node("Tanh", [names[2]], [names[3]], f"{stem}_tanh"),
    ]
    body = helper.make_graph(
        nodes,
        stem,
        [helper.make_tensor_value_info(name, x.kind, rows) for name in names[:2]],
        [helper.make_tensor_value_info(name, x.kind, rows) for name in names[2:]],
    )
    start = b.constant(np.zeros(rows, np.float32))
    outputs = b.many(
        "Scan", [start, x], 2, shapes=[rows, x.shape], kinds=[x.kind] * 2,
        body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1],
    )  # fmt: skip
    return outputs[1]


def _sequence(b: Builder, operator: str, inputs: list[Any], **attributes: Any) -> Value:
    """Returns a value that is a sequence; nothing but operators for sequences may read it."""
    b.since(11)
    return b.many(operator, inputs, 1, shapes=[[]], kinds=[TensorProto.UNDEFINED], **attributes)[0]


@maker("SequenceConstruct", "SequenceAt", "SequenceInsert", "SequenceErase", "SequenceEmpty", "ConcatFromSequence",
       "SequenceLength")  # fmt: skip
def sequence(b: Builder, x: Value, operator: str) -> Value:
    b.require(x.rank >= 2)
    other = b.node("Relu", [x])
    if operator == "SequenceEmpty":
        made = _sequence(b, "SequenceEmpty", [])
        made = _sequence(b, "SequenceInsert", [made, x])
    else:
        made = _sequence(b, "SequenceConstruct", [x, other])
    if operator == "SequenceInsert":
        made = _sequence(b, operator, [made, x, b.constant(np.int64(0))])
    elif operator == "SequenceErase":
        made = _sequence(b, operator, [made, b.constant(np.int64(0))])
    elif operator == "ConcatFromSequence":
        shape = [x.shape[0], 2 * x.shape[1], *x.shape[2:]]
        return b.many(operator, [made], 1, shapes=[shape], kinds=[x.kind], axis=1)[0]
    elif operator == "SequenceLength":
        return b.many(operator, [made], 1, shapes=[[]], kinds=[TensorProto.INT64])[0]
    return b.many("SequenceAt", [made, b.constant(np.int64(0))], 1, shapes=[x.shape], kinds=[x.kind])[0]


@maker("SplitToSequence")
def split_to_sequence(b: Builder, x: Value) -> Value:
    axis = b.axis(x)
    b.require(x.shape[axis] >= 2)
    made = _sequence(b, "SplitToSequence", [x], axis=axis)
    shape = list(x.shape)
    shape[axis] = 1
    return b.many("SequenceAt", [made, b.constant(np.int64(1))], 1, shapes=[shape], kinds=[x.kind])[0]


@maker("Optional", "OptionalGetElement", "OptionalHasElement")
def optional(b: Builder, x: Value, operator: str) -> Value:
    b.since(18)
    made = b.many("Optional", [x], 1, shapes=[[]], kinds=[TensorProto.UNDEFINED])[0]
    if operator == "OptionalHasElement":
        return b.many(operator, [made], 1, shapes=[[]], kinds=[TensorProto.BOOL])[0]
    return b.many("OptionalGetElement", [made], 1, shapes=[x.shape], kinds=[x.kind])[0]


@maker("QuantizeLinear", "DequantizeLinear", weight=0)
def pair(b: Builder, x: Value, operator: str) -> Value:
    b.since(10)
    scale, zero = b.constant(np.float32(0.03)), b.constant(np.uint8(128))
    return b.node("DequantizeLinear", [b.node("QuantizeLinear", [x, scale, zero]), scale, zero])


@maker("DynamicQuantizeLinear", weight=0)
def dynamic(b: Builder, x: Value) -> Value:
    b.since(11)
    return b.node("DequantizeLinear", b.many("DynamicQuantizeLinear", [x], 3))


@maker("MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", weight=0)
def integers(b: Builder, x: Value, operator: str) -> Value:
    b.since(10)
    scale, zero = b.constant(np.float32(0.03)), b.constant(np.uint8(128))
    is_conv = "Conv" in operator
    x = as_rank(b, x, 4 if is_conv else 2)
    steps = b.node("QuantizeLinear", [x, scale, zero])
    fan_in = 9 * x.shape[1]
    array = scaled(b, 4, x.shape[1], 3, 3, fan_in=fan_in) if is_conv else scaled(b, x.shape[1], 4, fan_in=x.shape[1])
    weight = b.constant(np.clip(np.rint(array * 60), -127, 127).astype(np.int8))
    if operator.startswith("QLinear"):
        own = [b.constant(np.float32(1 / 60)), b.constant(np.int8(0)), scale, zero]
        found = b.node(operator, [steps, scale, zero, weight, *own])
        return b.node("DequantizeLinear", [found, scale, zero])
    total = b.node(operator, [steps, weight, zero])
    return b.node("Mul", [b.node("Cast", [total], to=TensorProto.FLOAT), b.constant(np.float32(0.03 / 60))])


OWN_DOMAIN = "fuzz.local"


@maker("a function of the file")
def function(b: Builder, x: Value) -> Value:
    b.since(13)
    return b.many("Twice", [x], 1, shapes=[x.shape], kinds=[x.kind], domain=OWN_DOMAIN)[0]


def own_function(opset: int) -> onnx.FunctionProto:
    """Returns what a file has to hold whose nodes call it."""
    nodes = [helper.make_node("Add", ["x", "x"], ["sum"], "n0"), helper.make_node("Tanh", ["sum"], ["y"], "n1")]
    return helper.make_function(OWN_DOMAIN, "Twice", ["x"], ["y"], nodes, [helper.make_opsetid("", opset)])
