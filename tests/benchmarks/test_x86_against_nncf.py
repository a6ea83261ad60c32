"""The tables of edgeq's files against the peers': their figures, what is kept, and what a busy machine says."""

from __future__ import annotations

import re

from benchmarks import x86_against_nncf
from benchmarks.any_graph import Subject
from benchmarks.scored_models import ScoredModel
from edgeq.exporting.quantization_facts import SpeedFacts
from edgeq.measurement.timed_file import Sampling

QUICK = Sampling(warmup_runs=1, warmup_s=0, min_runs=6, min_s=0, max_s=5, round_runs=2, round_s=0, idle_s=0)
ROW = {
    "engine": "openvino 1", "ms": 4.0, "bf16": None, "peer": (0.8, 0.7, 0.9), "edgeq": (0.6, 0.5, 0.7),
    "to_peer": (0.75, 0.7, 0.8), "recommended": "int8", "db": (21.0, 27.0),
    "scores": [
        {"name": "AP", "value": 0.33, "images": 88},
        {"name": "AP", "value": 0.2, "images": 88, "drop": [13.0, 12.0, 14.0]},
        {"name": "AP", "value": 0.32, "images": 88, "drop": [1.0, -0.5, 1.5]},
    ],
}  # fmt: skip


def test_onnxruntimes_half_is_scored_measured_and_kept(small_onnx, drawn, tmp_path, monkeypatch):
    data = tmp_path / "data"
    (data / "coco").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (data / "coco" / split).symlink_to(drawn.folder)
    (data / "coco/instances_val.json").symlink_to(drawn.annotations)
    models = {"small": ScoredModel(Subject("Small", str(small_onnx), "centernet"))}
    monkeypatch.setattr(x86_against_nncf, "MODELS", models)
    monkeypatch.setattr(x86_against_nncf, "measure_speed", lambda *_: SpeedFacts(
        runtime="onnxruntime", engine="", cpu="", threads=1, ratio=1, low=1, high=1, rounds=1, recommended="fp32"
    ))  # fmt: skip
    options = {"data": data, "images": 2, "work": tmp_path / "work", "sampling": QUICK, "runtimes": ["onnxruntime"]}
    x86_against_nncf.write_and_score(["small"], data, 2, tmp_path / "work", ["onnxruntime"])
    monkeypatch.setattr(x86_against_nncf, "judge", None)  # what is there is not scored again
    path = x86_against_nncf.run(["small"], tmp_path, **options)
    ratio = r"\d+\.\d\d \[\d+\.\d\d, \d+\.\d\d\]"
    row = rf"^\| Small \| \d+\.\d\d \|  \| {ratio} \| {ratio} \| {ratio} \| 1\.00 \(fp32\) \|$"
    assert re.search(row, path.read_text(), re.MULTILINE)
    scores = r"^\| Small \| AP, 40 images(?: \| 0\.\d{4}){3} \| [+-]0\.\d{4} \[.*\] \| -?\d+\.\d \| \d+\.\d \|$"
    assert re.search(scores, path.read_text(), re.MULTILINE)
    monkeypatch.setattr(x86_against_nncf, "measure", None)
    assert x86_against_nncf.run(["small"], tmp_path, **options) == path, "what is there is not measured again"


def test_the_mean_is_geometric_and_a_busy_machine_recommends_nothing():
    slow = {**ROW, "to_peer": (1.2, 1.1, 1.3), "recommended": "", "bf16": (0.9, 0.8, 1.0), "scores": None}
    text = x86_against_nncf.to_markdown({"yunet": {"openvino": ROW}, "yolox": {"openvino": slow}}, 48, 2)
    assert "Geometric mean of edgeq / NNCF: 0.95." in text
    assert "| 0.60 (int8) |" in text
    assert "| YuNet | AP, 88 images | 0.3300 | 0.2000 | 0.3200 | -0.0100 [-0.0150, +0.0050] | 21.0 | 27.0 |" in text
    assert "| YOLOX-nano |  |  |  |  |  | 21.0 | 27.0 |" in text
    assert "| too busy to tell |" in text
    assert text.splitlines()[0].endswith("2 threads")
    assert "quantize_static" not in text
