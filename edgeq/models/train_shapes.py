"""Trains the detector that ships with edgeq: a slim CenterNet on drawn shapes.

    python -m edgeq.models.train_shapes --out edgeq/models/weights/centernet_shapes.safetensors

draws its images, trains, scores the weights as they are stored, and writes them. Seeds are fixed; another processor,
number of threads or version of torch rounds otherwise, so that its weights differ a little.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeq.files import atomic_path
from edgeq.inputs.images import read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.inputs.presets import load_preset
from edgeq.models.centernet import CenterNet, initialise_heatmap
from edgeq.models.centernet_training import Targets, centernet_loss, encode_targets
from edgeq.tasks.detection.coco import DetectionScores, evaluate, load_ground_truth
from edgeq.tasks.detection.decoders import get_decoder
from edgeq.tasks.detection.shapes import CATEGORIES, draw_image, draw_shapes_dataset

INPUT_PX = 256
IMAGES, TRAINING_SEED = 3200, 1000
VALIDATION_IMAGES, VALIDATION_SEED = 200, 2000

# The maps near the input are the slow ones, so they are narrow; at a 32nd of the size, width costs next to nothing.
_WIDTHS, _DECONV_CHANNELS, _HEAD_CHANNELS = (16, 32, 96, 160), (64, 64, 32), 32
_EPOCHS, _BATCH = 30, 16
_PEAK_RATE, _WARM_UP, _WEIGHT_DECAY, _MAX_GRADIENT = 2e-3, 0.15, 1e-4, 10.0
_SCRIPT_VERSION = 1  # raise it with every change that changes the weights

_PRESET = load_preset("centernet", (INPUT_PX, INPUT_PX))


@dataclass(frozen=True)
class Example:
    """An image as the model sees it, before it is normalised.

    Attributes:
        pixels: `(3, INPUT_PX, INPUT_PX)` uint8, BGR.
        boxes: `(N, 4)` left, top, right, bottom of the shapes as they are drawn in `pixels`.
        labels: `(N,)` class indices.
        shift_px: How far right and down of where a box is to be found its shape is drawn.
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    shift_px: float


def make_example(seed: int, index: int) -> Example:
    """Returns image `index` of a drawn set, brought to the input's size by edgeq's own pre-processing."""
    unscaled = dataclasses.replace(_PRESET.preprocessing, scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    drawn = draw_image(seed, index)
    pixels, placement = preprocess(drawn.pixels, unscaled)
    corners = np.concatenate([drawn.boxes[:, :2], drawn.boxes[:, :2] + drawn.boxes[:, 2:]], axis=1)
    # The warp takes whole coordinates for the centres of pixels and boxes take them for edges, so that a shape lies
    # beside its box by this much. A mirror turns the shape; hence boxes stay with the shapes until they are encoded.
    shift_px = (1 - placement.scale_x) / 2
    boxes = placement.to_input(corners.astype(np.float32)) + np.float32(shift_px)
    return Example(np.rint(pixels[0]).astype(np.uint8), boxes, drawn.labels, shift_px)


def augment(example: Example, rng: np.random.Generator) -> Example:
    """Returns the example mirrored, transposed, its colours exchanged and scaled, each at random."""
    pixels, boxes = example.pixels, example.boxes
    if rng.integers(2):
        pixels = pixels[:, :, ::-1]
        boxes = np.stack([INPUT_PX - boxes[:, 2], boxes[:, 1], INPUT_PX - boxes[:, 0], boxes[:, 3]], axis=1)
    if rng.integers(2):
        pixels, boxes = pixels.swapaxes(1, 2), boxes[:, [1, 0, 3, 2]]
    # A factor, unlike a summand, keeps the fill around the image black, as it is when the model is used.
    factors = rng.uniform(0.7, 1.2, (3, 1, 1)).astype(np.float32)
    pixels = (pixels[rng.permutation(3)] * factors).clip(0, 255).astype(np.uint8)
    return dataclasses.replace(example, pixels=pixels, boxes=boxes)


def make_batch(examples: Sequence[Example]) -> tuple[Tensor, Targets]:
    """Returns inputs `(N, 3, INPUT_PX, INPUT_PX)`, normalised, channels last in memory, and their targets."""
    spec = _PRESET.preprocessing
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    pixels = torch.from_numpy(np.stack([example.pixels for example in examples]))
    inputs = (pixels * spec.scale - mean) / std
    targets = encode_targets(
        [example.boxes - np.float32(example.shift_px) for example in examples],
        [example.labels for example in examples],
        len(CATEGORIES),
        INPUT_PX,
        INPUT_PX,
    )
    return inputs.contiguous(memory_format=torch.channels_last), targets


def make_model() -> CenterNet:
    """Returns the untrained detector."""
    model = CenterNet(
        num_classes=len(CATEGORIES),
        widths=_WIDTHS,
        deconv_channels=_DECONV_CHANNELS,
        head_channels=_HEAD_CHANNELS,
    )
    initialise_heatmap(model)
    return model.to(memory_format=torch.channels_last)


def train(model: CenterNet, examples: Sequence[Example], epochs: int, batch: int = _BATCH) -> Iterator[float]:
    """Trains the model in place and yields the mean loss of each epoch.

    AdamW with one cycle of the learning rate ("Super-Convergence", Smith and Topin, 2018), in bfloat16 where torch
    finds it safe: processors with AMX or AVX512-BF16 take half the time.
    """
    rng = np.random.default_rng(0)
    steps = len(examples) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _PEAK_RATE, total_steps=epochs * steps, pct_start=_WARM_UP
    )
    model.train()
    for _ in range(epochs):
        total = 0.0
        order = rng.permutation(len(examples))[: steps * batch]
        for indices in order.reshape(steps, batch):
            inputs, targets = make_batch([augment(examples[index], rng) for index in indices])
            with torch.autocast("cpu", torch.bfloat16):
                outputs = model(inputs)
            loss = centernet_loss(outputs, targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRADIENT)
            optimizer.step()
            schedule.step()
            total += loss.item()
        yield total / steps


