"""The weights of a study: each layer is quantized once per choice, and kept in a file that trials name.

A layer is quantized for what it reads in the float model, and not for what it reads behind other quantized layers, as
an export does: only so is the result the same in every trial. Methods that read inputs share one walk over the
calibration images, which gathers the second moments of each tensor once for all choices. A file holds the floats that
the integers stand for, in the shape of the layer's weight, little-endian. It is named by all that it depends on, so
that an interrupted study, or another one of the same model, continues with what there is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

import edgeq
from edgeq.calibration.layer_inputs import moment_requests
from edgeq.calibration.quantize_layers import as_read, gather_moments, quantize_members
from edgeq.calibration.reconstruction.walk import Walk
from edgeq.calibration.statistics import Request
from edgeq.errors import InputError
from edgeq.exporting.graphs.digest import graph_digest
from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.jobs import PlannedWeight
from edgeq.exporting.planning.low_bit import as_matrix, as_stored
from edgeq.files import sha256_json, write_bytes
from edgeq.inputs import evenly_spaced
from edgeq.progress import progress_bar
from edgeq.quantizers import ROUND, get_weight_method
from edgeq.quantizers.recipes import get_recipe
from edgeq.studying.space import ALL_IMAGES, Variant
from edgeq.studying.trials import StudyTrial

if TYPE_CHECKING:
    import onnx_ir as ir

_FP16_MAX = 65504
_DIGITS = 32
Wanted = tuple[str, Variant | None]
"""A layer, and how its weight is stored; `None` is FP16."""


class Bank(Protocol):
    """The weights of all choices of a model, in one graph or several."""

    @property
    def digest(self) -> str:
        """Identifies what all weights depend on: the graph, the images, the versions."""

    @property
    def feeds(self) -> Sequence[Any]:
        """What methods go by."""

    def wanted(self, trials: Sequence[StudyTrial]) -> list[Wanted]:
        """Returns the weights that trials are made of, each once."""

    def missing(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """Returns those that are not in the folder."""

    def fill(self, wanted: Sequence[Wanted]) -> int:
        """Computes the weights that are not in the folder, and returns how many those were."""

    def matrix(self, layer: str) -> np.ndarray:
        """Returns the weight of a layer as a matrix `(out, in)`, float32."""

    def rounded(self, layer: str, variant: Variant | None) -> np.ndarray:
        """Returns a matrix by a method that reads no inputs."""


@dataclass(frozen=True, eq=False)
class WeightBank:
    """The weights of all choices of one graph.

    Attributes:
        graph: The float graph.
        layers: Names of the layers.
        feeds: Inputs of the graph to calibrate on, each by name.
        folder: Where the files are.
        threads: CPU threads of ONNX Runtime.
        samples: How many images, or questions, the inputs come from; by default as many as there are inputs.
    """

    graph: ir.Model
    layers: tuple[str, ...]
    feeds: Sequence[Mapping[str, np.ndarray]]
    folder: Path
    threads: int | None = None
    samples: int | None = None

    @cached_property
    def nodes(self) -> dict[str, ir.Node]:
        """Name of a layer -> its node."""
        return {str(node.name): node for node in self.graph.graph if node.name in set(self.layers)}

    @cached_property
    def digest(self) -> str:
        """Identifies what all weights depend on: the graph, the images, the versions."""
        digest = hashlib.sha256()
        for feed in self.feeds:
            for name, array in sorted(feed.items()):
                digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return sha256_json([graph_digest(self.graph), digest.hexdigest(), edgeq.__version__, version("onnxruntime")])

    def path(self, layer: str, variant: Variant | None) -> Path:
        """Returns the file of a layer's weight."""
        name = sha256_json([self.digest, layer, "" if variant is None else str(variant)])[:_DIGITS]
        return self.folder / f"{name}.bin"

    def wanted(self, trials: Sequence[StudyTrial]) -> list[Wanted]:
        """Returns the weights that trials are made of, each once."""
        found: dict[Wanted, None] = {}
        for trial in trials:
            for layer in self.layers:
                found.setdefault((layer, trial.weights.get(layer)))
        return list(found)

    def missing(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """Returns those that are not in the folder."""
        return [each for each in wanted if not self.path(*each).is_file()]

    def fill(self, wanted: Sequence[Wanted]) -> int:
        """Computes the weights that are not in the folder, and returns how many those were.

        Raises:
            InputError: a method needs images and there are none, or a file cannot be written.
            EngineError: ONNX Runtime cannot run the graph.
        """
        missing = self.missing(wanted)
        by_inputs = [each for each in missing if each[1] is not None and get_recipe(each[1].method).reads_inputs]
        if by_inputs and not self.feeds:
            raise InputError("`calib`: a method goes by what layers read; give images, or take rtn and hqq alone")
        counts = dict.fromkeys(variant.calibration for _, variant in by_inputs if variant is not None)
        feeds = {count: self.feeds_of(count) for count in counts}
        plain = [each for each in missing if each not in set(by_inputs)]
        with progress_bar(len(missing), "quantizing weights", unit="weights") as advance:
            for layer, variant in plain:
                self._keep(layer, variant, self.rounded(layer, variant))
                advance(1)
            for count, some in feeds.items():
                asked = [each for each in by_inputs if each[1] is not None and each[1].calibration == count]
                for layer, variant, matrix in self._by_inputs(asked, some):
                    self._keep(layer, variant, matrix)
                    advance(1)
        return len(missing)

    def feeds_of(self, calibration: int) -> Sequence[Mapping[str, np.ndarray]]:
        """Returns the inputs of so many images, evenly spaced; of all for `ALL_IMAGES`.

        Raises:
            InputError: there are fewer images.
        """
        samples = len(self.feeds) if self.samples is None else self.samples
        if calibration == ALL_IMAGES:
            return self.feeds
        if calibration > samples:
            raise InputError(f"the axis calibration has {calibration:,}: `calib` has {samples:,} images; give more")
        return evenly_spaced(self.feeds, -(-len(self.feeds) * calibration // samples)) if self.feeds else self.feeds

    def matrix(self, layer: str) -> np.ndarray:
        """Returns the weight of a layer as a matrix `(out, in)`, float32."""
        weight = weight_of(self.nodes[layer])
        assert weight is not None  # noqa: S101 - a layer of a study has one
        return as_matrix(self.nodes[layer], weight)

    def rounded(self, layer: str, variant: Variant | None) -> np.ndarray:
        """Returns a matrix by a method that reads no inputs."""
        matrix = self.matrix(layer)
        if variant is None:
            fits = np.abs(matrix).max(initial=0) <= _FP16_MAX
            return matrix.astype(np.float16).astype(np.float32) if fits else matrix
        method = get_weight_method(get_recipe(variant.method).method)
        return method(matrix, variant.scheme, {}).dequantize()

    def _by_inputs(
        self, wanted: Sequence[Wanted], feeds: Sequence[Mapping[str, np.ndarray]]
    ) -> Iterator[tuple[str, Variant, np.ndarray]]:
        """Yields matrices by methods that go by what layers read; a layer whose inputs are not gathered is rounded."""
        requests = {name: each for name, each in moment_requests(self.graph).items() if name in self.nodes}
        readers: dict[Request, list[str]] = {}
        for name, request in requests.items():
            readers.setdefault(request, []).append(name)
        asked = set(wanted)
        needed = {each: names for each, names in readers.items() if any(layer in names for layer, _ in asked)}
        walk = Walk(self.graph, feeds, [each.tensor for each in needed], self.threads) if needed else None
        for request, names in needed.items():
            assert walk is not None  # noqa: S101 - something is needed
            moments = gather_moments(walk.reach([request.tensor])[request.tensor], request)
            for variant in dict.fromkeys(variant for layer, variant in wanted if layer in names and variant):
                # All that read a tensor take part, whatever is asked for: AWQ has one scale for them.
                members = {name: PlannedWeight(self.matrix(name), variant.scheme) for name in names}
                quantized, scales = quantize_members(members, moments, get_recipe(variant.method), request)
                for name, each in quantized.items():
                    if (name, variant) in asked:
                        yield name, variant, as_read(each, scales, request)
        for layer, unread in wanted:
            if layer not in requests and unread is not None:
                yield layer, unread, get_weight_method(ROUND)(self.matrix(layer), unread.scheme, {}).dequantize()

    def _keep(self, layer: str, variant: Variant | None, matrix: np.ndarray) -> None:
        stored = as_stored(self.nodes[layer], matrix)
        write_bytes(self.path(layer, variant), stored.astype("<f4").tobytes())
