"""Times of pre- and post-processing with real models and decoders."""

from __future__ import annotations

import dataclasses

from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.measurement import stage_timing
from edgeq.measurement.stage_timing import time_stages
from edgeq.runtimes import open_session
from edgeq.runtimes.runner import make_inputs
from edgeq.sources.artifact_file import open_artifact
from edgeq.tasks import Decoder, find_decoder
from tests.tiny import save_conv_net

STATISTICS = {"runs", "p50", "p90", "mean", "min", "max", "mad"}


def test_a_detectors_image_and_boxes_are_timed_apart(small_onnx, monkeypatch):
    decoded = []

    def spy(post):
        found = find_decoder(post)
        return Decoder(found.task, lambda *given: decoded.append(found.decode(*given)))

    monkeypatch.setattr(stage_timing, "find_decoder", spy)
    with open_session(open_artifact(small_onnx, "centernet"), "onnxruntime", 1) as session:
        answer = time_stages(session, min_runs=64, min_s=0)
    assert answer["problem"] is None
    assert answer["preprocess_ms"].keys() == STATISTICS | {"image_px"}
    assert answer["preprocess_ms"]["image_px"] == [480, 640]
    assert answer["postprocess_ms"].keys() == STATISTICS
    for times in (answer["preprocess_ms"], answer["postprocess_ms"]):
        assert times["runs"] == 64
        assert 0 < times["min"] <= times["p50"] <= times["p90"] <= times["max"]
    # The decoder got the model's own outputs, and found what there is to find in noise.
    assert len(decoded) == answer["postprocess_ms"]["runs"] + 3
    assert {len(found.boxes) for found in decoded} == {len(decoded[0].boxes)}


def test_what_the_manifest_does_not_describe_is_not_timed(tmp_path):
    artifact = save_conv_net(tmp_path / "net.onnx")
    with open_session(artifact, "onnxruntime", 1) as session:
        without_decoder = time_stages(session, min_runs=3, min_s=0)
        assert without_decoder["preprocess_ms"]["runs"] == 3
        assert (without_decoder["postprocess_ms"], without_decoder["problem"]) == (None, None)
        nothing = {"preprocess_ms": None, "postprocess_ms": None, "problem": None}
        (spec,) = artifact.inputs
        for described in (
            dataclasses.replace(artifact, preprocessing=None),
            dataclasses.replace(artifact, inputs=()),
            dataclasses.replace(artifact, inputs=(spec, TensorSpec("other", "float32", (1,)))),
            dataclasses.replace(artifact, inputs=(dataclasses.replace(spec, shape=(4, 3, 16, 16)),)),
        ):
            session.artifact = described
            assert time_stages(session) == nothing
        session.artifact = artifact
        assert session.run(make_inputs(artifact))


def test_samples_are_taken_for_as_long_as_is_asked_for(tmp_path):
    with open_session(save_conv_net(tmp_path / "net.onnx"), "onnxruntime", 1) as session:
        times = time_stages(session, min_runs=1, min_s=0.02)["preprocess_ms"]
    assert times["runs"] * times["mean"] >= 20
