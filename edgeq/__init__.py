"""edgeq: calibrate a vision model once, export it to every engine, measure what it costs.

    import edgeq

    model = edgeq.load("detector.onnx", preset="yolox")
    ranges = edgeq.calibrate(model, "images")
    files = edgeq.export(model, "x86", ("fp32", "int8"), calib=ranges)
    results = edgeq.benchmark(files.paths)

The names below load on first use: `import edgeq` itself imports nothing but the standard library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeq.api.bundle import benchmark_bundles, evaluate_bundles, export_bundle, export_edge_llm
    from edgeq.api.calibrate import calibrate
    from edgeq.api.checkpoint import export_checkpoint
    from edgeq.api.deploy import deploy
    from edgeq.api.export import export
    from edgeq.api.judge import check, gate, report
    from edgeq.api.measure import benchmark, evaluate
    from edgeq.api.model import Model, load
    from edgeq.api.plan import plan
    from edgeq.api.predict import predict
    from edgeq.api.score import score
    from edgeq.api.study import study, study_bundle
    from edgeq.api.tune import sensitivity, tune
    from edgeq.api.weights import quantize_weights
    from edgeq.bundles.edge_llm import EdgeLlmFolder
    from edgeq.bundles.manifest import Bundle
    from edgeq.calibration.quantize_module import QuantizedModule
    from edgeq.calibrators import Histogram
    from edgeq.calibrators.ranges import Ranges
    from edgeq.errors import EdgeqError
    from edgeq.evaluation.findings import ImagePrediction
    from edgeq.exporting.artifact import Artifact
    from edgeq.progress import Progress
    from edgeq.results.evaluation import EvalResult, Score
    from edgeq.results.measurement import BenchResult
    from edgeq.results.memory_plan import MemoryPlan
    from edgeq.results.sensitivity import SensitivityResult
    from edgeq.results.study import StudyResult
    from edgeq.results.tuning import TuningResult
    from edgeq.runtimes import Session, open_session
    from edgeq.sources.hub import download_model
    from edgeq.targets import Target, get_target
    from edgeq.tasks.classification.records import ClassificationScore
    from edgeq.tasks.depth import DepthScore
    from edgeq.tasks.detection.task import DetectionScore
    from edgeq.tasks.embedding import EmbeddingScore
    from edgeq.tasks.evidence import Box, Finding
    from edgeq.tasks.instances.task import InstanceScore
    from edgeq.tasks.keypoints.task import KeypointScore
    from edgeq.tasks.language.captioning import CaptioningScore
    from edgeq.tasks.language.last_word import LastWordScore
    from edgeq.tasks.language.presence import PresenceScore
    from edgeq.tasks.language.transcription import TranscriptionScore
    from edgeq.tasks.language.vqa import VqaScore
    from edgeq.tasks.oriented.task import OrientedScore
    from edgeq.tasks.semantic.task import SemanticScore
    from edgeq.tasks.text.detection import TextDetectionScore
    from edgeq.tasks.text.recognition import TextRecognitionScore
    from edgeq.verbs.check import CheckResult
    from edgeq.verbs.check_saturation import SaturationResult
    from edgeq.verbs.deploy import DeployResult
    from edgeq.verbs.export import ExportResult
    from edgeq.verbs.export_checkpoint import CheckpointResult
    from edgeq.verbs.gate import GateResult
    from edgeq.verbs.score import ScoredAnswers

__version__ = "0.2.0"

__all__ = [
    "Artifact",
    "BenchResult",
    "Box",
    "Bundle",
    "CaptioningScore",
    "CheckResult",
    "CheckpointResult",
    "ClassificationScore",
    "DeployResult",
    "DepthScore",
    "DetectionScore",
    "EdgeLlmFolder",
    "EdgeqError",
    "EmbeddingScore",
    "EvalResult",
    "ExportResult",
    "Finding",
    "GateResult",
    "Histogram",
    "ImagePrediction",
    "InstanceScore",
    "KeypointScore",
    "LastWordScore",
    "MemoryPlan",
    "Model",
    "OrientedScore",
    "PresenceScore",
    "Progress",
    "QuantizedModule",
    "Ranges",
    "SaturationResult",
    "Score",
    "ScoredAnswers",
    "SemanticScore",
    "SensitivityResult",
    "Session",
    "StudyResult",
    "Target",
    "TextDetectionScore",
    "TextRecognitionScore",
    "TranscriptionScore",
    "TuningResult",
    "VqaScore",
    "benchmark",
    "benchmark_bundles",
    "calibrate",
    "check",
    "deploy",
    "download_model",
    "evaluate",
    "evaluate_bundles",
    "export",
    "export_bundle",
    "export_checkpoint",
    "export_edge_llm",
    "gate",
    "get_target",
    "load",
    "open_session",
    "plan",
    "predict",
    "quantize_weights",
    "report",
    "score",
    "sensitivity",
    "study",
    "study_bundle",
    "tune",
]

# Name -> module that holds it. A name stands here, in `__all__` and in the block for type checkers above;
# tests/test_api.py says where one is missing.
_HOME = {
    "Artifact": "edgeq.exporting.artifact",
    "BenchResult": "edgeq.results.measurement",
    "Box": "edgeq.tasks.evidence",
    "Bundle": "edgeq.bundles.manifest",
    "CaptioningScore": "edgeq.tasks.language.captioning",
    "CheckResult": "edgeq.verbs.check",
    "CheckpointResult": "edgeq.verbs.export_checkpoint",
    "ClassificationScore": "edgeq.tasks.classification.records",
    "DeployResult": "edgeq.verbs.deploy",
    "DepthScore": "edgeq.tasks.depth",
    "DetectionScore": "edgeq.tasks.detection.task",
    "EdgeLlmFolder": "edgeq.bundles.edge_llm",
    "EdgeqError": "edgeq.errors",
    "EmbeddingScore": "edgeq.tasks.embedding",
    "EvalResult": "edgeq.results.evaluation",
    "ExportResult": "edgeq.verbs.export",
    "Finding": "edgeq.tasks.evidence",
    "GateResult": "edgeq.verbs.gate",
    "Histogram": "edgeq.calibrators",
    "ImagePrediction": "edgeq.evaluation.findings",
    "InstanceScore": "edgeq.tasks.instances.task",
    "KeypointScore": "edgeq.tasks.keypoints.task",
    "LastWordScore": "edgeq.tasks.language.last_word",
    "MemoryPlan": "edgeq.results.memory_plan",
    "Model": "edgeq.api.model",
    "OrientedScore": "edgeq.tasks.oriented.task",
    "PresenceScore": "edgeq.tasks.language.presence",
    "Progress": "edgeq.progress",
    "QuantizedModule": "edgeq.calibration.quantize_module",
    "Ranges": "edgeq.calibrators.ranges",
    "SaturationResult": "edgeq.verbs.check_saturation",
    "Score": "edgeq.results.evaluation",
    "ScoredAnswers": "edgeq.verbs.score",
    "SemanticScore": "edgeq.tasks.semantic.task",
    "SensitivityResult": "edgeq.results.sensitivity",
    "Session": "edgeq.runtimes",
    "StudyResult": "edgeq.results.study",
    "Target": "edgeq.targets",
    "TextDetectionScore": "edgeq.tasks.text.detection",
    "TextRecognitionScore": "edgeq.tasks.text.recognition",
    "TranscriptionScore": "edgeq.tasks.language.transcription",
    "TuningResult": "edgeq.results.tuning",
    "VqaScore": "edgeq.tasks.language.vqa",
    "benchmark": "edgeq.api.measure",
    "calibrate": "edgeq.api.calibrate",
    "check": "edgeq.api.judge",
    "deploy": "edgeq.api.deploy",
    "download_model": "edgeq.sources.hub",
    "evaluate": "edgeq.api.measure",
    "export": "edgeq.api.export",
    "export_bundle": "edgeq.api.bundle",
    "benchmark_bundles": "edgeq.api.bundle",
    "evaluate_bundles": "edgeq.api.bundle",
    "export_checkpoint": "edgeq.api.checkpoint",
    "export_edge_llm": "edgeq.api.bundle",
    "gate": "edgeq.api.judge",
    "get_target": "edgeq.targets",
    "load": "edgeq.api.model",
    "open_session": "edgeq.runtimes",
    "plan": "edgeq.api.plan",
    "predict": "edgeq.api.predict",
    "quantize_weights": "edgeq.api.weights",
    "report": "edgeq.api.judge",
    "score": "edgeq.api.score",
    "sensitivity": "edgeq.api.tune",
    "study": "edgeq.api.study",
    "study_bundle": "edgeq.api.study",
    "tune": "edgeq.api.tune",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