def to_stored(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors as the file holds them: kernels in float16, what is one number a channel in float32.

    BatchNorm's variances span more than float16 does, and the vectors are one percent of the file. Its batch counters
    are left out; only training reads them.
    """
    return {
        key: (value.half() if value.ndim > 1 else value.float()).contiguous()
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }


def score(model: CenterNet, images: int, seed: int) -> DetectionScores:
    """Returns the COCO scores on freshly drawn images, in float32 and with edgeq's own evaluator.

    Args:
        model: The detector; it is put into eval mode.
        images: How many images to draw.
        seed: The seed to draw them with.
    """
    assert _PRESET.postprocessing is not None  # noqa: S101 - the preset is ours
    decode = get_decoder(_PRESET.postprocessing.decoder)
    detections = {}
    model.eval()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        ground_truth = load_ground_truth(draw_shapes_dataset(Path(folder) / "drawn", images, seed))
        for image in ground_truth.images:
            pixels = read_image(ground_truth.source.parent / image.file_name)
            inputs, placement = preprocess(pixels, _PRESET.preprocessing)
            maps = (output.numpy() for output in model(torch.from_numpy(inputs)))
            outputs = dict(zip(model.output_names, maps, strict=True))
            detections[image.id] = decode(outputs, _PRESET.postprocessing, placement)
    return evaluate(ground_truth, detections, list(detections), labels=CATEGORIES)


def store(state: Mapping[str, Tensor], out: Path) -> DetectionScores:
    """Writes the trained weights, whole or not at all, and returns the scores of what was written.

    The file's metadata hold `architecture` (JSON: the arguments of `CenterNet`), `input_size` (`HxW`), `labels` (with
    commas between), the seeds, the script's version, and the AP on the validation images.
    """
    from safetensors.torch import save_file

    stored = to_stored(state)
    model = make_model()
    model.load_state_dict(stored, strict=False)  # copies into the model's float32 tensors
    scores = score(model, VALIDATION_IMAGES, VALIDATION_SEED)
    architecture = {
        "depth": 18,
        "widths": _WIDTHS,
        "deconv_channels": _DECONV_CHANNELS,
        "head_channels": _HEAD_CHANNELS,
    }
    metadata = {
        "architecture": json.dumps(architecture),
        "input_size": f"{INPUT_PX}x{INPUT_PX}",
        "labels": ",".join(CATEGORIES),
        "trained_by": f"edgeq.models.train_shapes, version {_SCRIPT_VERSION}",
        "training_images": f"{IMAGES} of seed {TRAINING_SEED}",
        "validation_images": f"{VALIDATION_IMAGES} of seed {VALIDATION_SEED}",
        "validation_AP": f"{scores.numbers['AP']:.4f}",
    }
    with atomic_path(out) as temporary:
        save_file(stored, temporary, metadata)
    return scores


def main() -> None:
    """Runs the training from the command line."""
    parser = argparse.ArgumentParser(description="Trains the detector that ships with edgeq.")
    parser.add_argument("--out", type=Path, required=True, help="where the .safetensors file goes")
    parser.add_argument("--threads", type=int, help="torch's own choice by default; 1 is faster on a busy machine")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    start = time.monotonic()
    examples = [make_example(TRAINING_SEED, index) for index in range(IMAGES)]
    print(f"drew {IMAGES} images in {time.monotonic() - start:.0f} s")
    model = make_model()
    for epoch, loss in enumerate(train(model, examples, _EPOCHS), 1):
        print(f"epoch {epoch}/{_EPOCHS}: loss {loss:.3f}, {time.monotonic() - start:.0f} s", flush=True)
    for name, value in store(model.state_dict(), options.out).numbers.items():
        print(f"{name} {value:.4f}")


if __name__ == "__main__":
    main()
