"""A program of a user's, with every public name, for mypy: its one mistake is found, and nothing else is.

`make lint` checks it, as strictly as all else; a mistake that were not found would be an unused comment there.
"""

import numpy as np
import torch

import edgeq
from edgeq import (
    Artifact,
    BenchResult,
    Box,
    Bundle,
    CaptioningScore,
    CheckpointResult,
    CheckResult,
    ClassificationScore,
    DeployResult,
    DepthScore,
    DetectionScore,
    EdgeLlmFolder,
    EdgeqError,
    EmbeddingScore,
    EvalResult,
    ExportResult,
    Finding,
    GateResult,
    Histogram,
    ImagePrediction,
    InstanceScore,
    KeypointScore,
    LastWordScore,
    MemoryPlan,
    Model,
    OrientedScore,
    PresenceScore,
    Progress,
    QuantizedModule,
    Ranges,
    SaturationResult,
    Score,
    ScoredAnswers,
    SemanticScore,
    SensitivityResult,
    Session,
    StudyResult,
    Target,
    TextDetectionScore,
    TextRecognitionScore,
    TranscriptionScore,
    TuningResult,
    VqaScore,
)


class Bar:
    def start(self, total: int | None, label: str, unit: str) -> None: ...
    def advance(self, count: int) -> None: ...
    def end(self) -> None: ...


def listen() -> Progress:
    return Bar()


def images() -> list[np.ndarray]:
    return [np.zeros((32, 32, 3), np.uint8)]


def in_parts() -> None:
    bundle: Bundle = edgeq.export_bundle("llava", "x86-ort", preset="asymmetric", calib="texts.txt", out="parts")
    print(bundle.require_part("decoder").output_error)
    jetson: EdgeLlmFolder = edgeq.export_edge_llm(
        edgeq.download_model("maker/llava"), part=["vision=int8"], calib="q.jsonl"
    )
    print(jetson.checkpoint.format, [fit.board for fit in jetson.fits], jetson.problems())
    spoken: list[ScoredAnswers] = edgeq.evaluate_bundles("parts", "vqa", "questions.jsonl", beams=2)
    print(spoken[0].result.score, edgeq.benchmark_bundles(["parts"], runtime="openvino")[0].generation)


def few_bits() -> None:
    narrow: QuantizedModule = edgeq.quantize_weights(torch.nn.Linear(8, 8), [torch.zeros(1, 8)], 3, keep="Conv2d")
    print(narrow.left)
    parts: StudyResult = edgeq.study_bundle("bundle", "transcription", "test.jsonl", calib="train.jsonl", num=128)
    print(parts.importance[0].parts)


def run(module: torch.nn.Module) -> bool:
    model: Model = edgeq.load(module, torch.zeros(1, 3, 32, 32), preset="imagenet", labels=["a", "b"])
    same: Model = edgeq.load("net.onnx", preset="yolox", size=(320, 320))
    ranges: Ranges = edgeq.calibrate(model, images(), method="mse", progress=Bar)
    again: Ranges = edgeq.calibrate(same, "images", out="ranges.json", progress=listen)
    histogram: Histogram = ranges.histograms["image"]
    target: Target = edgeq.get_target("x86")
    files: ExportResult = edgeq.export(model, target.name, ("fp32", "int8"), calib=ranges, keep="Softmax")
    timed: list[BenchResult] = edgeq.benchmark(files.paths, runtime="openvino", cpus=[0, 1])
    scored: list[EvalResult[Score]] = edgeq.evaluate(files.paths, "images", "val.json")
    for result in scored:
        if isinstance(result.score, DetectionScore):
            print(result.score.AP_small)
        elif isinstance(result.score, ClassificationScore):
            print(result.score.top5)
        elif isinstance(result.score, EmbeddingScore):
            print(result.score.cosine_p1)
        elif isinstance(result.score, (DepthScore, InstanceScore, KeypointScore, OrientedScore, SemanticScore)):
            print(result.score.classes)
        elif isinstance(result.score, (TextDetectionScore, TextRecognitionScore)):
            print(result.score.main)
    found: list[ImagePrediction] = edgeq.predict(files.paths[0], "images", out="pictures", compare=files.paths[1])
    for finding in found[0].shown:
        same_finding: Finding = finding
        if isinstance(same_finding, Box):
            print(same_finding.left)
    packed: CheckpointResult = edgeq.export_checkpoint("llama", "gptq", out="llama-w4", skip="lm_head", calib="a.txt")
    print(packed.layers)
    edgeq.export(model, keep=5)  # type: ignore[arg-type]
    checked: CheckResult = edgeq.check(files.paths[0])
    saturated: SaturationResult = edgeq.check(files.paths[0], isa="avx2", images="images")
    gated: GateResult = edgeq.gate([*timed, *scored, "earlier.json"], max_drop=0.5)
    edgeq.report([*timed, *scored], "report.html", images="images")
    carried: DeployResult = edgeq.deploy(files.paths, "x86", "deploy", results="earlier.json", max_drop=0.5)
    sensitive: SensitivityResult = edgeq.sensitivity(model, "dataset", by="block", matters=0.3, images=200)
    print(sensitive.ranked[0].quantized_alone.change)
    tuned: TuningResult = edgeq.tune(model, "dataset", max_drop=0.3, latency="0.5x", time_limit="30m")
    print(tuned.chosen.latency.ratio)
    studied: StudyResult = edgeq.study(model, "dataset", template="vit-layers", axis={"bits": (2, 4)}, workers=2)
    print(studied.front[0].bits_per_weight)
    planned: MemoryPlan = edgeq.plan("llava", device="orin-nx", memory="16GB", part=["decoder=w4g128"])
    answered: list[ScoredAnswers] = edgeq.score(["fp16.jsonl", "w4.jsonl"], "vqa", "questions.jsonl")
    if isinstance(
        answered[0].result.score, (CaptioningScore, LastWordScore, PresenceScore, TranscriptionScore, VqaScore)
    ):
        print(answered[0].low, answered[1].difference)
    print(planned.chosen, planned.use.total)
    artifact: Artifact = files.files[0].artifact
    try:
        with edgeq.open_session(artifact, "openvino") as session:
            opened: Session = session
    except EdgeqError as error:
        print(error, histogram, again, checked, saturated, opened, carried.files)
    return gated.passed
