from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgeq.errors import InputError
from edgeq.sources.model import ModelRequest, open_float_model
from edgeq.verbs.check import check_file
from tests.tiny import save_conv_net


def _shape(tensor: Any) -> None:
    tensor.dims[0] = 3


def _negative(tensor: Any) -> None:
    tensor.dims[0] = -tensor.dims[0]


def _type(tensor: Any) -> None:
    tensor.data_type = 99


def _place(tensor: Any) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "net.onnx"), ("offset", "ten"), ("length", "864")):
        tensor.external_data.add(key=key, value=value)


@pytest.mark.parametrize("name", [b"weight0", b"conv0", b"relu0", b"conv_net"])
def test_a_name_that_is_not_text_is_refused_in_one_line(tmp_path: Path, name: bytes) -> None:
    path = save_conv_net(tmp_path / "net.onnx").path
    content = path.read_bytes()
    assert name in content
    path.write_bytes(content.replace(name, b"\xff" + name[1:], 1))
    with pytest.raises(InputError, match=r"^[^\n]*net\.onnx: is not a valid ONNX model \(model\.graph\S* is not text"):
        open_float_model(ModelRequest(str(path)))


@pytest.mark.parametrize("damage", [_shape, _negative, _type, _place])
def test_damaged_onnx_is_refused_in_one_line(tmp_path: Path, damage: Callable[[Any], None]) -> None:
    path = save_conv_net(tmp_path / "net.onnx").path
    model = onnx.load(path)
    damage(model.graph.initializer[0])
    onnx.save(model, path)
    for read in (lambda: check_file(path, "jetson-orin"), lambda: open_float_model(ModelRequest(str(path)))):
        with pytest.raises(InputError, match=r"^[^\n]*net\.onnx[^\n]*$"):
            read()
