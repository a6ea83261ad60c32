"""From an architecture and a device to a `MemoryPlan`: what fits, what is left, and what to change if nothing fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgeq.errors import InputError
from edgeq.memory.architecture import Architecture, ImageSize, ImageTokens
from edgeq.memory.boards import Board
from edgeq.memory.ladder import EIGHT, FOUR, Rung, rungs
from edgeq.memory.run_time import ASSUMPTIONS, CACHE_BYTES, activation_bytes, cache_bytes
from edgeq.memory.storage import stored_bytes
from edgeq.results.memory_plan import MemoryAdvice, MemoryPlan, MemoryUse, PlannedPart, PlannedPrecision
from edgeq.wording import counted

DEFAULT_CONTEXT = 2048
"""Tokens that are planned for: more if an image alone takes as many, fewer if the model was not made for as many."""

SHOWN_PRECISIONS = ("fp32", "fp16", EIGHT, FOUR, "w4g32a", "nf4")
"""The precisions that a plan states for each part."""

_FLOATS = ("fp32", "fp16")
# A question and its answer, besides the image.
_LEAST_TEXT = 128
_STEP = 64


@dataclass(frozen=True)
class PlanRequest:
    """What a model is to do on a device.

    Attributes:
        board: The device.
        budget_bytes: Its memory; by default what the device has.
        reserved_bytes: What system and engine take together; by default what is known or assumed of the device.
        context: Tokens; by default `DEFAULT_CONTEXT`.
        image: Height and width of its images; by default the model's own size.
        cache: What keys and values are stored in: the engine's `float`, or `int8`.
        pinned: Part -> the precision that it has in any case.
    """

    board: Board
    budget_bytes: int | None = None
    reserved_bytes: int | None = None
    context: int | None = None
    image: ImageSize | None = None
    cache: Literal["float", "int8"] = "float"
    pinned: Mapping[str, str] = field(default_factory=dict)


def plan_memory(name: str, model: Architecture, request: PlanRequest) -> MemoryPlan:
    """Returns what a model takes of a device's memory.

    Args:
        name: What the model is called.
        model: The model.
        request: What it is to do.

    Raises:
        InputError: the context is beyond the model's, the image takes more than it, the memory is less than what
            system and engine take, or a part or precision is unknown.
    """
    planner = _Planner(model, request)
    tried = [planner.priced(each) for each in planner.rungs]
    fitting = [each for each in tried if each.fits and not each.risky]
    safe = [each for each in tried if not each.risky]
    shown = fitting[0] if fitting else min(safe, key=lambda each: each.total_bytes)
    image = planner.image
    return MemoryPlan(
        model=name,
        family=model.family,
        parameters=model.parameters,
        device=request.board.name,
        budget_bytes=planner.budget,
        context=planner.context,
        most_tokens=model.context,
        image=planner.image_size or (),
        image_tokens=0 if image is None else image.prompt,
        attended_tokens=0 if image is None else image.attended,
        image_note="" if image is None else image.note,
        cache_type=planner.cache_type,
        parts=planner.parts(),
        precisions=tuple(tried),
        chosen=shown.name if fitting else None,
        use=planner.use(shown.precisions),
        most_context=planner.most_context(shown.precisions) if fitting else None,
        advice=() if fitting else tuple(planner.advice(tried)),
        assumptions=(request.board.source, *ASSUMPTIONS) if request.reserved_bytes is None else ASSUMPTIONS,
    )


class _Planner:
    """Prices choices for one model on one device."""

    def __init__(self, model: Architecture, request: PlanRequest) -> None:
        self._model, self._request, board = model, request, request.board
        self.budget = board.memory_bytes if request.budget_bytes is None else request.budget_bytes
        self._system, self._engine = board.system_bytes, board.engine_bytes
        if request.reserved_bytes is not None:
            self._system, self._engine = request.reserved_bytes, 0
        if self.budget <= self._system + self._engine:
            raise InputError(
                f"`memory` of {self.budget / 1e9:.2f} GB: system and engine take {self._taken / 1e9:.2f} GB of it, "
                "which leaves nothing for a model; give more, or state with `reserved` what they take"
            )
        self.rungs = rungs(model.parts, board.floats, request.pinned)
        self.image_size, self.image = self._image()
        self.context = self._context()

    @property
    def _taken(self) -> int:
        return self._system + self._engine

    @property
    def cache_type(self) -> Literal["fp32", "fp16", "int8", ""]:
        """What keys and values are stored in."""
        if self._model.decoder is None:
            return ""
        return "int8" if self._request.cache == "int8" else self._request.board.floats

    def parts(self) -> tuple[PlannedPart, ...]:
        """Returns the parts with their bytes in the precisions that plans state."""
        return tuple(
            PlannedPart(
                name=part.name,
                parameters=part.weights.parameters,
                quantizable=part.weights.quantizable,
                bytes_by_precision={
                    each: stored_bytes(part.weights, each, each if each in _FLOATS else self._request.board.floats)
                    for each in SHOWN_PRECISIONS
                },
            )
            for part in self._model.parts
        )

    def use(self, precisions: Mapping[str, str], context: int | None = None, cache: str | None = None) -> MemoryUse:
        """Returns what is in memory at the peak.

        Args:
            precisions: Part -> precision.
            context: Tokens; by default those that are planned for.
            cache: What keys and values are stored in; by default as planned.
        """
        model, floats = self._model, self._request.board.floats
        tokens = self.context if context is None else context
        attended = 0 if self.image is None else self.image.attended
        kind = cache or self.cache_type
        return MemoryUse(
            weights={part.name: stored_bytes(part.weights, precisions[part.name], floats) for part in model.parts},
            cache=cache_bytes(model.decoder, tokens, attended, kind) if model.decoder is not None else 0,
            activations=activation_bytes(model, tokens, self.image, CACHE_BYTES[floats]),
            engine=self._engine,
            system=self._system,
        )

    def priced(self, rung: Rung) -> PlannedPrecision:
        """Returns a choice with what it takes."""
        use = self.use(rung.precisions)
        return PlannedPrecision(
            name=rung.name,
            precisions=rung.precisions,
            weight_bytes=sum(use.weights.values()),
            total_bytes=use.total,
            fits=use.total <= self.budget,
            risky=rung.risky,
        )

    def most_context(self, precisions: Mapping[str, str], cache: str | None = None) -> int | None:
        """Returns the most tokens that fit, a multiple of 64 unless the model's own limit is reached.

        `None` if not even the image with a short text does.
        """
        least = _LEAST_TEXT + (0 if self.image is None else self.image.prompt)
        low, high = -(-least // _STEP), self._model.context // _STEP
        if self._fits(precisions, self._model.context, cache):
            return self._model.context
        if low > high or not self._fits(precisions, low * _STEP, cache):
            return None
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._fits(precisions, middle * _STEP, cache) else (low, middle - 1)
        return low * _STEP

    def advice(self, tried: Sequence[PlannedPrecision]) -> list[MemoryAdvice]:
        """Returns changes with which something fits, the cheapest first, and a larger memory last."""
        smallest = min((each for each in tried if not each.risky), key=lambda each: each.total_bytes)
        found: list[MemoryAdvice] = []
        kinds = [self.cache_type] if self._request.cache == "int8" else [self.cache_type, "int8"]
        if self._model.decoder is not None:
            found += [each for kind in kinds for each in self._with_less_context(tried, kind)]
        found += [
            MemoryAdvice(
                change=f"{each.name}: 4 bits in every part, which is known to blind the vision part; score it first",
                options={"part": tuple(f"{name}={precision}" for name, precision in each.precisions.items())},
                precision=each.name,
                total_bytes=each.total_bytes,
            )
            for each in tried
            if each.risky and each.fits
        ]
        more = f"a device with {smallest.total_bytes / 1e9:.2f} GB"
        options = {"memory": (f"{-(-smallest.total_bytes // 10**6)}MB",)}
        return [
            *found,
            MemoryAdvice(change=more, options=options, precision=smallest.name, total_bytes=smallest.total_bytes),
        ]

    def _with_less_context(self, tried: Sequence[PlannedPrecision], kind: str) -> list[MemoryAdvice]:
        """Returns the longest context that fits with keys and values of a type, in the best precision for it."""
        most = [(self.most_context(each.precisions, kind), each) for each in tried if not each.risky]
        fitting = [(min(tokens, self.context), each) for tokens, each in most if tokens is not None]
        if not fitting:
            return []
        context, best = max(fitting, key=lambda pair: pair[0])
        is_changed, is_shorter = kind != self.cache_type, context < self.context
        changes = {
            "keys and values in int8": ("kv", "int8", is_changed),
            f"a context of {counted(context, 'token')}": ("context", str(context), is_shorter),
        }
        return [
            MemoryAdvice(
                change=" and ".join(change for change, (_, _, is_needed) in changes.items() if is_needed),
                options={name: (value,) for name, value, is_needed in changes.values() if is_needed},
                precision=best.name,
                total_bytes=self.use(best.precisions, context, kind).total,
            )
        ]

    def _fits(self, precisions: Mapping[str, str], context: int, cache: str | None) -> bool:
        return self.use(precisions, context, cache).total <= self.budget

    def _image(self) -> tuple[ImageSize | None, ImageTokens | None]:
        vision, asked = self._model.vision, self._request.image
        if vision is not None:
            size = asked or vision.image_size
            return size, vision.tokens(size)
        if asked is not None:
            raise InputError(f"`image` {asked[0]}x{asked[1]}: the model reads no images; omit it")
        return None, None

    def _context(self) -> int:
        most, asked = self._model.context, self._request.context
        image = 0 if self.image is None else self.image.prompt
        if asked is not None and not most:
            raise InputError(f"`context` {asked}: the model reads no texts; omit it")
        if asked is not None and not 1 <= asked <= most:
            raise InputError(f"`context` {asked}: the model was made for 1 to {most:,} tokens; give fewer")
        context = min(max(DEFAULT_CONTEXT, image + _LEAST_TEXT), most) if asked is None else asked
        if image and image >= context:
            raise InputError(
                f"`image`: takes {image:,} tokens, and the `context` has {context:,}; give a smaller image or a longer "
                "context"
            )
        return context
