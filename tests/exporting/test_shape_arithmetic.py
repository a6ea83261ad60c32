"""Shape arithmetic becomes constants: wholly for a fixed batch, all but the batch for a free one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.exporting.graphs.graph import constant
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.passes.order import SIMPLIFYING, for_engine, for_integers, reading, run_passes
from edgeq.exporting.planning.plan import make_plan
from edgeq.exporting.planning.selection import observed_tensors, select_layers
from edgeq.targets import get_target
from tests.exporting import nets
from tests.exporting.test_qdq import ranges_for

OPSET = 18
CONV = {"w": nets.normal(1, 8, 3, 3, 3)}

VIEW = """g (float[N,3,6,10] x) => (float[N,5] y) <int64[1] first = {0}, int64[1] rest = {-1}> {
    a = Conv<pads=[1,1,1,1]>(x, w)
    shape = Shape(a)
    n = Gather(shape, first)
    target = Concat<axis=0>(n, rest)
    flat = Reshape(a, target)
    y = MatMul(flat, m)
}"""
SHUFFLE = """g (float[N,3,6,10] x) => (float[N,8,6,10] y)
<int64 zero = {0}, int64 one = {1}, int64 last = {-1}, int64 groups = {2}, int64[1] axis = {0}> {
    a = Conv<pads=[1,1,1,1]>(x, w)
    shape = Shape(a)
    n = Gather(shape, zero)
    c = Gather(shape, one)
    part = Div(c, groups)
    n1 = Unsqueeze(n, axis)
    g1 = Unsqueeze(groups, axis)
    c1 = Unsqueeze(c, axis)
    part1 = Unsqueeze(part, axis)
    sizes = Shape<start=2>(a)
    apart = Concat<axis=0>(n1, g1, part1, sizes)
    grouped = Reshape(a, apart)
    turned = Transpose<perm=[0,2,1,3,4]>(grouped)
    together = Concat<axis=0>(n1, c1, sizes)
    b = Reshape(turned, together)
    y = Conv<pads=[1,1,1,1]>(b, w8)
}"""
WINDOWS = """g (float[N,3,6,10] x) => (float[N,3,6,10] y)
<int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}, int64[1] large = {9},
 int64[1] h = {3}, int64[1] w_ = {5}, int64[1] left = {-1}> {
    shape = Shape(x)
    n = Slice(shape, zero, one)
    c = Slice(shape, one, two)
    rows = Slice(shape, two, three)
    columns = Slice(shape, three, large)
    down = Div(rows, h)
    across = Div(columns, w_)
    apart = Concat<axis=0>(n, c, down, h, across, w_)
    tiles = Reshape(x, apart)
    turned = Transpose<perm=[0,2,4,1,3,5]>(tiles)
    count = Mul(n, down)
    windows = Mul(count, across)
    joined = Concat<axis=0>(windows, c, h, w_)
    stack = Reshape(turned, joined)
    b = Sigmoid(stack)
    stacked = Shape(b)
    again = Slice(stacked, zero, one)
    per_image = Mul(down, across)
    images = Div(again, per_image)
    back = Concat<axis=0>(images, down, across, c, h, w_)
    split = Reshape(b, back)
    unturned = Transpose<perm=[0,3,1,4,2,5]>(split)
    whole = Concat<axis=0>(left, c, rows, columns)
    y = Reshape(unturned, whole)
}"""
LEFT_OVER = WINDOWS.replace("Reshape(turned, joined)", "Reshape<allowzero=0>(turned, tiled)").replace(
    "int64[1] zero", "int64[4] tiled = {-1, 3, 3, 5}, int64[1] zero"
)
DOUBLE = """g (float[N,3,6,10] x) => (float[N,8,H,W] y)
<int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}, float factor = {FACTOR}> {
    a = Conv<pads=[1,1,1,1]>(x, w)
    shape = Shape(a)
    kept = Slice(shape, zero, two)
    sides = Slice(shape, two, four)
    real = Cast<to=1>(sides)
    larger = Mul(real, factor)
    whole = Floor(larger)
    lengths = Cast<to=7>(whole)
    sizes = Concat<axis=0>(kept, lengths)
    up = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(a, , , sizes)
    y = Conv<pads=[1,1,1,1]>(up, w8)
}"""
PYRAMID = """g (float[N,3,6,10] x) => (float[N,8,6,10] y)
<int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}> {
    a = Conv<pads=[1,1,1,1]>(x, w)
    b = Conv<pads=[1,1,1,1], strides=[2,2]>(a, w8)
    here = Shape(b)
    kept = Slice(here, zero, two)
    there = Shape(a)
    sides = Slice(there, two, four)
    sizes = Concat<axis=0>(kept, sides)
    up = Resize<mode="linear", keep_aspect_ratio_policy="stretch">(b, , , sizes)
    y = Add(a, up)
}"""
EXPANDED = """g (float[N,3,6,10] x) => (float[N,3,6,10] y)
<int64[4] wanted = {-1, 3, -1, 10}, int64[4] minus = {-1, -1, -1, -1}, int64[1] ones = {4}> {
    shape = Shape(x)
    free = Equal(wanted, minus)
    target = Where(free, shape, wanted)
    b = Expand(x, target)
    y = Relu(b)
}"""
HALF = """g (float[N,3,6,10] x) => (float[N,8,6,5] y)
<int64 three = {3}, int64 two = {2}, int64[1] axis = {0}, int64[1] zero = {0}, int64[1] along = {3}> {
    a = Conv<pads=[1,1,1,1]>(x, w)
    shape = Shape(a)
    width = Gather(shape, three)
    middle = Div(width, two)
    end = Unsqueeze(middle, axis)
    y = Slice(a, zero, end, along)
}"""
PADDLE = """g (float[N,3,6,10] x) => (float[N,480] y)
<int32[1] rest = {-1}, int64[1] zero = {0}, int64[1] one = {1}> {
    a = Conv<pads=[1,1,1,1]>(x, w)
    shape = Shape(a)
    short = Cast<to=6>(shape)
    n = Slice(short, zero, one, zero)
    both = Concat<axis=0>(n, rest)
    target = Cast<to=7>(both)
    y = Reshape(a, target)
}"""
GROUPS = """g (float[N,3,6,10] x) => (float[N,8,6,10] y) <int64[3] grouped = {0, 4, -1}> {
    a = Conv<pads=[1,1,1,1]>(x, w)
    groups = Reshape(a, grouped)
    normed = InstanceNormalization(groups, ones, zeros)
    shape = Shape(a)
    y = Reshape(normed, shape)
}"""
FLAT = """g (float[N,3,6,10] x) => (float[N,K] y) <int64[1] zero = {0}, int64[1] one = {1}, int64[1] four = {4}> {
    a = Conv<pads=[1,1,1,1]>(x, w)
    shape = Shape(a)
    n = Slice(shape, zero, one)
    others = Slice(shape, one, four)
    count = ReduceProd<keepdims=1>(others)
    target = Concat<axis=0>(n, count)
    y = Reshape(a, target)
}"""
SAME = """g (float[N,3,6,10] x) => (float[N,8,H,W] y)
<int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64 three = {3}, int64[1] axis = {0},
 int64[6] none = {0, 0, 0, 0, 0, 0}> {
    shape = Shape(x)
    height = Gather(shape, two)
    more = Add(height, one)
    halves = Div(more, two)
    steps = Sub(halves, one)
    reach = Mul(steps, two)
    needed = Add(reach, three)
    missing = Sub(needed, height)
    rows = Max(missing, zero)
    below = Unsqueeze(rows, axis)
    right = Unsqueeze(one, axis)
    pads = Concat<axis=0>(none, below, right)
    p = Pad(x, pads)
    y = Conv<strides=[2,2]>(p, w)
}"""
BRANCH = """g (float[N,3,6,10] x) => (float[N,480] y)
<int64 one = {1}, int64[1] zero = {0}, int64[1] rest = {-1}> {
    a = Conv<pads=[1,1,1,1]>(x, w)
    shape = Shape(a)
    c = Gather(shape, one)
    single = Equal(c, one)
    b = If(single) <then_branch = t () => (float[N,8,6,10] t1) { t1 = Identity(a) },
                    else_branch = e () => (float[N,8,6,10] e1) { e1 = Relu(a) }>
    n = Gather(shape, zero)
    target = Concat<axis=0>(n, rest)
    y = Reshape(b, target)
}"""
ROWS = """g (float[N,3,6,10] x) => (float[N,8,6,10] y)
<int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64[3] axes = {0, 1, 3}> {
    a = Conv<pads=[1,1,1,1]>(x, w)
    shape = Shape(a)
    height = Gather(shape, two)
    range = Range(zero, height, one)
    real = Cast<to=1>(range)
    rows = Unsqueeze(real, axes)
    y = Add(a, rows)
}"""
PIECES = """g (float[N,3,6,10] x) => (float[N,60,8] y) <int64[1] rest = {-1}> {
    a = Conv<pads=[1,1,1,1]>(x, w)
    shape = Shape(a)
    n, c, h, v = Split<axis=0, num_outputs=4>(shape)
    target = Concat<axis=0>(n, c, rest)
    flat = Reshape(a, target)
    y = Transpose<perm=[0,2,1]>(flat)
}"""
GRAPHS = {
    "view": (VIEW, CONV | {"m": nets.normal(2, 480, 5)}),
    "channel shuffle": (SHUFFLE, CONV | {"w8": nets.normal(3, 8, 8, 3, 3)}),
    "windows": (WINDOWS, {}),
    "windows of a number left over": (LEFT_OVER, {}),
    "twice the size": (DOUBLE.replace("FACTOR", "2.0"), CONV | {"w8": nets.normal(3, 8, 8, 3, 3)}),
    "four thirds of the size": (DOUBLE.replace("FACTOR", "1.3334"), CONV | {"w8": nets.normal(3, 8, 8, 3, 3)}),
    "the size of another": (PYRAMID, CONV | {"w8": nets.normal(3, 8, 8, 3, 3)}),
    "expand": (EXPANDED, {}),
    "half": (HALF, CONV),
    "32-bit shapes": (PADDLE, CONV),
    "groups": (GROUPS, CONV | {"ones": np.ones(4, np.float32), "zeros": np.zeros(4, np.float32)}),
    "a product of lengths": (FLAT, CONV),
    "same padding": (SAME, CONV),
    "a branch": (BRANCH, CONV),
    "rows": (ROWS, CONV),
    "pieces": (PIECES, CONV),
}
OF_SHAPES = {
    "Shape",
    "Size",
    "Gather",
    "Concat",
    "Div",
    "Mul",
    "Floor",
    "Cast",
    "Unsqueeze",
    "Where",
    "Equal",
    "Expand",
}


def opened(name: str, *, dynamic_batch: bool) -> tuple[ir.Model, ir.Model]:
    """Returns a graph as it is written and as it is when it has been opened."""
    text, weights = GRAPHS[name]
    source = nets.parse(text, weights, opset=OPSET)
    model = nets.copy(source)
    run_passes(model, (*reading(OPSET, dynamic_batch=dynamic_batch), *SIMPLIFYING))
    return source, model


@pytest.mark.parametrize("dynamic_batch", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize("name", GRAPHS)
def test_nothing_is_left_of_it_and_the_same_is_computed(name: str, dynamic_batch: bool) -> None:
    source, model = opened(name, dynamic_batch=dynamic_batch)
    assert not OF_SHAPES & set(nets.ops(model))
    for batch in (1, 3) if dynamic_batch else (1,):
        image = nets.normal(4, batch, 3, 6, 10)
        np.testing.assert_array_equal(nets.run(model, image)[0], nets.run(source, image)[0])


def test_a_free_length_is_copied_or_what_is_left_over() -> None:
    _, model = opened("windows", dynamic_batch=True)
    shapes = [constant(node.inputs[1]) for node in model.graph if node.op_type == "Reshape"]
    assert [None if shape is None else shape.tolist() for shape in shapes] == [
        [0, 3, 2, 3, 2, 5],
        [-1, 3, 3, 5],
        [-1, 2, 2, 3, 3, 5],
        [-1, 3, 6, 10],
    ]


def test_a_size_becomes_a_scale_only_if_it_gives_the_same_size() -> None:
    for name, scales in (("twice the size", [1, 1, 2, 2]), ("the size of another", [1, 1, 2, 2])):
        _, model = opened(name, dynamic_batch=True)
        (resize,) = (node for node in model.graph if node.op_type == "Resize")
        np.testing.assert_array_equal(constant(resize.inputs[2]), scales)


@pytest.mark.parametrize("opset", [17, 18])
def test_a_size_that_no_scale_gives_is_one_of_the_known_axes(opset: int) -> None:
    """10 times the float32 nearest to 7 / 10 is below 7; before opset 18 Resize names no axes."""
    text, weights = DOUBLE.replace("FACTOR", "0.75"), CONV | {"w8": nets.normal(3, 8, 8, 3, 3)}
    source = nets.parse(text, weights, opset=opset)
    model = nets.copy(source)
    run_passes(model, (*reading(opset, dynamic_batch=True), *SIMPLIFYING))
    assert ("Shape" in nets.ops(model)) == (opset < 18)
    image = nets.normal(4, 2, 3, 6, 10)
    (found,), (wanted,) = nets.run(model, image), nets.run(source, image)
    assert found.shape == (2, 8, 4, 7)
    np.testing.assert_array_equal(found, wanted)


REPEATED = """g (float[N,3,6,10] x) => (float[N,61,8] y)
<int64[1] zero = {0}, int64[1] one = {1}, int64[1] eight = {8}, int64[3] flat = {0, 8, -1}> {
    a = Conv<pads=[1,1,1,1]>(x, w)
    f = Reshape(a, flat)
    t = Transpose<perm=[0,2,1]>(f)
    shape = Shape(t)
    n = Gather(shape, zero)
    target = Concat<axis=0>(n, one, eight)
    token = Expand(c, target)
    y = Concat<axis=1>(token, t)
}"""


@pytest.mark.parametrize("dynamic_batch", [False, True], ids=["fixed", "free"])
def test_what_repeats_for_the_batch_stays_only_for_a_free_one(dynamic_batch: bool) -> None:
    source = nets.parse(REPEATED, CONV | {"c": nets.normal(5, 1, 1, 8)})
    model = nets.copy(source)
    run_passes(model, (*reading(OPSET, dynamic_batch=dynamic_batch), *SIMPLIFYING))
    assert ("Expand" in nets.ops(model)) is dynamic_batch
    image = nets.normal(4, 3 if dynamic_batch else 1, 3, 6, 10)
    np.testing.assert_array_equal(nets.run(model, image)[0], nets.run(source, image)[0])


def test_the_length_of_a_fixed_batch_is_known_behind_what_was_folded() -> None:
    text = """g (float[N,3,6,10] x) => (float[N,8,6,10] y) <int64[1] zero = {0}, int64[1] one = {1}> {
        a = Conv<pads=[1,1,1,1]>(x, w)
        shape = Shape(a)
        n = Slice(shape, zero, one)
        times = Concat<axis=0>(n, one, one, one)
        tiled = Tile(bias, times)
        y = Add(a, tiled)
    }"""
    model = nets.parse(text, CONV | {"bias": nets.normal(3, 1, 8, 1, 1)})
    run_passes(model, (*reading(OPSET), *SIMPLIFYING))
    assert nets.ops(model) == ["Conv", "Add"] and list(model.graph.outputs[0].shape or ()) == [1, 8, 6, 10]


def test_a_branch_that_is_not_taken_reads_nothing() -> None:
    text = """g (float[N,3,6,10] x) => (float[N,8,6,10] y)
    <int64 one = {1}, float half = {0.5}> {
        a = Conv<pads=[1,1,1,1]>(x, w)
        shape = Shape(a)
        c = Gather(shape, one)
        single = Equal(c, one)
        b = If(single) <then_branch = t () => (float[N,8,6,10] t1) { t1 = Identity(x) },
                        else_branch = e () => (float[N,8,6,10] e1) { e1 = Relu(a) }>
        d = Conv<pads=[1,1,1,1]>(b, w8)
        m = ReduceMax<keepdims=0>(x)
        large = Greater(m, half)
        y = If(large) <then_branch = u () => (float[N,8,6,10] u1) { u1 = Relu(d) },
                       else_branch = f () => (float[N,8,6,10] f1) { f1 = Neg(d) }>
    }"""
    model = nets.parse(text, CONV | {"w8": nets.normal(3, 8, 8, 3, 3)})
    run_passes(model, (*reading(OPSET), *SIMPLIFYING))
    readers = {str(value.name): [use.node.op_type for use in value.uses()]
               for node in model.graph for value in node.outputs}  # fmt: skip
    assert nets.ops(model).count("If") == 1
    assert (readers["a"], readers["b"], readers["d"]) == (["Relu"], ["Conv"], ["Identity"])


@pytest.mark.parametrize("target", ["x86", "x86-ort", "jetson-orin"])
@pytest.mark.parametrize("name", ["view", "channel shuffle", "twice the size", "the size of another"])
def test_its_int8_file_takes_any_batch(name: str, target: str) -> None:
    source, model = opened(name, dynamic_batch=True)
    rules = get_target(target).rules
    run_passes(model, (*for_engine(rules), *for_integers(rules)))
    selection = select_layers(model, rules)
    image = nets.normal(4, 2, 3, 6, 10)
    plan = make_plan(model, selection, ranges_for(model, image, tuple(observed_tensors(model, [selection]))), rules)
    insert_qdq(model, plan, rules)
    for batch in (1, 2):
        (found,), (wanted,) = nets.run(model, image[:batch]), nets.run(source, image[:batch])
        assert float(np.square(found - wanted).mean()) < 1e-3 * float(np.square(wanted).mean())


UNFOLDED = """g (float[N,3,6,10] x) => (float[N,8,6,10] y, int64[K] z) {
    a = Conv<pads=[1,1,1,1]>(x, w)
    r = Relu(a)
    b = Conv<pads=[1,1,1,1]>(r, w8)
    hot = Cast<to=7>(r)
    cold = Cast<to=7>(a)
    warm = Add(hot, cold)
    here = NonZero(warm)
    both = Concat<axis=0>(here, here)
    z = ReduceMax<keepdims=0>(both, axes)
    y = Add(b, r)
}"""


@pytest.mark.parametrize("target", ["x86", "x86-ort", "jetson-orin"])
def test_integers_are_never_quantized(target: str) -> None:
    weights = CONV | {"w8": nets.normal(3, 8, 8, 3, 3), "axes": np.array([1])}
    model, rules = nets.graph(UNFOLDED, weights), get_target(target).rules
    selection = select_layers(model, rules)
    types = {value.name: value.dtype for node in model.graph for value in node.outputs}
    assert {types.get(name, ir.DataType.FLOAT) for name in selection.tensors} == {ir.DataType.FLOAT}
    integers = {str(node.name) for node in model.graph if node.outputs[0].dtype == ir.DataType.INT64}
    assert not integers & {decision.name for decision in selection.decisions}
