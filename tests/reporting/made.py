"""Results made for tests: a detector on drawn-up boxes, in FP32 and with some of them moved or lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeq.results.compilation import Compilation, NodePrecision
from edgeq.results.serialization import to_json
from edgeq.tasks.detection.categories import category_ids
from edgeq.tasks.detection.coco import GroundTruth, ImageRecord, evaluate
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.records import DetectionPredictions
from edgeq.tasks.prediction_records import pack_predictions

CLASSES = ("cat", "dog", "<script>alert(1)</script>")
ENVIRONMENT = {
    "engine": "onnxruntime 1.31.1",
    "threads": 2,
    "compute_precision": "f32",
    "cpu": "A fast CPU",
    "system": "Linux 6",
    "python": "3.11.7",
}


def make_ground_truth(images: int, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> GroundTruth:
    """Up to six boxes an image, of all sizes, some of them crowds; ids in no order."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(images) + 10
    records = tuple(ImageRecord(int(image), f"{image:03}.png", 200, 200) for image in ids)
    annotations: list[dict[str, Any]] = []
    for record in records:
        for _ in range(rng.integers(0, 7)):
            left, top = rng.uniform(0, 120, 2)
            width, height = rng.uniform(8, 80, 2)
            box = [float(left), float(top), float(width), float(height)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record.id,
                    "category_id": int(rng.integers(len(classes))) * 3 + 1,
                    "bbox": box,
                    "area": box[2] * box[3] * 0.9,
                    "iscrowd": int(rng.random() < 0.05),
                }
            )
    categories = {3 * number + 1: name for number, name in enumerate(classes)}
    return GroundTruth(Path("val.json"), records, categories, tuple(annotations))


def make_detections(truth: GroundTruth, seed: int, noise: float, steps: int = 1000) -> dict[int, Detections]:
    """The boxes moved by some pixels, some lost, some made up; few steps make many equal scores."""
    rng = np.random.default_rng(seed)
    found = {}
    for record in truth.images:
        rows = []
        for entry in truth.annotations:
            if entry["image_id"] == record.id and rng.random() > 0.1:
                left, top, width, height = np.array(entry["bbox"]) + rng.normal(0, noise, 4)
                rows.append(((left, top, left + max(width, 1), top + max(height, 1)), entry["category_id"] // 3))
        for _ in range(rng.integers(0, 3)):
            left, top = rng.uniform(0, 150, 2)
            rows.append(((left, top, left + 30, top + 30), int(rng.integers(len(truth.categories)))))
        found[record.id] = Detections(
            np.array([box for box, _ in rows], np.float32).reshape(-1, 4),
            (rng.integers(1, steps, len(rows)) / steps).astype(np.float32),
            np.array([label for _, label in rows], np.int64),
        )
    return found


def make_predictions(truth: GroundTruth, detections: dict[int, Detections]) -> DetectionPredictions:
    return DetectionPredictions.of(truth, category_ids(truth, ()), detections)


def make_score(truth: GroundTruth, detections: dict[int, Detections], precision: str, **changes: Any) -> dict[str, Any]:
    """A result of `edgeq eval`."""
    scores = evaluate(truth, detections, sorted(detections))
    return {
        "artifact": f"net.x86.{precision}.onnx",
        "digest": precision * 8,
        "source_digest": "made",
        "target": "x86",
        "runtime": "onnxruntime",
        "precision": precision,
        "task": "detection",
        "images": len(detections),
        **scores.numbers,
        "per_class": [vars(entry) for entry in scores.per_class],
        "annotations": "val.json",
        "environment": ENVIRONMENT,
        "obtained": "measured",
        "predictions": pack_predictions(make_predictions(truth, detections)),
        **changes,
    }


def make_timing(precision: str, p50_ms: float, **changes: Any) -> dict[str, Any]:
    """A result of `edgeq bench` in thirty rounds of four runs; FP32 takes 8 ms."""
    rng = np.random.default_rng(int(p50_ms * 10))
    samples = (p50_ms * 1e6 * rng.normal(1, 0.02, 120)).astype(int).tolist()
    return {
        "artifact": f"net.x86.{precision}.onnx",
        "digest": precision * 8,
        "source_digest": "made",
        "target": "x86",
        "runtime": "onnxruntime",
        "precision": precision,
        "size_bytes": 1_234_567,
        "latency_ms": {"p50": p50_ms, "p90": 1.1 * p50_ms, "p99": None, "mean": p50_ms, "mad": 0.1},
        "cold_start_ms": {"start": None, "import": 10.0, "load": 5.0, "first": 8.0},
        "throughput_per_s": 1000 / p50_ms,
        "peak_rss_bytes": 100_000_000,
        "ratio_to_fp32": p50_ms / 8.0,
        "runs": 120,
        "drift": 0.01,
        "stable": True,
        "obtained": "measured",
        "environment": ENVIRONMENT,
        "round_runs": [4] * 30,
        "samples_ns": samples,
        **changes,
    }  # fmt: skip


LAYERS = {
    "profiler": "ONNX Runtime's profiler",
    "runs": 50,
    "layers": [
        {"name": "first_token_1", "kind": "QLinearConv", "precision": "int8", "ms": 0.5, "nodes": ["first"]},
        {"name": "<b>second</b>", "kind": "Conv", "precision": "fp32", "ms": 1.0, "nodes": []},
        *({"name": f"later{number}", "kind": "Relu", "precision": "", "ms": 0.05} for number in range(10)),
    ],
}
"""Layers that an engine has timed: one is fused, one is named as nobody should."""
SIGNAL = [
    {"name": "first", "op_type": "Conv", "input_db": 120.0, "snr_db": 40.25},
    {"name": "later3", "op_type": "Relu", "input_db": 40.25, "snr_db": 31.5},
    {"name": "gone", "op_type": "Add", "input_db": 31.5, "snr_db": 29.0},
]
"""What is left of the signal; the engine has fused the last of these layers away."""


BUILT = Compilation(
    library="TensorRT for RTX 1.7.1.116",
    sm="SM86",
    stage="built",
    note="the log of version 1.9 was read as that of 1.7",
    parse_s=0.1,
    build_s=2.5,
    kernels=34,
    conversions=5,
    float_epilogues=2,
    fused_attention={"fp16 to int8": 6},
    plan_bytes=5_700_000,
    weights_bytes=850_000,
    activation_bytes=8_320_000,
    nodes=(
        NodePrecision("stem", "Conv", "int8", "int8", "int8", agrees=True),
        NodePrecision("body", "Conv", "int8", "int8", "int8", agrees=True),
        NodePrecision("head", "MatMul", "weights", "fp16", "fp4", agrees=True),
        NodePrecision("twin<b>", "MatMul", "int8", "", "", agrees=False, reason="merged with an equal layer"),
    ),
)
"""An engine of four layers, one of which is not as planned."""
REFUSED = Compilation("TensorRT for RTX 1.7.1.116", "SM120", "parser", node="det", reason="Det: false")


def make_check(file: str, compiled: Compilation, **changes: Any) -> dict[str, Any]:
    """A result of `edgeq check --compile --json`."""
    return {
        "results_version": 1,
        "file": file,
        "digest": file * 8,
        "target": "rtx",
        "tensorrt": "11.0",
        "findings": [],
        "int8_layers": ["stem", "body", "twin<b>"],
        "float_layers": ["head"],
        "compiled": to_json(compiled),
        **changes,
    }
