"""Score two files and let a gate decide: the last lines of a build job that must not ship a worse model."""

import sys
from pathlib import Path

import edgeq
from edgeq.tasks.detection.shapes import draw_shapes_dataset

# Drawn images with boxes, for the detector that edgeq ships. Yours: a folder of images and COCO annotations.
annotations = draw_shapes_dataset(Path("images"), images=32, seed=1)
model = edgeq.load("centernet_shapes", size=(128, 128))
files = edgeq.export(model, "x86-ort", ("fp32", "int8"), calib="images")

# Every result is a dataclass; `score` holds COCO's twelve numbers and those of each class.
scored = edgeq.evaluate(files.paths, "images", annotations, runtime="onnxruntime")
for result in scored:
    print(result.artifact, "AP", result.score.main_value)
timed = edgeq.benchmark(files.paths, runtime="onnxruntime", seconds=0.1)

# Points are hundredths: INT8 may lose half a point of AP, and take at most 1.5 times as long as FP32.
gated = edgeq.gate([*scored, *timed], max_drop=0.5, latency_ratio=1.5)
for verdict in gated.verdicts:
    print(f"{verdict.limit}: {verdict.verdict} ({verdict.figure} of {verdict.allowed}); {verdict.note}")

# One page, or a table of the same figures in .md, .csv or .json.
print("wrote", edgeq.report([*scored, *timed], "report.md"))

# A build job ends with the exit code 1 here if the gate did not pass.
sys.exit(0 if gated.passed else 1)
