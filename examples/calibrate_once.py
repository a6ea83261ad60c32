"""Calibrate once, export for three targets: a PC, an ARM board and a Jetson get files from the same ranges."""

import numpy as np
import torch
from torch import nn

import edgeq

# Any module that takes one image. It has random weights here.
torch.manual_seed(0)
module = nn.Sequential(
    nn.Conv2d(3, 16, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(32, 10),
).eval()

# Without a preset edgeq does not know how images become inputs, so it takes inputs that are prepared.
model = edgeq.load(module, torch.zeros(1, 3, 64, 64), name="net")
rng = np.random.default_rng(0)
ranges = edgeq.calibrate(model, (rng.normal(size=(3, 64, 64)) for _ in range(64)), method="mse")
ranges.save("ranges.json")  # `edgeq export --calib ranges.json` takes it, too

# Each target has rules of its own: which layers are quantized, and on which grids.
# arm can have TFLite files as well; that needs the extra `tflite` and is left out here.
for target in ("x86", "arm", "jetson-orin"):
    files = edgeq.export(model, target, "int8", calib=ranges, format="onnx", out=f"artifacts/{target}")
    for path in files.paths:
        print(target, path)

# Another method needs no images: the histograms are in the ranges.
other = edgeq.export(model, "x86", "int8", calib=ranges.with_method("minmax"), out="artifacts/minmax")
print("minmax", other.paths[0])
