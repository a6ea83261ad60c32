"""What a model in parts is calibrated on: questions with their images and answers, images alone, texts, or arrays."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.bundles.chain import Sample
from edgeq.bundles.images import image_input
from edgeq.bundles.samples import MOST, read_prepared
from edgeq.bundles.tokens import special_tokens
from edgeq.bundles.vision_inputs import VisionInputs
from edgeq.generation.model import Prompt
from edgeq.generation.prompts import IMAGE, QUESTION, PromptMaker
from edgeq.generation.tokenizer import read_tokenizer
from edgeq.inputs import evenly_spaced
from edgeq.inputs.images import list_images
from edgeq.inputs.items import image_files
from edgeq.tasks import get_task

if TYPE_CHECKING:
    from edgeq.bundles.families.parts import Split
    from edgeq.bundles.source import ModelFolder
    from edgeq.tasks.language.questions_task import QuestionsTask

_QUESTIONS = ".jsonl"


def read_samples(path: Path, template: str, folder: ModelFolder, split: Split) -> list[Sample]:
    """Returns what a model is calibrated on, at most 128 samples, evenly spaced.

    Args:
        path: JSON lines of questions with answers and images; a folder of images, which only the vision part reads; or
            what `edgeq.bundles.samples.read_prepared` takes.
        template: Prompt of questions, with `{question}` and `<image>`; by default the image, then the question.
        folder: The model.
        split: Its parts.

    Raises:
        InputError: the file cannot be used, or the model takes no images.
        MissingDependencyError: a tokenizer is to be read without transformers.
    """
    vision = _vision_inputs(folder, split)
    if path.suffix.lower() == _QUESTIONS:
        return _questions(path, template, folder, split, vision)
    if path.is_dir() and vision is not None:
        return [vision.arrays(item) for item in evenly_spaced(image_files(list_images(path)), MOST)]
    return list(read_prepared(path, folder))


def answered_prompts(task: QuestionsTask[Any], maker: PromptMaker, most: int) -> list[Prompt]:
    """Returns at most so many prompts that end with their answers, evenly spaced."""
    found = []
    for number in evenly_spaced(range(len(task.questions)), most):
        question = task.questions[number]
        template = f"{maker.template or f'{IMAGE}{QUESTION}'} {question.answers[0]}"
        has_image = question.image or question.encoded is not None
        found.append(
            dataclasses.replace(maker, template=template).make(question, task.items[number] if has_image else None)
        )
    return found


def _questions(
    path: Path, template: str, folder: ModelFolder, split: Split, vision: VisionInputs | None
) -> list[Sample]:
    kind: Any = get_task("transcription")
    task = kind.from_files(path, path.parent, "")
    if split.cache is None and vision is not None:  # two towers, of which one reads images
        return [vision.arrays(item) for item in evenly_spaced(task.items, MOST)]
    tokens = special_tokens(folder, split)
    maker = PromptMaker(folder.config.name, vision, tokens.bos, read_tokenizer(folder.tokenizer, tokens.eos), template)
    return [
        {"input_ids": np.array([prompt.ids], np.int64), **prompt.images}
        for prompt in answered_prompts(task, maker, MOST)
    ]


def _vision_inputs(folder: ModelFolder, split: Split) -> VisionInputs | None:
    vision = next((part for part in split.parts if part.name == "vision"), None)
    if vision is None:
        return None
    dtypes = {name: str(tensor.numpy().dtype) for name, tensor in vision.inputs.items()}
    return VisionInputs(
        folder.path, folder.config.model_type, image_input(folder), dtypes, special_tokens(folder, split)
    )
