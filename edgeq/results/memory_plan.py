"""`MemoryPlan`: what a model takes of a device's memory, part by part, and the precisions with which it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgeq.boundary import Count, Positive
from edgeq.results.serialization import OMIT_EMPTY, RESULTS_VERSION


@dataclass(frozen=True, kw_only=True)
class PlannedPart:
    """A part of a model.

    Attributes:
        name: `vision`, `connector`, `embedding`, `text`, `decoder`, `encoder` or `head`.
        parameters: Its weights, exactly. A head that is the embedding once more is not a part.
        quantizable: Those of linear layers and embedding tables, which low bits are for.
        bytes_by_precision: Precision -> bytes of its weights, with scales and zero points.
    """

    name: str
    parameters: Count
    quantizable: Count
    bytes_by_precision: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """What is in memory at the peak, in bytes.

    Attributes:
        weights: Part -> its weights.
        cache: Keys and values of the whole context.
        activations: Outputs of layers at the peak: while an image is encoded, or while the whole context is read.
        engine: Code and buffers of the engine, without the model.
        system: What the operating system takes, and what its firmware keeps.
    """

    weights: Mapping[str, int]
    cache: Count
    activations: Count
    engine: Count
    system: Count

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.weights.values()) + self.cache + self.activations + self.engine + self.system


@dataclass(frozen=True, kw_only=True)
class PlannedPrecision:
    """A precision for every part, and what the model takes then.

    Attributes:
        name: What it is called: the float type, `decoder-8`, `uniform-8`, `asymmetric`, `asymmetric-8` or `uniform-4`.
        precisions: Part -> precision of its weights.
        weight_bytes: All weights.
        total_bytes: Everything.
        fits: Whether that is within the budget.
        risky: Whether it is known to cost much of the score, so that it is never recommended.
    """

    name: str
    precisions: Mapping[str, str]
    weight_bytes: Count
    total_bytes: Count
    fits: bool
    risky: bool = False


@dataclass(frozen=True, kw_only=True)
class MemoryAdvice:
    """Something to change where nothing fits.

    Attributes:
        change: What to do.
        options: Parameter of `edgeq.plan` -> its values, which do it.
        precision: Name of the precision that fits then.
        total_bytes: What the model takes then.
    """

    change: str
    options: Mapping[str, tuple[str, ...]]
    precision: str
    total_bytes: Count


@dataclass(frozen=True, kw_only=True)
class MeasuredMemory:
    """What a real process took on this machine, in FP32, next to what is planned for it.

    Attributes:
        engine: Engine with its version.
        weights: Bytes of all weights, counted in the process.
        planned_weights: Those of the plan.
        cache: Bytes of keys and values after the context was read, counted in the process; 0 without a decoder.
        planned_cache: Those of the plan.
        activations: How much the process grew while the context was read, the cache not counted.
        planned_activations: Those of the plan.
        engine_bytes: What the process took before it had a model.
        peak: The most that the process took.
        context: Tokens that were read.
        with_image: Whether an image was read before; families that cut images are measured without one.
        random_weights: Whether the weights were drawn, because the folder has none.
    """

    engine: str
    weights: Count
    planned_weights: Count
    cache: Count
    planned_cache: Count
    activations: Count
    planned_activations: Count
    engine_bytes: Count
    peak: Count
    context: Count
    with_image: bool
    random_weights: bool

    @property
    def planned_peak(self) -> int:
        """What the plan says of the peak, with the measured engine."""
        return self.engine_bytes + self.planned_weights + self.planned_cache + self.planned_activations


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What a model takes of a device's memory.

    Attributes:
        model: Name of its folder.
        family: Its `model_type`.
        parameters: All weights, exactly.
        device: Name of the device.
        budget_bytes: Its memory.
        context: Tokens that are planned for.
        most_tokens: Most tokens that the model was made for; 0 for a model without texts.
        image: Height and width of the image that is planned for; empty for a model without images.
        image_tokens: Tokens that it takes of the context.
        attended_tokens: Tokens that layers of cross-attention read besides the context.
        image_note: How the model resizes or cuts the image.
        cache_type: What keys and values are stored in: `fp32`, `fp16` or `int8`; empty for a model without a cache.
        parts: Its parts.
        precisions: What was tried, the best first.
        chosen: Name of the best one that fits; `None` if none does.
        use: What is in memory with it, or with the smallest one if none fits.
        most_context: Tokens that would fit with it, at most those that the model was made for; `None` if none fits.
        advice: What to change if none fits.
        assumptions: What is not known from the description, in sentences.
        measured: A real process; only with `measure`.
        results_version: Version of this form.
    """

    model: str
    family: str
    parameters: Count
    device: str
    budget_bytes: Count
    context: Count
    most_tokens: Count
    image: tuple[int, ...] = ()
    image_tokens: Count = 0
    attended_tokens: Count = 0
    image_note: str = ""
    cache_type: Literal["fp32", "fp16", "int8", ""] = ""
    parts: tuple[PlannedPart, ...]
    precisions: tuple[PlannedPrecision, ...]
    chosen: str | None
    use: MemoryUse
    most_context: Count | None = None
    advice: tuple[MemoryAdvice, ...] = field(default=(), metadata=OMIT_EMPTY)
    assumptions: tuple[str, ...] = ()
    measured: MeasuredMemory | None = field(default=None, metadata=OMIT_EMPTY)
    results_version: Positive = RESULTS_VERSION

    @property
    def fits(self) -> bool:
        """Whether a precision fits."""
        return self.chosen is not None

    @property
    def shown(self) -> PlannedPrecision:
        """The chosen precision, or the smallest one that is not risky."""
        named = [each for each in self.precisions if each.name == self.chosen]
        safe = [each for each in self.precisions if not each.risky]
        return named[0] if named else min(safe, key=lambda each: each.total_bytes)
