"""Triton and OpenVINO Model Server read the configurations, and find every tensor under its own name."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from edgeq.deploying import ovms, triton
from edgeq.deploying.base import DeployJob, GateLimits
from edgeq.deploying.packed import MAX_BATCH, Packed, pack
from edgeq.errors import InputError
from tests.deploying.test_quoting import HOSTILE
from tests.deploying.written import save_model

OVMS_KEYS = {
    "name", "base_path", "batch_size", "model_version_policy", "shape", "layout", "nireq", "target_device",
    "plugin_config", "stateful", "idle_sequence_cleanup", "low_latency_transformation", "max_sequence_number",
    "custom_loader_options",
}  # fmt: skip
"""Keys of a model's `config`; the schema of OVMS refuses others (`MODELS_CONFIG_SCHEMA` in its src/schema.cpp)."""


def triton_config(text: str) -> Any:
    """Returns a `config.pbtxt` as Triton's own messages read it."""
    found = importlib.util.find_spec("tritonclient")
    if found is None or not found.submodule_search_locations:
        pytest.skip("Triton's messages are not installed; run: pip install tritonclient")
    from google.protobuf import text_format

    # Its package imports gRPC, which the messages do not need.
    path = Path(found.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return text_format.Parse(text, module.ModelConfig())


def _packed(tmp_path, runtime="onnxruntime", **options) -> Packed:
    return pack(save_model(tmp_path / "net.x86.int8.onnx", **options), runtime)


def test_triton_reads_names_types_and_shapes(tmp_path):
    model = _packed(tmp_path, names=(HOSTILE, "scores"))
    found = triton_config(triton.config(model))
    assert (found.name, found.backend) == ("net.x86.int8", "onnxruntime")
    assert found.default_model_filename == "net.x86.int8.onnx"
    assert (found.input[0].name, found.output[0].name) == (HOSTILE, "scores")
    assert found.input[0].DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_name["TYPE_FP32"].number == (
        found.input[0].data_type
    )
    assert list(found.input[0].dims) == [1, 3, 8, 12]
    assert (found.max_batch_size, found.HasField("dynamic_batching")) == (0, False)
    assert not found.output[0].label_filename


def test_triton_names_the_classes_of_an_output_that_scores_each(tmp_path):
    model = _packed(tmp_path, labels=("cat", "dog"))
    scores = dataclasses.replace(model.artifact.outputs[0], name="scores", shape=(1, 2))
    scoring = dataclasses.replace(model, artifact=dataclasses.replace(model.artifact, outputs=(scores,)))
    assert triton_config(triton.config(scoring)).output[0].label_filename == "labels.txt"


def test_requests_are_collected_only_where_the_batch_axis_is_free(tmp_path):
    found = triton_config(triton.config(_packed(tmp_path, batch=None)))
    assert (found.max_batch_size, found.HasField("dynamic_batching")) == (MAX_BATCH, True)
    assert list(found.input[0].dims) == list(found.output[0].dims) == [3, 8, 12]


def test_clients_find_the_pre_processing_in_the_configuration(tmp_path):
    model = _packed(tmp_path)
    parameters = triton_config(triton.config(model)).parameters
    stated = json.loads(parameters["edgeq_preprocessing"].string_value)
    assert (stated["resize"], stated["channel_order"], stated["fill"]) == ("letterbox", "bgr", 114.0)
    assert json.loads(parameters["edgeq_postprocessing"].string_value)["decoder"] == "classification"
    bare = _packed(tmp_path, preprocessing=None)
    assert "edgeq_preprocessing" not in triton_config(triton.config(bare)).parameters


def test_an_engine_is_served_by_the_gpu(tmp_path):
    found = triton_config(triton.config(_packed(tmp_path, "tensorrt")))
    assert (found.backend, found.default_model_filename) == ("tensorrt", "model.plan")
    assert found.instance_group[0].kind == found.instance_group[0].DESCRIPTOR.enum_values_by_name["KIND_GPU"].number


def test_a_type_that_triton_lacks_is_refused(tmp_path):
    import dataclasses

    model = _packed(tmp_path)
    odd = dataclasses.replace(model.artifact.inputs[0], dtype="float128")
    strange = dataclasses.replace(model, artifact=dataclasses.replace(model.artifact, inputs=(odd,)))
    with pytest.raises(InputError, match="Triton has no type for 'image' of float128"):
        triton.config(strange)


def test_ovms_lists_what_is_planned_for_openvino_alone(tmp_path):
    models = (
        pack(save_model(tmp_path / "a$(x).onnx"), "openvino"),
        pack(save_model(tmp_path / "b.onnx", target="x86-ort"), "onnxruntime"),
    )
    document = json.loads(ovms.config(DeployJob("x86", models, (), GateLimits())))
    (entry,) = document.pop("model_config_list")
    assert document == {}
    assert entry.keys() == {"config"}
    assert entry["config"].keys() <= OVMS_KEYS
    assert entry["config"] == {"name": models[0].name, "base_path": f"models/{models[0].name}"}
