"""A second trained vision transformer, of another make than the one at hand: that of torchvision.

`python -m benchmarks.trained_vit` trains it on images of Fashion-MNIST: all that are for calibration, and those of the
test images whose number is no multiple of four. The others are left to be scored. It takes a few minutes of the CPU;
`benchmarks.tuning` does so itself where there are no weights yet.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.any_graph import Subject
from benchmarks.cases import DATA
from edgeq.files import write_bytes
from edgeq.progress import progress_bar

WEIGHTS = Path("artifacts/trained_vit/vit_d64.safetensors")
SCORED_EVERY = 4
"""Of the test images every so many are scored, and not trained on."""

EPOCHS, BATCH, SEED = 15, 64, 0
RATE, DECAY, SHIFT_PX = 1e-3, 0.05, 2
SUBJECT = Subject(
    "ViT-d64 of torchvision", "benchmarks.trained_vit:network", "fashionmnist", weights=str(WEIGHTS.resolve())
)


def network() -> Any:
    """Returns the network `(N, 1, 28, 28) -> (N, 10)` with random weights: 6 blocks, 4 heads, patches of 4 pixels."""
    from torch import nn
    from torchvision.models import VisionTransformer

    model = VisionTransformer(28, 4, num_layers=6, num_heads=4, hidden_dim=64, mlp_dim=256, num_classes=10)
    model.conv_proj = nn.Conv2d(1, 64, 4, 4)
    nn.init.trunc_normal_(model.heads.head.weight, std=0.02)
    return model


def training_images(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns images `(N, 28, 28)` uint8 and their classes; no image is among those that are scored."""
    found = []
    for name in ("fashionmnist_train2k_calib", "fashionmnist_test10k"):
        with np.load(data / "classification" / f"{name}.npz", allow_pickle=False) as stored:
            found.append((stored["x"], stored["y"]))
    (images, classes), (further, their_classes) = found
    unscored = np.arange(len(further)) % SCORED_EVERY != 0
    return np.concatenate([images, further[unscored]]), np.concatenate([classes, their_classes[unscored]])


def run(data: Path, out: Path = WEIGHTS, *, epochs: int = EPOCHS, report: Any = print) -> float:
    """Returns the seconds of CPU time that a training took, after writing its weights.

    Args:
        data: Folder of the real data.
        out: File for the weights.
        epochs: How often each image is seen, moved by up to two pixels and mirrored.
        report: Is told the mean loss of each epoch.
    """
    import torch
    from safetensors.torch import save
    from torch.nn import functional

    begin = time.process_time()
    torch.manual_seed(SEED)
    images, classes = training_images(data)
    pixels = functional.pad((torch.from_numpy(images).float() / 255 - 0.5)[:, None] / 0.5, (SHIFT_PX,) * 4, value=-1.0)
    wanted = torch.from_numpy(classes.astype(np.int64))
    model = network().train()
    steps = epochs * (len(wanted) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    with progress_bar(steps, "train", unit="steps") as advance:
        for epoch in range(epochs):
            losses = []
            for chosen in torch.randperm(len(wanted))[: len(wanted) // BATCH * BATCH].view(-1, BATCH):
                top, left = torch.randint(0, 2 * SHIFT_PX + 1, (2,)).tolist()
                batch = pixels[chosen, :, top : top + 28, left : left + 28]
                batch = batch.flip(-1) if torch.rand(()) < 0.5 else batch
                loss = functional.cross_entropy(model(batch), wanted[chosen], label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
                advance(1)
            report(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, {time.process_time() - begin:.0f} s of CPU time")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, save(model.eval().state_dict()))
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real data")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="file for the weights")
    given = parser.parse_args()
    run(given.data, given.out)
    sys.stdout.write(f"{given.out}\n")


if __name__ == "__main__":
    main()
