"""TFLite files as graphs: real ones, damaged ones, and rewritten ones."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.errors import InputError, MissingDependencyError, ModelError
from edgeq.exporting.tflite.graph import Graph, read_graph, rename_tensors, require_builtin, unpack, with_outputs
from tests import tflite_nets
from tests.exporting import nets
from tests.small import SIZE

FILES = {
    # File: dtype, shape, scales and zero points of its input and its output.
    "mlperftiny_resnet8_cifar10_float": (("float32", (1, 32, 32, 3), (), ()), ("float32", (1, 10), (), ())),
    "mlperftiny_resnet8_cifar10_int8":
        (("int8", (1, 32, 32, 3), (1.0,), (-128,)), ("int8", (1, 10), (1 / 256,), (-128,))),
    "coral_tf2_mobilenet_v2_1.0_224_ptq":
        (("uint8", (1, 224, 224, 3), (1 / 127.5,), (127,)), ("uint8", (1, 1001), (1 / 256,), (0,))),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _converter() -> None:
    tflite_nets.require_converter()


def read(folder: Path, name: str) -> bytes:
    return (folder / "weights" / f"{name}.tflite").read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_tools(shared_data: Path, name: str) -> None:
    graph = read_graph(read(shared_data, name), name)
    for (index,), (dtype, shape, scales, zeros) in zip((graph.inputs, graph.outputs), FILES[name], strict=True):
        tensor = graph.tensors[index]
        assert (tensor.dtype, tensor.shape, tensor.zero_points) == (dtype, shape, zeros)
        assert tensor.scales == pytest.approx(scales, rel=1e-2)
    require_builtin(graph, name)


def interpreter_of(content: bytes) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_content=content)


@pytest.mark.parametrize("name", [*FILES, "coral_movenet_single_pose_lightning_ptq"])
def test_tensors_are_those_that_the_engine_sees(shared_data: Path, name: str) -> None:
    content = read(shared_data, name)
    graph = read_graph(content, name)
    for entry in interpreter_of(content).get_tensor_details():
        if entry["index"] >= len(graph.tensors) or not entry["name"]:
            continue  # the engine's own
        tensor = graph.tensors[entry["index"]]
        assert (tensor.name, tensor.shape) == (entry["name"], tuple(entry["shape"]))
        assert tensor.dtype == np.dtype(entry["dtype"]).name
        found = entry["quantization_parameters"]
        assert tensor.scales == tuple(found["scales"]) and tensor.zero_points == tuple(found["zero_points"])
        if len(tensor.scales) > 1:
            assert tensor.channel_axis == found["quantized_dimension"]
            assert tensor.shape[tensor.channel_axis] == len(tensor.scales)


def test_producers_and_readers() -> None:
    graph = tflite_nets.centernet().graph
    heads = graph.tensors[graph.producer[graph.outputs[0]].inputs[0]]
    shared = graph.producer[heads.index].inputs[0]
    assert [reader.kind for reader in graph.readers[shared]] == ["CONV_2D"] * 3
    assert graph.producer[shared].kind == "TRANSPOSE_CONV"
    assert graph.activations(graph.producer[shared]) == (graph.producer[shared].inputs[2],)
    weight = graph.tensors[graph.producer[heads.index].inputs[1]]
    assert weight.constant and weight.dtype == "float32" and not graph.tensors[shared].constant


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_file_cut_short_is_one_clear_line(data: st.DataObject) -> None:
    content = tflite_nets.mobile().content
    length = data.draw(st.integers(0, len(content) - 1))
    try:
        graph = read_graph(content[:length], "net.tflite")
    except InputError as error:
        assert str(error).startswith("net.tflite: ") and "\n" not in str(error)
    else:  # only what nothing reads is gone
        assert content[length:].strip(b"\0") == b"" or graph == read_graph(content, "net.tflite")
        assert len(content) - length < 64


@pytest.mark.parametrize("name", ["mlperftiny_resnet8_cifar10_int8", "coral_movenet_single_pose_lightning_ptq"])
@pytest.mark.parametrize("share", [0, 0.0001, 0.01, 0.3, 0.5, 0.9, 0.99])
def test_a_real_file_cut_short_is_one_clear_line(shared_data: Path, name: str, share: float) -> None:
    content = read(shared_data, name)
    with pytest.raises(InputError, match=r"^net\.tflite: is (not a TFLite file|damaged or cut short|cut short)"):
        read_graph(content[: int(share * len(content))], "net.tflite")


@settings(max_examples=150, deadline=None)
@given(position=st.integers(8, 1500), value=st.integers(0, 255))
def test_a_damaged_file_is_read_or_refused(position: int, value: int) -> None:
    """Not every damage can be seen, but none may be a traceback."""
    content = bytearray(tflite_nets.mobile().content)
    for offset in (position, len(content) - position):
        content[offset] = value
    try:
        require_builtin(read_graph(bytes(content), "net.tflite"), "net.tflite")
    except (InputError, ModelError) as error:
        assert str(error).startswith("net.tflite: ")


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\x08\0\0\0TFL2" + bytes(50), b"PK\3\4" + bytes(100)])
def test_another_kind_of_file_is_refused(content: bytes) -> None:
    with pytest.raises(
        InputError, match=r"^net\.tflite: is not a TFLite file; wanted one that begins with its mark TFL3"
    ):
        read_graph(content, "net.tflite")


def edited(content: bytes, edit: Any) -> bytes:
    from ai_edge_litert.tools import flatbuffer_utils

    model = unpack(content, "net")
    edit(model)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def test_a_newer_schema_is_refused() -> None:
    newer = edited(tflite_nets.mobile().content, lambda model: setattr(model, "version", 4))
    with pytest.raises(InputError, match=r"^net\.tflite: is of version 4 of TFLite's schema, this edgeq reads 3"):
        read_graph(newer, "net.tflite")


def test_a_file_without_a_graph_is_refused() -> None:
    empty = edited(tflite_nets.mobile().content, lambda model: setattr(model, "subgraphs", []))
    with pytest.raises(InputError, match=r"^net\.tflite: is damaged or cut short"):
        read_graph(empty, "net.tflite")


@pytest.mark.parametrize(
    "path",
    [
        "operators[0].opcodeIndex",
        "operators[1].inputs",
        "operators[1].outputs",
        "inputs",
        "outputs",
        "tensors[3].buffer",
    ],
)
@pytest.mark.parametrize("number", [9999, -7])
def test_numbers_that_lead_nowhere_are_a_damaged_file(path: str, number: int) -> None:
    def break_it(model: Any) -> None:
        holder, _, name = f"subgraphs[0].{path}".rpartition(".")
        for step in re.findall(r"\w+", holder):
            model = model[int(step)] if step.isdigit() else getattr(model, step)
        setattr(model, name, [number] if name.endswith("puts") else 9999)

    with pytest.raises(InputError, match=r"^net\.tflite: is damaged or cut short"):
        read_graph(edited(tflite_nets.mobile().content, break_it), "net.tflite")


def test_custom_operators_are_named() -> None:
    def customize(model: Any) -> None:
        for number, code in enumerate(model.operatorCodes[:2]):
            code.builtinCode = code.deprecatedBuiltinCode = 32
            code.customCode = f"Mine{number}".encode()

    graph = read_graph(edited(tflite_nets.mobile().content, customize), "net.tflite")
    with pytest.raises(ModelError, match=r"^net\.tflite: has the custom operators Mine0, Mine1, which only"):
        require_builtin(graph, "net.tflite")


def test_an_operator_that_is_newer_than_the_schema_is_named() -> None:
    def renumber(model: Any) -> None:
        model.operatorCodes[0].builtinCode = 100_000

    graph = read_graph(edited(tflite_nets.mobile().content, renumber), "net.tflite")
    with pytest.raises(ModelError, match="operator 100000"):
        require_builtin(graph, "net.tflite")


def test_without_the_reader_its_pip_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import ai_edge_litert.tools

    monkeypatch.delattr(ai_edge_litert.tools, "flatbuffer_utils", raising=False)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.tools.flatbuffer_utils", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgeq\[tflite\]'"):
        read_graph(b"\x20\0\0\0TFL3", "net.tflite")


def test_renamed_tensors_compute_the_same() -> None:
    model, x = tflite_nets.centernet(), tflite_nets.channel_last(nets.normal(1, 1, 3, *SIZE))
    names = {tensor.index: f"t/{tensor.index}" for tensor in model.graph.tensors}
    renamed = rename_tensors(model.content, names, "net")
    assert [tensor.name for tensor in read_graph(renamed, "net").tensors] == list(names.values())
    for got, want in zip(tflite_nets.run(renamed, x), tflite_nets.run(model.content, x), strict=True):
        np.testing.assert_array_equal(got, want)
    (signature,) = interpreter_of(renamed).get_signature_list().values()
    assert signature["inputs"] == [f"t/{model.graph.inputs[0]}"]


def test_a_renamed_quantized_file_computes_the_same(shared_data: Path) -> None:
    content = read(shared_data, "mlperftiny_resnet8_cifar10_int8")
    x = np.random.default_rng(0).integers(-128, 128, (1, 32, 32, 3), np.int8)
    renamed = rename_tensors(content, {read_graph(content, "net").outputs[0]: "classes"}, "net")
    np.testing.assert_array_equal(tflite_nets.run(renamed, x)[0], tflite_nets.run(content, x)[0])


def test_any_tensor_can_become_an_output() -> None:
    model, x = tflite_nets.centernet(), tflite_nets.channel_last(nets.normal(1, 1, 3, *SIZE))
    graph: Graph = model.graph
    pool = next(operator for operator in graph.operators if operator.kind == "MAX_POOL_2D")
    wanted = [pool.outputs[0], graph.outputs[0], pool.inputs[0], graph.inputs[0]]
    pooled, hm, padded, image = tflite_nets.run(with_outputs(model.content, wanted), x)
    np.testing.assert_array_equal(image, x)
    np.testing.assert_allclose(hm, tflite_nets.run(model.content, x)[0], atol=1e-5)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
    np.testing.assert_array_equal(pooled, windows.max((-2, -1)))
