"""Which input of a graph takes the images, and where it has channels, height and width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from edgeq.errors import InputError, ModelError
from edgeq.exporting.tensor_spec import Layout
from edgeq.notes import log_of

if TYPE_CHECKING:
    import onnx_ir as ir

Lengths = tuple[int | None, ...]
"""A shape; `None` is a free dimension."""

_IMAGE_CHANNELS = (1, 3)
_BATCHED = 4
_OF_PADDLE = ("scale_factor", "im_shape")

_log = log_of(__name__)


@dataclass(frozen=True)
class DeclaredInput:
    """What a preset says of one input of a model.

    Attributes:
        value: Numbers that it always gets: one for all of its elements, or nested lists; `None` for the input that
            takes the images.
        shape: Its lengths where the file leaves them free.
        layout: Where an image has its channels; `None` tells it by the shape.
        takes: `images`, or `arrays` that the user prepares.
    """

    value: Any = None
    shape: tuple[int, ...] | None = None
    layout: Layout | None = None
    takes: Literal["images", "arrays"] = "images"


@dataclass(frozen=True)
class DeclaredInputs:
    """What a preset says of a model's inputs.

    Attributes:
        inputs: By the input's name.
        channels: How many channels its images have; `None` if it says nothing of images.
        size: Height and width in pixels for a model that leaves them free, if the preset has both.
    """

    inputs: Mapping[str, DeclaredInput] = field(default_factory=dict)
    channels: int | None = None
    size: tuple[int, int] | None = None

    @property
    def filled(self) -> DeclaredInput:
        """What is said of the input that has no value."""
        return next((each for each in self.inputs.values() if each.value is None), DeclaredInput())


def lengths_of(value: ir.Value) -> Lengths | None:
    """Returns the shape of an input; `None` if the file does not say its rank. Lengths below 1 are free."""
    if value.shape is None:
        return None
    return tuple(length if isinstance(length, int) and length > 0 else None for length in value.shape)


def given_inputs(model: ir.Model) -> list[ir.Value]:
    """Returns the inputs that a caller has to give: not those that only name an initializer."""
    return [value for value in model.graph.inputs if not value.is_initializer()]


def require_inputs(model: ir.Model, declared: Mapping[str, DeclaredInput], source: str) -> None:
    """Checks that a preset's inputs are the model's, and that they leave one for the images.

    Args:
        model: The graph as it was read.
        declared: Name of an input -> what the preset says of it.
        source: The model's file, for errors.

    Raises:
        InputError: the preset names an input that the model does not have, or gives all of them a value.
        ModelError: more than one input is left.
    """
    inputs = given_inputs(model)
    named = {str(value.name): _describe(value) for value in inputs}
    if unknown := sorted(set(declared) - set(named)):
        raise InputError(
            f"{source}: has no input {unknown[0]!r}, which the preset declares under [inputs]; its inputs are "
            + ", ".join(named.values())
        )
    open_names = [name for name in named if name not in declared or declared[name].value is None]
    if not open_names:
        raise InputError(
            f"{source}: the preset gives each of its inputs a value ({', '.join(named.values())}); leave out that of "
            "the input that takes the images"
        )
    if len(open_names) > 1:
        other = _likely_constant(model, open_names)
        raise ModelError(
            f"{source}: takes {len(open_names)} inputs ({', '.join(named[name] for name in open_names)}), and edgeq "
            f"fills one of them; give each other one a value in the preset: [inputs.{other}] value = ..."
        )


def with_values_of_paddle(
    declared: DeclaredInputs, model: ir.Model, size: tuple[int, int] | None, source: str
) -> DeclaredInputs:
    """Returns the inputs with values for what PaddleDetection's models take besides the image, which a line states.

    `scale_factor` is 1 and `im_shape` the input's size. The files state boxes in the pixels of the image that these
    numbers stand for; with these values, in the input's pixels.

    Args:
        declared: What a preset says of the inputs; its values go first.
        model: The graph as it was read.
        size: Height and width in pixels where the file leaves them free; the preset's otherwise.
        source: The model's file, for messages.
    """
    shapes = {str(value.name): lengths_of(value) for value in given_inputs(model)}
    pairs = [name for name in _OF_PADDLE if shapes.get(name) in ((1, 2), (None, 2))]
    images = [shape for name, shape in shapes.items() if name not in pairs and shape is not None]
    if "scale_factor" not in pairs or len(shapes) != len(pairs) + 1 or len(images) != 1 or len(images[0]) != _BATCHED:
        return declared
    height, width = images[0][2:]
    sides = (height, width) if height is not None and width is not None else size or declared.size
    values = {"scale_factor": (1.0, 1.0), "im_shape": sides}
    inputs = dict(declared.inputs)
    for name in pairs:
        if name not in inputs and (value := values[name]) is not None:
            inputs[name] = DeclaredInput([list(value)])
            _log.info("%s: the input %s is always %s, so boxes are in the input's pixels", source, name, [list(value)])
    return replace(declared, inputs=inputs)


def require_free_batch(model: ir.Model, declared: DeclaredInputs, name: str) -> None:
    """Refuses `dynamic_batch` for a graph whose batch is fixed.

    Args:
        model: The graph as it was read.
        declared: What a preset says of its inputs.
        name: The model's file, for errors.

    Raises:
        InputError: it is fixed by the file, or by a constant that the preset declares.
    """
    for value in given_inputs(model):
        shape = lengths_of(value)
        given = declared.inputs.get(str(value.name))
        if given is not None and given.value is not None:
            if shape and shape[0] is None:
                raise InputError(
                    f"`dynamic_batch`: the preset gives the input {value.name!r} a value for one image; omit "
                    "`dynamic_batch`"
                )
        elif shape and shape[0] is not None:
            raise InputError(
                f"`dynamic_batch`: {name} is fixed to the input shape {value.shape}; omit `dynamic_batch`, or export "
                "the file with a free batch"
            )


def single_input(model: ir.Model) -> ir.Value:
    """Returns the one input that a caller has to give; `require_inputs` has looked."""
    (value,) = given_inputs(model)
    return value


def image_layout(shape: Sequence[int | None], declared: Layout | None = None) -> Layout:
    """Returns where an image of this shape has its channels.

    Channels are last if the last length is 1 or 3 and the third last is neither that nor free; a declaration wins.
    """
    if declared is not None:
        return declared
    if len(shape) < 3 or shape[-3] in _IMAGE_CHANNELS:
        return "NCHW"
    return "NHWC" if shape[-1] in _IMAGE_CHANNELS else "NCHW"


def image_axes(rank: int, layout: Layout) -> tuple[int | None, int, int] | None:
    """Returns the axes of channels, height and width of an image, counted from the end.

    An image `(H, W)` has no axis of channels; `None` for what has fewer than two axes.
    """
    if rank < 2:
        return None
    if rank == 2:
        return None, -2, -1
    return (-3, -2, -1) if layout == "NCHW" else (-1, -3, -2)


def image_lengths(name: str, shape: Sequence[int | None], declared: Layout | None = None) -> Lengths:
    """Returns channels, height and width of an image input `(N, C, H, W)`, `(N, H, W, C)`, or either without N.

    `(H, W)` has one channel, and is an image only if a layout is declared: most matrices are none. More
    than four axes are those of one image, the first ones of length 1.

    Args:
        name: The input's name, for errors.
        shape: Its shape.
        declared: Where it has its channels, if that is declared.

    Raises:
        ModelError: it takes no image of 1 or 3 channels.
    """
    axes = image_axes(len(shape), image_layout(shape, declared))
    if axes is not None and (axes[0] is not None or declared is not None):
        channels = 1 if axes[0] is None else shape[axes[0]]
        if channels in (None, *_IMAGE_CHANNELS) and (
            len(shape) <= _BATCHED or all(length == 1 for length in shape[:-3])
        ):
            return channels, shape[axes[1]], shape[axes[2]]
    raise ModelError(
        f"the input {describe(name, shape)} takes no image: wanted (N, C, H, W) or (N, H, W, C) of 1 or 3 channels; "
        f'for inputs that you prepare yourself write [inputs.{name}] takes = "arrays" in the preset'
    )


def describe(name: str, shape: Sequence[int | None]) -> str:
    """Returns how messages call an input: its name and its shape, `?` for a free length."""
    return f"{name} ({', '.join('?' if length is None else str(length) for length in shape)})"


def _describe(value: ir.Value) -> str:
    shape = lengths_of(value)
    return f"{value.name} (of unknown rank)" if shape is None else describe(str(value.name), shape)


def _likely_constant(model: ir.Model, names: Sequence[str]) -> str:
    """Returns the input that a message takes as its example: one that is no image."""
    shapes = {str(value.name): lengths_of(value) for value in given_inputs(model)}
    return next((name for name in names if len(shapes[name] or ()) < 4), names[-1])
