"""Questions of a task, answered by a bundle: what `edgeq score` reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgeq.errors import InputError
from edgeq.generation.model import GeneratingModel
from edgeq.generation.prompts import PromptMaker
from edgeq.generation.search import Limits
from edgeq.tasks.language.questions_task import QuestionsTask

Line = dict[str, Any]

_WORDS = 5
_WORD_TOKENS = 8


@dataclass(frozen=True)
class AnswerOptions:
    """How questions are answered.

    Attributes:
        max_tokens: Most tokens of an answer.
        beams: Texts that beam search follows; 1 for greedy search.
        batch: Prompts that are read together in greedy search.
        stride: Tokens by which windows of long texts move on, for perplexity; by default half of the context.
    """

    max_tokens: int = 32
    beams: int = 1
    batch: int = 8
    stride: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_tokens", "beams", "batch"):
            if (value := getattr(self, name)) < 1:
                raise InputError(f"`{name}` {value}: wanted at least 1")
        if self.stride is not None and self.stride < 1:
            raise InputError(f"`stride` {self.stride}: wanted at least 1")


def answered(
    task: QuestionsTask[Any], model: GeneratingModel, maker: PromptMaker, options: AnswerOptions
) -> Iterator[Line]:
    """Yields the lines of a file of answers, in the order of the questions.

    Args:
        task: The task, with its questions.
        model: What answers.
        maker: Makes prompts of questions.
        options: How they are answered.

    Raises:
        InputError: the task is not about texts, a prompt is too long, or an image cannot be read.
        EngineError: the engine failed.
    """
    if task.asks_for == "vectors":
        raise InputError(f"{task.name}: compares vectors, which {model.bundle.name} does not give; use another task")
    if task.asks_for == "likelihood":
        lines = _foreseen(task, model, maker, options)
    elif task.asks_for == "next words":
        lines = _last_words(task, model, maker)
    else:
        lines = _texts(task, model, maker, options)
    yield from lines


def _limits(model: GeneratingModel, max_tokens: int) -> Limits:
    return Limits(model.bundle.tokens.eos, max_tokens)


def _texts(
    task: QuestionsTask[Any], model: GeneratingModel, maker: PromptMaker, options: AnswerOptions
) -> Iterator[Line]:
    limits = _limits(model, options.max_tokens)
    size = options.batch if options.beams == 1 else 1
    for numbers in _chunks(range(len(task.questions)), size):
        prompts = [maker.make(task.questions[number], _item(task, number)) for number in numbers]
        if options.beams == 1:
            found = model.generate(prompts, limits)
        else:
            found = [model.beams(prompts[0], limits, options.beams)[0].tokens]
        for number, tokens in zip(numbers, found, strict=True):
            yield {"id": task.names[number], "answer": maker.tokenizer.decode(tokens)}


def _last_words(task: QuestionsTask[Any], model: GeneratingModel, maker: PromptMaker) -> Iterator[Line]:
    """Yields the words that begin with the likeliest tokens, each continued greedily to its end."""
    for number, question in enumerate(task.questions):
        prompt = maker.make(question, _item(task, number))
        texts = [maker.tokenizer.decode(each) for each in model.starts(prompt, _limits(model, _WORD_TOKENS), _WORDS)]
        words = dict.fromkeys(text.split()[0] for text in texts if text.split())
        yield {"id": question.name, "answers": list(words)}


def _foreseen(
    task: QuestionsTask[Any], model: GeneratingModel, maker: PromptMaker, options: AnswerOptions
) -> Iterator[Line]:
    """Yields a line per window of each text."""
    plain = dataclasses.replace(maker, template="")
    for question in task.questions:
        whole = plain.make(dataclasses.replace(question, prompt=question.answers[0]), None)
        if len(whole.ids) < 2:
            raise InputError(f"{question.name}: has one token; nothing foresees a text's first token")
        width = model.context or len(whole.ids)
        stride = options.stride or max(1, width // 2)
        if stride >= width:
            raise InputError(f"`stride` {stride:,}: wanted less than the {width:,} tokens of the model's context")
        for start in range(0, len(whole.ids) - 1, stride):
            window = dataclasses.replace(whole, ids=whole.ids[start : start + width])
            logprobs = [round(float(each), 6) for each in model.log_probabilities(window)]
            yield {"id": question.name, "start": start + 1, "logprobs": logprobs}
            if start + width >= len(whole.ids):
                break


def _item(task: QuestionsTask[Any], number: int) -> Any:
    question = task.questions[number]
    return task.items[number] if question.image or question.encoded is not None else None


def _chunks(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
