"""The two models that the study quantizes: the reader of surnames, and the reader of hex digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.name_reader.pictures import draw_pictures, fold
from benchmarks.name_reader.reader import NAMES, Script
from edgeq.errors import InputError

WEIGHTS = Path(__file__).parent / "weights"
"""The reader of surnames as `python -m benchmarks.name_reader.train` wrote it, in FP16."""

CALIBRATION_NUM = 256
_CALIBRATION_SEED, _TEST_SEED = 1001, 1002
"""Training has another seed, so that none of its pictures returns."""

_HEX = Script("0123456789ABCDEF", (17, *[19] * 16), pad=16, end=18, longest=3)


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with images.

    Attributes:
        title: What tables call it.
        folder: The model, in Hugging Face's format.
        script: Its tokens.
        calibration: Images with their texts.
        test: Images to score on, with what is written there.
    """

    title: str
    folder: Path
    script: Script
    calibration: tuple[npt.NDArray[np.float32], list[str]]
    test: tuple[npt.NDArray[np.float32], list[str]]

    def load(self) -> Any:
        """Returns the model in FP32."""
        import torch
        import transformers

        model = transformers.LlavaForConditionalGeneration.from_pretrained(self.folder, dtype=torch.float32)
        return model.eval()

    def runs(self, model: Any) -> Callable[[], object]:
        """Returns what runs a model once on all calibration images, with their texts as answers."""
        import torch

        pixels, texts = self.calibration
        inputs = {
            "pixel_values": torch.from_numpy(pixels),
            "input_ids": torch.from_numpy(self.script.tokens_of(texts)[:, :-1]),
        }
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])

        def run() -> object:
            with torch.inference_mode():
                return model(**inputs, use_cache=False)

        return run


def name_reader(images: int, folder: Path = WEIGHTS) -> Subject:
    """Returns the reader of surnames with that many pictures to score on.

    Raises:
        InputError: the folder holds no reader.
    """
    if not (folder / "model.safetensors").is_file():
        raise InputError(f"{folder}: holds no reader; make it with: python -m benchmarks.name_reader.train {folder}")
    drawn = [draw_pictures(_CALIBRATION_SEED, CALIBRATION_NUM), draw_pictures(_TEST_SEED, images)]
    calibration, test = ((fold(each.strips), each.names) for each in drawn)
    return Subject("Reader of surnames", folder, NAMES, calibration, test)


def hex_reader(images: int, data: Path) -> Subject:
    """Returns the reader of hex digits with the first so many images of its test set, which are in random order."""

    def read(name: str, count: int) -> tuple[npt.NDArray[np.float32], list[str]]:
        with np.load(data / "vlm" / name) as file:
            grey, texts = file["image"][:count], [str(each) for each in file["text"][:count]]
        return np.repeat(grey[:, None].astype(np.float32) / 127.5 - 1, 3, axis=1), texts

    calibration, test = read("hex_calib_256.npz", CALIBRATION_NUM), read("hex_1000.npz", images)
    return Subject("Reader of hex digits", data / "vlm" / "tiny_llava_hex", _HEX, calibration, test)
