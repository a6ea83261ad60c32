"""What the manifest of a bundle says of parts, tensors, tokens and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from edgeq.boundary import Count, Integer, NotNegative, Positive
from edgeq.exporting.artifact import Preprocessing
from edgeq.files import sha256_file

TABLE: Final = "embedding"
"""The part that turns tokens into vectors."""

PartName = Literal["vision", "connector", "embedding", "decoder", "text", "encoder"]
"""Parts of a bundle: those of a model that generates text come in this order; `text` is the second tower of CLIP and
SigLIP, `encoder` is a model like BERT. The head of a decoder is in its file."""
Dtype = Literal["float32", "float16", "int64", "int32", "bool"]
Axis = Positive | Annotated[str, msgspec.Meta(min_length=1)]
"""The length of an axis, or the name of a free one: axes of one name are equally long in one run of a part."""
Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]

_LAYER = "{layer}"


@dataclass(frozen=True, kw_only=True)
class BundleFile:
    """A file of the bundle's folder.

    Attributes:
        file: Its name.
        sha256: Digest of its bytes, hexadecimal.
        size_bytes: Its size.

    Raises:
        ValueError: the name has a folder in it.
    """

    file: str
    sha256: str
    size_bytes: Count

    def __post_init__(self) -> None:
        if Path(self.file).name != self.file or "\0" in self.file:
            raise ValueError(f"{self.file!r} is not the name of a file")

    @classmethod
    def of(cls, path: Path) -> BundleFile:
        """Returns what a manifest says of a file."""
        return cls(file=path.name, sha256=sha256_file(path), size_bytes=path.stat().st_size)


@dataclass(frozen=True, kw_only=True)
class PartTensor:
    """An input or output of a part.

    Attributes:
        name: Its name in the file.
        dtype: numpy's name of its type.
        shape: Its axes.
    """

    name: str
    dtype: Dtype
    shape: tuple[Axis, ...]


@dataclass(frozen=True, kw_only=True)
class BundlePart:
    """One file of a model.

    Attributes:
        name: Which part it is.
        model: The ONNX file.
        weights: The file with its weights, if they are too large for ONNX's format.
        precision: `fp32`, `fp16`, `int8` (activations, too), or bits and groups of the weights as `edgeq plan` writes
            them (`w4g128`, `w4g32a`).
        method: How the weights were quantized (`rtn`, `gptq`, ...), of `int8` how ranges were chosen; empty for floats.
        simulated: Whether the file holds rounded floats, because no engine has a kernel for the precision.
        head: Precision of a decoder's last layer, which scores the tokens, where it is another.
        kept: Layers that stay in float, with the reason, by name.
        inputs: Its inputs, in the file's order.
        outputs: Its outputs, in the file's order.
        max_difference: Largest absolute difference of its outputs, before quantization, from PyTorch's on the same
            inputs.
        output_error: What quantization adds: the norm of the outputs' difference over the outputs' norm.
    """

    name: PartName
    model: BundleFile
    weights: BundleFile | None = None
    precision: str = "fp32"
    method: str = ""
    simulated: bool = False
    head: str = ""
    kept: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[PartTensor, ...]
    outputs: tuple[PartTensor, ...]
    max_difference: NotNegative
    output_error: NotNegative = 0.0

    @property
    def size_bytes(self) -> int:
        """Its bytes on the disk."""
        return self.model.size_bytes + (0 if self.weights is None else self.weights.size_bytes)

    def input(self, name: str) -> PartTensor | None:
        """Returns the input of that name, if it has one."""
        return next((tensor for tensor in self.inputs if tensor.name == name), None)

    def output(self, name: str) -> PartTensor | None:
        """Returns the output of that name, if it has one."""
        return next((tensor for tensor in self.outputs if tensor.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Edge:
    """An output that is fed to an input as it is.

    Attributes:
        source: The part that has the output.
        output: Its name.
        target: The part that has the input.
        input: Its name.
    """

    source: PartName
    output: str
    target: PartName
    input: str


@dataclass(frozen=True, kw_only=True)
class KeyValueCache:
    """Keys and values of earlier tokens, which a decoder takes and gives back, longer by the tokens of the run.

    Each tensor is `(batch, kv_heads, tokens, head_dim)`; a first run takes 0 tokens.

    Attributes:
        layers: Layers that have them.
        kv_heads: Heads of keys, and of values.
        head_dim: Channels of a head.
        dtype: Their type.
        past_key: Name of the inputs with keys; `{layer}` stands for the layer's number, from 0.
        past_value: The same for values.
        present_key: Name of the outputs with keys.
        present_value: The same for values.

    Raises:
        ValueError: a name does not say where the layer's number goes.
    """

    layers: Positive
    kv_heads: Positive
    head_dim: Positive
    dtype: Dtype = "float32"
    past_key: str = "past_key_values.{layer}.key"
    past_value: str = "past_key_values.{layer}.value"
    present_key: str = "present.{layer}.key"
    present_value: str = "present.{layer}.value"

    def __post_init__(self) -> None:
        for name in (self.past_key, self.past_value, self.present_key, self.present_value):
            if _LAYER not in name:
                raise ValueError(f"{name!r} has no {_LAYER}")

    @property
    def past_names(self) -> tuple[str, ...]:
        """The inputs: key and value of layer 0, of layer 1, and so on."""
        return self._names(self.past_key, self.past_value)

    @property
    def present_names(self) -> tuple[str, ...]:
        """The outputs, in the order of `past_names`."""
        return self._names(self.present_key, self.present_value)

    @property
    def bytes_per_token(self) -> int:
        """What one token of one sequence takes."""
        return 2 * self.layers * self.kv_heads * self.head_dim * (2 if self.dtype == "float16" else 4)

    def _names(self, key: str, value: str) -> tuple[str, ...]:
        return tuple(name.replace(_LAYER, str(layer)) for layer in range(self.layers) for name in (key, value))


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Tokens with a meaning of their own, as numbers of the vocabulary.

    Attributes:
        bos: Begins a text, if the model wants one.
        eos: End a text.
        pad: Fills a batch.
        image: Stands where rows of an image go.
        per_image: How many of them an image takes; `None` where that depends on its size, or there are no images.
        before_image: What comes before those of an image.
        after_image: What comes after them.
    """

    bos: Count | None = None
    eos: tuple[Count, ...] = ()
    pad: Integer | None = None
    image: Count | None = None
    per_image: Positive | None = None
    before_image: tuple[Count, ...] = ()
    after_image: tuple[Count, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PatchLayout:
    """How Qwen2-VL's vision part takes an image: as rows of patches, `merge` x `merge` neighbours together.

    Attributes:
        patch_px: Side of a patch.
        frames: Frames of a patch; a picture is repeated.
        merge: Side, in patches, of what becomes one token.
        min_pixels: Fewest pixels of an image after resizing.
        max_pixels: Most pixels.
    """

    patch_px: Positive
    frames: Positive
    merge: Positive
    min_pixels: Positive
    max_pixels: Positive


@dataclass(frozen=True, kw_only=True)
class TileLayout:
    """How SmolVLM and Idefics3 cut an image: into tiles of one size, and the whole image made as small as one of them.

    Attributes:
        tile_px: Side of a tile.
        longest_px: The longer side of an image before it is cut.
        cut: Whether it is cut at all.
        frame: Text before the tokens of a tile, and behind those of the whole.
        whole: Text behind `frame` for the whole image.
        place: The same for a tile; `{row}` and `{column}` count from 1.
    """

    tile_px: Positive
    longest_px: Positive
    cut: bool = True
    frame: str = "<fake_token_around_image>"
    whole: str = "<global-img>"
    place: str = "<row_{row}_col_{column}>"


@dataclass(frozen=True, kw_only=True)
class GridLayout:
    """How LLaVA-NeXT cuts an image: the whole as one tile, and tiles of the grid that wastes least, the rest black.

    Rows of tokens that show filling are left out, and each row ends with a token of its own.

    Attributes:
        tile_px: Side of a tile.
        tokens: Tokens on a side of a tile.
        grids: Height and width of the grids.
    """

    tile_px: Positive
    tokens: Positive
    grids: tuple[tuple[Positive, Positive], ...]


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """How an image file becomes what the vision part takes.

    Attributes:
        preprocessing: Size, crop and values, for images of one size; `None` where the folder did not say, or the
            vision part takes any size.
        resample: How pixels are resized.
        patches: For vision parts that take rows of patches.
        tiles: For models that cut an image into tiles.
        grid: For models that choose a grid of tiles.
        scale: Factor on pixel values of 0 to 255, where `preprocessing` is none.
        mean: Subtracted after it, a number per channel.
        std: Divisor after that.
    """

    preprocessing: Preprocessing | None = None
    resample: Resample = "bicubic"
    patches: PatchLayout | None = None
    tiles: TileLayout | None = None
    grid: GridLayout | None = None
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """How CLIP and SigLIP score an image with a text: cosine of their vectors x `scale` + `bias`."""

    scale: float
    bias: float = 0.0


@dataclass(frozen=True, kw_only=True)
class BundleMemory:
    """What the model takes of a device's memory, before an engine is counted.

    Attributes:
        parameters: Weights of the model.
        weight_bytes: Part -> bytes of its file.
        cache_bytes_per_token: Keys and values of one token; 0 without a decoder.
        context: Most tokens that the model was made for.
    """

    parameters: Count
    weight_bytes: Mapping[str, int]
    cache_bytes_per_token: Count
    context: Count
