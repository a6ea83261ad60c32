"""Your own detector: from a torch module to an INT8 file, with its time and its accuracy.

Run it with `python own_detector.py`; it writes to the folder it is started in.
"""

from pathlib import Path

import torch

import edgeq
from edgeq.models.centernet import CenterNet
from edgeq.tasks.detection.shapes import draw_shapes_dataset

# Images and their annotations. Yours come from a camera; these are drawn.
annotations = draw_shapes_dataset(Path("images"), images=32, seed=1)

# A detector with random weights: put your trained module here, in eval mode.
torch.manual_seed(0)
module = CenterNet(18, 6, widths=(16, 32, 64, 96), deconv_channels=(32, 32, 32), head_channels=16).eval()

# The example says what shape the files take: one image of 64 x 96 pixels. The preset says how an image becomes such an
# input, and how outputs become boxes. For a detector of another family write a preset of your own (docs/detectors.md).
model = edgeq.load(
    module,
    torch.zeros(1, 3, 64, 96),
    preset="centernet",
    labels=annotations,  # class names; a list of them does as well
)

# One pass over representative images: 100 to 500 of them for a real model.
ranges = edgeq.calibrate(model, "images")

# Two files, each with a manifest next to it, and each compared with the module.
files = edgeq.export(model, "x86", ("fp32", "int8"), calib=ranges)
for file in files.files:
    print(file.artifact.path, f"cosine {file.comparison.cosine:.4f}")

# The files take turns, so that their ratio holds even on a busy machine.
for timed in edgeq.benchmark(files.paths, runtime="onnxruntime", seconds=0.1):
    print(timed.precision, f"{timed.latency_ms.p50:.2f} ms")

for scored in edgeq.evaluate(files.paths, "images", annotations, runtime="onnxruntime"):
    print(scored.precision, "AP", scored.score.main_value)
