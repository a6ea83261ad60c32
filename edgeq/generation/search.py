"""Greedy and beam search, as transformers' `generate` does them without sampling."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Tokens = tuple[int, ...]


class Stepper(Protocol):
    """What a search drives."""

    def step(self, tokens: Sequence[int]) -> Floats:
        """Returns the logits `(rows, vocabulary)` after one further token of each row."""

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with some of the rows, in an order."""


@dataclass(frozen=True)
class Limits:
    """When a text ends.

    Attributes:
        ends: Tokens that end it.
        max_tokens: Most tokens of it, the end token included.
    """

    ends: tuple[int, ...]
    max_tokens: int


@dataclass
class StepTimes:
    """How long each step took.

    Attributes:
        steps_ns: Times of steps after the first token, in ns.
        now: The clock.
    """

    steps_ns: list[int] = field(default_factory=list)
    now: Callable[[], int] = time.perf_counter_ns

    def timed(self, step: Callable[[Sequence[int]], Floats], tokens: Sequence[int]) -> Floats:
        """Returns the logits of a step, its time noted."""
        started = self.now()
        logits = step(tokens)
        self.steps_ns.append(self.now() - started)
        return logits


def greedy(stepper: Stepper, logits: Floats, limits: Limits, times: StepTimes | None = None) -> list[Tokens]:
    """Returns the tokens that follow each prompt, the likeliest one each time, without the end token.

    Args:
        stepper: What has read the prompts.
        logits: Logits after each prompt `(batch, vocabulary)`.
        limits: When a text ends.
        times: Notes the time of each step.
    """
    times = times or StepTimes()
    found: list[list[int]] = [[] for _ in logits]
    open_rows = list(range(len(found)))
    for count in range(limits.max_tokens):
        chosen = logits.argmax(axis=1)
        going = [row for row, token in enumerate(chosen) if int(token) not in limits.ends]
        for row in going:
            found[open_rows[row]].append(int(chosen[row]))
        open_rows = [open_rows[row] for row in going]
        if not open_rows or count + 1 == limits.max_tokens:
            break
        if len(going) < len(chosen):
            stepper.keep(going)
        logits = times.timed(stepper.step, [int(chosen[row]) for row in going])
    return [tuple(each) for each in found]


class Beam(NamedTuple):
    """A text that beam search offers.

    Attributes:
        score: Mean log-probability of its tokens, the end token included.
        tokens: Its tokens, without the end token.
    """

    score: float
    tokens: Tokens


def beam_search(
    stepper: Stepper, logits: Floats, limits: Limits, beams: int, times: StepTimes | None = None
) -> list[Beam]:
    """Returns up to `beams` texts that follow one prompt, the likeliest first.

    Scores are divided by the length, and the search ends when the best open text can no longer beat the worst
    finished one, as with `length_penalty` 1 and `early_stopping` false in transformers.

    Args:
        stepper: What has read the prompt, in one row.
        logits: Logits after it `(1, vocabulary)`.
        limits: When a text ends.
        beams: How many texts are followed at a time.
        times: Notes the time of each step.
    """
    times = times or StepTimes()
    texts: list[Tokens] = [()]
    scores = np.zeros(1, np.float32)
    finished: list[Beam] = []
    for length in range(1, limits.max_tokens + 1):
        totals = _log_softmax(logits) + scores[:, None]
        going: list[tuple[int, int, float]] = []
        for rank, (row, token) in enumerate(_best(totals, (1 + len(limits.ends)) * beams)):
            score, ended = float(totals[row, token]), token in limits.ends
            if (ended or length == limits.max_tokens) and rank < beams:
                finished.append(Beam(score / length, texts[row] + (() if ended else (token,))))
            if not ended and len(going) < beams:
                going.append((row, token, score))
        finished = sorted(finished, key=lambda beam: -beam.score)[:beams]
        if length == limits.max_tokens or not going or _is_settled(finished, beams, going[0][2] / length):
            break
        rows, tokens = [each[0] for each in going], [each[1] for each in going]
        texts = [(*texts[row], token) for row, token in zip(rows, tokens, strict=True)]
        scores = np.array([each[2] for each in going], np.float32)
        stepper.keep(rows)
        logits = times.timed(stepper.step, tokens)
    return finished


def _is_settled(finished: Sequence[Beam], beams: int, best_open: float) -> bool:
    return len(finished) == beams and best_open <= finished[-1].score


def _best(totals: Floats, count: int) -> list[tuple[int, int]]:
    """Returns row and token of the highest totals, the highest first."""
    flat = totals.reshape(-1)
    count = min(count, flat.size)
    top = np.argpartition(-flat, count - 1)[:count]
    ordered = top[np.argsort(-flat[top], kind="stable")]
    return [divmod(int(each), totals.shape[1]) for each in ordered]


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    found: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found
