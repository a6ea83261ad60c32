"""The models of the studies, with their images as files: the Fashion-MNIST ViT, and the reader of surnames."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.image_sets import image_set
from benchmarks.name_reader.reader import READ
from benchmarks.name_reader.subjects import Subject
from edgeq.bundles.export import BundleRequest, export_bundle
from edgeq.bundles.manifest import is_bundle
from edgeq.calibration.source import CalibrationSource
from edgeq.sources.model import ModelRequest
from edgeq.verbs.study_bundle import BundleSubject

VIT_NUM, READER_NUM = 256, 128
"""Images that methods go by; published studies of vision-language models take 128."""

_SPARE_TOKENS = 2


@dataclass(frozen=True)
class Case:
    """A model in one file, with images.

    Attributes:
        title: What pages call it.
        request: The model.
        labels: List of the images to score on.
        calib: Images that methods go by.
        num: How many of them.
    """

    title: str
    request: ModelRequest
    labels: Path
    calib: Path
    num: int

    @property
    def source(self) -> CalibrationSource:
        """The images that methods go by."""
        return CalibrationSource(self.calib, num=self.num)


def vit_case(data: Path, work: Path) -> Case:
    """Returns the Fashion-MNIST ViT; its images are unpacked into the folder `work`."""
    work.mkdir(parents=True, exist_ok=True)
    images = image_set("fashionmnist", data, work)
    request = ModelRequest("vit_fashionmnist", data / "weights/vit_d128_l6_fashionmnist.safetensors")
    return Case("ViT-d128 on Fashion-MNIST", request, images.truth, images.calibration, VIT_NUM)


def reader_case(subject: Subject, work: Path) -> BundleSubject:
    """Returns the bundle of a reader with its questions, written to the folder `work` unless they are there.

    Args:
        subject: The reader.
        work: The folder.
    """
    questions = [
        _written(subject, *pictures, work / name)
        for name, pictures in (("test", subject.test), ("calib", subject.calibration))
    ]
    if not is_bundle(work / "bundle"):
        source = Path(shutil.copytree(subject.folder, work / "reader", dirs_exist_ok=True))
        _write_processor(source, subject.test[0].shape[-1])
        export_bundle(BundleRequest(source, tokenizer="none", threads=1), work / "bundle")
    longest = subject.script.longest + _SPARE_TOKENS
    return BundleSubject(
        work / "bundle", "transcription", questions[0], questions[1], num=READER_NUM, max_tokens=longest
    )


def _written(subject: Subject, pixels: npt.NDArray[np.float32], texts: Sequence[str], folder: Path) -> Path:
    """Returns the questions of pictures, written to a folder: prompts and answers are numbers of tokens."""
    from PIL import Image

    path = folder / "questions.jsonl"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (picture, text) in enumerate(zip(pixels, texts, strict=True)):
        Image.fromarray(np.rint((picture[0] + 1) * 127.5).astype(np.uint8)).save(folder / f"{number}.png")
        answer = " ".join(str(subject.script.characters.index(character)) for character in text)
        lines.append({"id": number, "image": f"{number}.png", "prompt": str(READ), "answer": answer})
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def _write_processor(folder: Path, side: int) -> None:
    """Writes how pictures become inputs: x / 127.5 - 1, three equal channels."""
    size = {"height": side, "width": side}
    stated = {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": size, "resample": 2,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(stated), encoding="utf-8")
