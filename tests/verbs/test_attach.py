"""`--attach` and `edgeq inspect`: figures are kept in a file's manifest, and shown with the rest of its life."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.results.attached import attached_to
from edgeq.results.measurement import BenchResult
from edgeq.results.reading import parse_results
from edgeq.runtimes.latency import interleaved_ratio
from edgeq.tasks import score_types
from edgeq.verbs.attach import attach_results, require_attachable
from tests.reporting.made import make_detections, make_ground_truth, make_score, make_timing

TRUTH = make_ground_truth(12)


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    found = {}
    for precision in ("fp32", "int8"):
        path = tmp_path / f"net.x86.{precision}.onnx"
        path.write_bytes(precision.encode())
        quantization: dict[str, Any] = {} if precision == "fp32" else {
            "method": "lp", "ranges_digest": "ab" * 32, "calibrated_on": {"images": 64, "digest": "cd" * 32},
            "int8_nodes": 3, "float_nodes": {"Conv_1": "last convolution of a head"},
            "signal": {"snr_db": 31.4, "how": "exact arithmetic"},
        }  # fmt: skip
        Artifact(
            path, "onnx", precision, "x86", (TensorSpec("in", "float32", (1, 3, 8, 8)),),
            (TensorSpec("out", "float32", (1, 4)),), None, source_digest="2:made", quantization=quantization,
            tools={"edgeq": "0.2.0"},
        ).save()  # fmt: skip
        found[precision] = path
    return found


def results(files: dict[str, Path], **changes: Any) -> list[Any]:
    """FP32 and INT8, scored and timed."""
    documents = []
    for precision, noise, p50_ms in (("fp32", 1, 8.0), ("int8", 3, 4.0)):
        same = {"digest": Artifact.load(files[precision]).digest, **changes}
        documents.append(make_score(TRUTH, make_detections(TRUTH, 1, noise), precision, **same))
        documents.append(make_timing(precision, p50_ms, **same))
    before, now = (parse_results(each, "made", {})[0] for each in documents[1::2])
    assert isinstance(before, BenchResult) and isinstance(now, BenchResult)
    documents[3]["ratio_to_fp32"] = interleaved_ratio(now.rounds_ns, before.rounds_ns)
    return parse_results(documents, "made", score_types())


def test_figures_are_kept_with_machine_engine_and_interval(files, tmp_path):
    before = json.loads((tmp_path / "net.x86.int8.onnx.json").read_text())
    written = attach_results([*files.values()], results(files, command="edgeq bench net"))
    assert [path.name for path in written] == ["net.x86.fp32.onnx.json", "net.x86.int8.onnx.json"]
    artifact = Artifact.load(files["int8"])
    score, timing = attached_to(artifact)
    assert (score.kind, score.machine, score.engine, score.images) == ("eval", "A fast CPU", "onnxruntime 1.31.1", 12)
    low, high = score.intervals["drop_points"]
    assert low < score.figures["drop_points"] < high
    assert next(iter(score.figures)) == "AP"
    assert (timing.figures["p50_ms"], timing.command) == (4.0, "edgeq bench net")
    low, high = timing.intervals["ratio_to_fp32"]
    assert low <= timing.figures["ratio_to_fp32"] <= high
    after = json.loads((tmp_path / "net.x86.int8.onnx.json").read_text())
    assert {name: value for name, value in after.items() if name != "results"} == before
    assert all(not each.intervals for each in attached_to(Artifact.load(files["fp32"])))


def test_the_same_machine_and_engine_is_replaced_another_is_added(files):
    attach_results([files["int8"]], results(files))
    attach_results([files["int8"]], results(files, command="again"))
    attach_results([files["int8"]], results(files, device="orin"))
    found = attached_to(Artifact.load(files["int8"]))
    assert [(each.kind, each.device, each.command) for each in found] == [
        ("eval", "local", "again"), ("bench", "local", "again"), ("eval", "orin", ""), ("bench", "orin", ""),
    ]  # fmt: skip


def test_results_of_another_file_are_not_attached(files):
    others = results(files, digest="f" * 64)
    assert attach_results([*files.values()], others) == []


def test_an_export_anew_starts_without_results(files):
    attach_results([files["int8"]], results(files))
    Artifact.load(files["int8"]).save()
    assert attached_to(Artifact.load(files["int8"])) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"date": 3}, "$.results[0].date is 3"),
        ({"kind": "guess"}, "$.results[0].kind"),
        ({"figures": {"AP": None}}, "$.results[0].figures"),
    ],
)
def test_what_is_attached_is_read_by_type(files, change, said):
    attach_results([files["int8"]], results(files))
    artifact = Artifact.load(files["int8"])
    document = json.loads(artifact.manifest_path.read_text())
    document["results"][0] |= change
    artifact.manifest_path.write_text(json.dumps(document))
    with pytest.raises(InputError) as refused:
        attached_to(Artifact.load(files["int8"]))
    assert said in str(refused.value)


def test_a_file_without_a_manifest_is_refused_first(tmp_path, edgeq):
    (tmp_path / "net.onnx").write_bytes(b"x")
    with pytest.raises(InputError):
        require_attachable([tmp_path / "net.onnx"])
    assert "has no manifest" in edgeq("bench", tmp_path / "net.onnx", "--attach").error


def test_inspect_shows_the_life_of_a_file(files, edgeq, tmp_path):
    assert "results: none attached" in edgeq("inspect", files["int8"]).out
    attach_results([files["int8"], files["fp32"]], results(files))
    lines = edgeq("inspect", files["int8"], "--json", tmp_path / "life.json").out.splitlines()
    assert lines[0].endswith(f"SHA-256 {Artifact.load(files['int8']).digest[:12]}")
    assert lines[1] == "source: graph 2:made; written by edgeq 0.2.0"
    assert lines[2] == "calibration: 64 images (SHA-256 cdcdcdcdcdcd), ranges abababababab by lp"
    assert "plan: 1 in float, last convolution of a head: Conv_1" in lines
    assert "signal: 31.4 dB of the model's outputs are kept; exact arithmetic" in lines
    assert "2.0x faster than FP32" in lines[-1] and "A fast CPU" in lines[-1]
    assert "over 12 images of val.json" in lines[-2] and "points lost (95 % interval" in lines[-2]
    assert [each["kind"] for each in json.loads((tmp_path / "life.json").read_text())["results"]] == ["eval", "bench"]
