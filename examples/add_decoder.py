"""A decoder of your own: edgeq scores a model whose outputs it has never seen.

A preset names the decoder as `module:function`; `edgeq --decoder add_decoder:decode eval ...` says that you trust it.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import edgeq
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders import trust_decoders
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.shapes import draw_shapes_dataset

PRESET = """
[preprocessing]                  # how an image becomes an input; edgeq/inputs/presets.py explains every key
resize = "stretch"
[postprocessing]
decoder = "add_decoder:decode"   # a function of this file
outputs = { scores = "output_0" }
options = { threshold = 0.1 }
"""


def decode(outputs: dict[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns a box for each cell of a 4 x 4 grid whose best class is likelier than the threshold."""
    scores = outputs[post.outputs["scores"]][0]  # (classes, 4, 4) of one image
    best = scores.max(axis=0)
    rows, columns = np.nonzero(best > post.options["threshold"])
    size = np.array([placement.input_width_px, placement.input_height_px] * 2) / 4
    boxes = np.stack([columns, rows, columns + 1, rows + 1], axis=1) * size
    likely, classes = best[rows, columns].astype(np.float32), scores.argmax(axis=0)[rows, columns]
    # Boxes are (N, 4): left, top, right, bottom, in the pixels of the image and not of the input.
    return Detections(placement.to_image(boxes), likely, classes)


class Cells(nn.Module):
    """Says for each cell of a 4 x 4 grid how likely each of six classes is; its weights are random."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 6, 16, 16), nn.Softmax(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)  # type: ignore[no-any-return]


if __name__ == "__main__":
    trust_decoders(["add_decoder:decode"])
    annotations = draw_shapes_dataset(Path("images"), images=16, seed=1)
    Path("cells.toml").write_text(PRESET)
    model = edgeq.load(Cells().eval(), torch.zeros(1, 3, 128, 128), preset="cells.toml", labels=annotations)
    files = edgeq.export(model, "x86", ("fp32", "int8"), calib="images")
    for result in edgeq.evaluate(files.paths, "images", annotations, runtime="onnxruntime"):
        print(result.precision, "AP", result.score.main_value)
