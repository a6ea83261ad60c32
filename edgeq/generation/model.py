"""`GeneratingModel`: a bundle that reads prompts with images and writes tokens."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeq.bundles.cutting import NEW_LINE
from edgeq.bundles.families.parts import GRIDS, PIXELS, ROWS
from edgeq.bundles.manifest import Bundle
from edgeq.errors import InputError, MismatchError
from edgeq.generation.decoder import Decoder, Floats, Integers
from edgeq.generation.image_positions import image_positions
from edgeq.generation.parts import OpenParts
from edgeq.generation.search import Beam, Limits, StepTimes, Tokens, beam_search, greedy


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a model is given.

    Attributes:
        name: How messages call it.
        ids: Its tokens, those that stand for rows of images included.
        images: Inputs of the vision part, one batch of all images of the prompt; empty without an image.
    """

    name: str
    ids: Tokens
    images: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Times:
    """How long a model took, in ns.

    Attributes:
        images_ns: For images, over all prompts.
        prefill_ns: Until the first token could be chosen, images included, a number per batch.
        steps: For each step after it.
    """

    images_ns: int = 0
    prefill_ns: list[int] = field(default_factory=list)
    steps: StepTimes = field(default_factory=StepTimes)


class GeneratingModel:
    """Open parts that generate. One prompt or a batch at a time.

    Args:
        parts: The parts, open.

    Attributes:
        bundle: What they are of.
        context: Most tokens of a prompt with what follows it.
        times: What all calls took.
    """

    def __init__(self, parts: OpenParts) -> None:
        self.bundle: Bundle = parts.bundle
        self.context = parts.bundle.memory.context
        self.times = Times()
        self._parts = parts
        self._decoder = Decoder(parts)

    def generate(self, prompts: Sequence[Prompt], limits: Limits) -> list[Tokens]:
        """Returns the likeliest tokens after each prompt, chosen one by one, without the end token.

        Raises:
            InputError: a prompt and `max_tokens` are longer than the model's context.
            MismatchError: a prompt has another number of image tokens than its images give.
            EngineError: the engine failed.
        """
        logits = self._prefill(prompts, limits)
        return greedy(self, logits[:, -1], limits, self.times.steps)

    def beams(self, prompt: Prompt, limits: Limits, beams: int) -> list[Beam]:
        """Returns the texts that beam search finds after a prompt, the likeliest first; raises as `generate` does."""
        logits = self._prefill([prompt], limits)
        return beam_search(self, logits[:, -1], limits, beams, self.times.steps)

    def starts(self, prompt: Prompt, limits: Limits, count: int) -> list[Tokens]:
        """Returns the texts that begin with each of the `count` likeliest tokens, continued greedily.

        Raises as `generate` does. A token that ends a text gives an empty one.
        """
        logits = self._prefill([prompt], limits)[0, -1]
        firsts = [int(token) for token in np.argsort(-logits, kind="stable")[:count]]
        going = [token for token in firsts if token not in limits.ends]
        rest: dict[int, Tokens] = {}
        if going and limits.max_tokens > 1:
            self.keep([0] * len(going))
            after = self.times.steps.timed(self.step, going)
            shorter = dataclasses.replace(limits, max_tokens=limits.max_tokens - 1)
            rest = dict(zip(going, greedy(self, after, shorter, self.times.steps), strict=True))
        return [(token, *rest.get(token, ())) if token in going else () for token in firsts]

    def log_probabilities(self, prompt: Prompt) -> Floats:
        """Returns the log-probability of each token but the first, given those before it, `(tokens - 1,)`."""
        logits = self._prefill([prompt], Limits((), 0))[0, :-1].astype(np.float64)
        highest = logits.max(axis=-1)
        total = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=-1))
        chosen = logits[np.arange(len(logits)), list(prompt.ids[1:])]
        found: Floats = np.minimum(chosen - total, 0).astype(np.float32)
        return found

    def step(self, tokens: Sequence[int]) -> Floats:
        """Returns the logits after one further token of each row; see `edgeq.generation.search.Stepper`."""
        return self._decoder.step(self._embedded(np.array(tokens, np.int64)[:, None], None))

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with some of the rows, in an order."""
        self._decoder.keep(list(rows))

    def _prefill(self, prompts: Sequence[Prompt], limits: Limits) -> Floats:
        for prompt in prompts:
            self._require_room(prompt, limits)
        started = time.perf_counter_ns()
        features = self._features([prompt for prompt in prompts if prompt.images])
        self.times.images_ns += time.perf_counter_ns() - started
        longest = max(len(prompt.ids) for prompt in prompts)
        ids = np.full((len(prompts), longest), self._filling, np.int64)
        mask = np.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt.ids) :] = prompt.ids
            mask[row, longest - len(prompt.ids) :] = 1
        self._require_image_tokens(prompts, ids, features)
        logits = self._decoder.read(self._embedded(ids, features), mask, self._places(prompts, longest))
        self.times.prefill_ns.append(time.perf_counter_ns() - started)
        return logits

    @property
    def _filling(self) -> int:
        tokens = self.bundle.tokens
        known = [each for each in (tokens.pad, *tokens.eos[:1]) if each is not None and each >= 0]
        return known[0] if known else 0

    def _require_room(self, prompt: Prompt, limits: Limits) -> None:
        if not prompt.ids:
            raise InputError(f"{prompt.name}: its prompt has no tokens; wanted at least one")
        if self.context and len(prompt.ids) + limits.max_tokens > self.context:
            asked = f" and `max_tokens` {limits.max_tokens:,}" if limits.max_tokens else ""
            raise InputError(
                f"{prompt.name}: {len(prompt.ids):,} tokens{asked} are more than the {self.context:,} that "
                f"{self.bundle.name} was made for; shorten the prompt, or lower `max_tokens`"
            )

    def _features(self, prompts: Sequence[Prompt]) -> NDArray[np.floating] | None:
        """Returns the rows of all images, one below the other `(rows, width)`; `None` without an image."""
        if not prompts:
            return None
        names = prompts[0].images
        outputs = self._parts.run(
            "vision", {name: np.concatenate([each.images[name] for each in prompts]) for name in names}
        )
        if self.bundle.part("connector") is not None:
            fed = {edge.input: outputs[edge.output] for edge in self.bundle.edges if edge.target == "connector"}
            if ROWS in names:
                (hidden,) = fed.values()
                fed[ROWS] = _joined_rows(prompts, hidden.shape[1])
            outputs = self._parts.run("connector", fed)
        (features,) = outputs.values()
        return features.reshape(-1, features.shape[-1])

    def _places(self, prompts: Sequence[Prompt], longest: int) -> Integers | None:
        """Returns time, row and column of the tokens of prompts, `(3, batch, longest)`; `None` if they are the same."""
        images = self.bundle.images
        if self.bundle.positions != "multimodal" or images is None or images.patches is None:
            return None
        found = np.zeros((3, len(prompts), longest), np.int64)
        for row, each in enumerate(prompts):
            token, grids = self.bundle.tokens.image, each.images.get(GRIDS)
            found[:, row, longest - len(each.ids) :] = image_positions(each.ids, token, grids, images.patches.merge)
        return found

    def _require_image_tokens(
        self, prompts: Sequence[Prompt], ids: Integers, features: NDArray[np.floating] | None
    ) -> None:
        image = self.bundle.tokens.image
        wanted = 0 if image is None else int((ids == image).sum())
        given = 0 if features is None else len(features)
        if wanted != given:
            names = prompts[0].name + (f" and {len(prompts) - 1} more" if len(prompts) > 1 else "")
            raise MismatchError(
                f"{names}: its prompt has {wanted:,} image tokens, and the images give {given:,} rows; put "
                "`<image>` into the prompt once per image"
            )

    def _embedded(self, ids: Integers, features: NDArray[np.floating] | None) -> Floats:
        part = self.bundle.require_part("embedding")
        (output,) = (each.name for each in part.outputs)
        merged = next((each for each in part.inputs if each.name != "input_ids"), None)
        if merged is not None:
            width = part.outputs[0].shape[-1]
            empty = np.zeros((0, width if isinstance(width, int) else 0), merged.dtype)
            given = empty if features is None else features.astype(merged.dtype, copy=False)
            return self._parts.run("embedding", {"input_ids": ids, merged.name: given})[output]
        embeds = self._parts.run("embedding", {"input_ids": ids})[output]
        if features is not None:
            embeds[ids == self.bundle.tokens.image] = features
        return embeds


def _joined_rows(prompts: Sequence[Prompt], tokens: int) -> Integers:
    """Returns which rows of all tiles are read, of prompts whose tiles lie one below the other.

    Args:
        prompts: Prompts with images in tiles.
        tokens: Rows of a tile.
    """
    found, before = [], 0
    for each in prompts:
        rows = each.images[ROWS]
        found.append(np.where(rows == NEW_LINE, NEW_LINE, rows + before))
        before += len(each.images[PIXELS]) * tokens
    return np.concatenate(found)
