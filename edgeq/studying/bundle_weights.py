"""The weights of a model in parts: a bank for each part, and what its layers read when the model answers questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from edgeq.bundles.manifest import Bundle
from edgeq.files import sha256_json
from edgeq.generation.model import GeneratingModel, Prompt
from edgeq.generation.parts import OpenParts
from edgeq.progress import progress_bar
from edgeq.runtimes.base import Arrays
from edgeq.studying.bundle_layers import SEPARATOR, in_part
from edgeq.studying.model import RUNTIME
from edgeq.studying.space import Variant
from edgeq.studying.trials import StudyTrial
from edgeq.studying.weights import Wanted, WeightBank

Feeds = dict[str, list[dict[str, np.ndarray]]]


@dataclass(frozen=True, eq=False)
class PartsBank:
    """The weights of all choices of a model in parts; see `edgeq.studying.weights.Bank`.

    Attributes:
        banks: Name of a part -> the weights of its layers.
    """

    banks: Mapping[str, WeightBank]

    @cached_property
    def digest(self) -> str:
        """Identifies what all weights depend on."""
        return sha256_json([[part, bank.digest] for part, bank in self.banks.items()])

    @property
    def feeds(self) -> Sequence[Any]:
        """What methods go by, of the part that has most."""
        return max((bank.feeds for bank in self.banks.values()), key=len)

    def wanted(self, trials: Sequence[StudyTrial]) -> list[Wanted]:
        """Returns the weights that trials are made of, each once."""
        return [
            (f"{part}{SEPARATOR}{layer}", variant)
            for part, bank in self.banks.items()
            for layer, variant in bank.wanted([within(trial, part) for trial in trials])
        ]

    def missing(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """Returns those that are not in the folder."""
        return [
            (f"{part}{SEPARATOR}{layer}", variant)
            for part, bank, own in self._by_part(wanted)
            for layer, variant in bank.missing(own)
        ]

    def fill(self, wanted: Sequence[Wanted]) -> int:
        """Computes the weights that are not in the folder, and returns how many those were; raises as one bank does."""
        return sum(bank.fill(own) for _, bank, own in self._by_part(wanted))

    def matrix(self, layer: str) -> np.ndarray:
        """Returns the weight of a layer as a matrix `(out, in)`, float32."""
        part, name = layer.split(SEPARATOR, 1)
        return self.banks[part].matrix(name)

    def rounded(self, layer: str, variant: Variant | None) -> np.ndarray:
        """Returns a matrix by a method that reads no inputs."""
        part, name = layer.split(SEPARATOR, 1)
        return self.banks[part].rounded(name, variant)

    def _by_part(self, wanted: Sequence[Wanted]) -> Iterator[tuple[str, WeightBank, list[Wanted]]]:
        for part, bank in self.banks.items():
            named = [(in_part(layer, part), variant) for layer, variant in wanted]
            yield part, bank, [(name, variant) for name, variant in named if name is not None]


def within(trial: StudyTrial, part: str) -> StudyTrial:
    """Returns what a trial stores in one part, under the names of that part's graph."""
    named = {in_part(layer, part): variant for layer, variant in trial.weights.items()}
    return dataclasses.replace(trial, weights={name: each for name, each in named.items() if name is not None})


def gather_feeds(bundle: Bundle, prompts: Sequence[Prompt], threads: int | None) -> Feeds:
    """Returns name of a part -> what it reads, for each prompt with its answer.

    Args:
        bundle: The model, in FP32.
        prompts: Prompts that end with their answers.
        threads: CPU threads of the engine.

    Raises:
        InputError: a prompt is longer than the model's context.
        EngineError: the engine failed.
    """
    with OpenParts.open(bundle, RUNTIME, threads) as parts:
        recorders = {name: _Recorder(session) for name, session in parts.sessions.items()}
        model = GeneratingModel(dataclasses.replace(parts, sessions=recorders))  # type: ignore[arg-type]
        with progress_bar(len(prompts), "reading questions to calibrate on", unit="questions") as advance:
            for prompt in prompts:
                model.log_probabilities(prompt)
                advance(1)
    return {name: recorder.feeds for name, recorder in recorders.items()}


class _Recorder:
    """A session that keeps what it is given.

    Args:
        session: The session.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self.feeds: list[dict[str, np.ndarray]] = []

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Returns the outputs of the session."""
        self.feeds.append({name: array.copy() for name, array in inputs.items()})
        found: Arrays = self._session.run(inputs)
        return found
