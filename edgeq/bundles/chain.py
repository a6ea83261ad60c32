"""Feeds of a part: what the parts before it give for samples, and what a run without a past is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeq.bundles.contents import TABLE
from edgeq.bundles.families.parts import EMBEDS, FEATURES, IDS, PIXELS, ROWS

if TYPE_CHECKING:
    from edgeq.bundles.families.parts import Split
    from edgeq.bundles.session import PartSession
    from edgeq.bundles.torch_part import TorchPart

Sample = Mapping[str, np.ndarray]
"""What goes into the first parts, by the names of their inputs: `input_ids` `(1, seq)`, `pixel_values`, ..."""


class Chain:
    """Samples on their way through the parts of a model.

    Args:
        split: The model in parts.
        samples: What goes in.
    """

    def __init__(self, split: Split, samples: Sequence[Sample]) -> None:
        self._split = split
        self._known: list[dict[tuple[str, str], np.ndarray]] = [
            {("", name): each[name] for name in each} for each in samples
        ]

    def feeds(self, part: TorchPart) -> list[dict[str, np.ndarray]]:
        """Returns what a part reads for each sample that reaches it.

        Texts do not reach a vision part, and images without a text reach nothing else.
        """
        found = [self._feed(part, known) for known in self._known]
        return [feed for feed in found if feed is not None]

    def run(self, part: TorchPart, session: PartSession) -> None:
        """Keeps what the file of a part gives, for the parts behind it; the last part's is not needed."""
        if not any(edge.source == part.name for edge in self._split.edges):
            return
        for known in self._known:
            feed = self._feed(part, known)
            if feed is not None:
                given = zip(session.outputs, session.run(feed), strict=True)
                known.update({(part.name, name): array for name, array in given})

    def _feed(self, part: TorchPart, known: Mapping[tuple[str, str], np.ndarray]) -> dict[str, np.ndarray] | None:
        sources = {
            edge.input: (str(edge.source), edge.output) for edge in self._split.edges if edge.target == part.name
        }
        feed: dict[str, np.ndarray] = {}
        for name in part.inputs:
            array = known.get(sources.get(name, ("", name)))
            if array is not None:
                feed[name] = array
            elif name == FEATURES and part.name == TABLE:
                feed[name] = np.zeros((0, part.inputs[name].shape[1]), np.float32)
            elif name in (PIXELS, ROWS, IDS) or name in sources:
                return None
        return {name: feed[name] if name in feed else self._told(part, name, feed) for name in part.inputs}

    def _told(self, part: TorchPart, name: str, feed: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the mask, positions and past of a run that reads everything at once."""
        batch, seq = (feed[EMBEDS] if EMBEDS in feed else feed[IDS]).shape[:2]
        if name == "attention_mask":
            return np.ones((batch, seq), np.int64)
        example = part.inputs[name]
        if name == "position_ids":
            numbers = np.broadcast_to(np.arange(seq), (batch, seq))
            return np.ascontiguousarray(np.broadcast_to(numbers, (*example.shape[:-2], batch, seq)))
        shape = list(example.shape)
        shape[0], shape[2] = batch, 0
        return np.zeros(shape, np.float32)
