"""A vision transformer: which of its layers run in INT8, and how much each plan keeps of the signal."""

import numpy as np
import torch

import edgeq
from edgeq.models.vit import VisionTransformer
from edgeq.models.vit_configs import VitConfig

# A small ViT with random weights. Any module works that `torch.export` can trace, those of timm and transformers too.
torch.manual_seed(0)
module = VisionTransformer(VitConfig(64, 3, 4, 128, 32, image_px=224, outputs=7)).eval()

# `imagenet` prepares images as torchvision's classifiers take them, and reads the output as class scores.
model = edgeq.load(module, torch.zeros(1, 3, 224, 224), preset="imagenet", labels=[f"class {i}" for i in range(7)])

# Images in memory: arrays (H, W, 3) of uint8, in a list or from any iterable. These are noise of different brightness.
rng = np.random.default_rng(0)
images = [rng.integers(0, 64 + 6 * i, (240, 320, 3), np.uint8) for i in range(32)]
ranges = edgeq.calibrate(model, images)

# "fast" runs the most in INT8; "safe" keeps what is hardest to quantize in float.
for plan in ("fast", "balanced", "safe"):
    files = edgeq.export(model, "x86", "int8", calib=ranges, vit_plan=plan, out=f"artifacts/{plan}")
    (file,) = files.files
    print(plan, f"cosine {file.comparison.cosine:.4f}", f"{file.artifact.size_bytes / 1e6:.2f} MB")
