"""CLIP and SigLIP, whose two towers are two files, and encoders of texts such as BERT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeq.bundles.contents import PartName, Similarity
from edgeq.bundles.families.parts import Split, image_part, square
from edgeq.bundles.torch_part import FreeAxes, TorchPart

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from edgeq.bundles.source import ModelFolder

_AXES: FreeAxes = {0: "batch", 1: "seq"}
_LENGTH = 7


def split_clip(model: Any, folder: ModelFolder) -> Split:
    """Returns CLIP's towers: from images and texts to vectors, which are not yet of length 1."""
    scale = float(model.logit_scale.detach().exp())
    return _two_towers(model, Similarity(scale=scale), fixed_length=None)


def split_siglip(model: Any, folder: ModelFolder) -> Split:
    """Returns SigLIP's towers; its texts always have the same length, filled with the padding token."""
    scale, bias = float(model.logit_scale.detach().exp()), float(model.logit_bias.detach())
    length = int(model.config.text_config.max_position_embeddings)
    return _two_towers(model, Similarity(scale=scale, bias=bias), fixed_length=length)


def split_bert(model: Any, folder: ModelFolder) -> Split:
    """Returns BERT as one part: hidden states of its tokens, or scores if its class has a head."""
    has_head = type(model).__name__ != "BertModel"

    def compute(module: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        found = module(input_ids=ids, attention_mask=mask, token_type_ids=kinds)
        return found.logits if has_head else found.last_hidden_state  # type: ignore[no-any-return]

    output = "logits" if has_head else "last_hidden_state"
    is_per_text = has_head and "Sequence" in type(model).__name__
    axes: FreeAxes = {0: "batch"} if is_per_text else _AXES
    return Split((_text_part("encoder", model, compute, (output, axes), _texts(model.config, None), kinds=True),))


def _two_towers(model: Any, similarity: Similarity, fixed_length: int | None) -> Split:
    def images(module: Any, pixels: torch.Tensor) -> torch.Tensor:
        return module.get_image_features(pixel_values=pixels).pooler_output  # type: ignore[no-any-return]

    def texts(module: Any, ids: torch.Tensor, *mask: torch.Tensor) -> torch.Tensor:
        options = {"attention_mask": mask[0]} if mask else {}
        return module.get_text_features(input_ids=ids, **options).pooler_output  # type: ignore[no-any-return]

    vision = image_part("vision", model, images, square(model.config.vision_config), "image_embeds")
    examples = _texts(model.config.text_config, fixed_length)
    text = _text_part("text", model, texts, ("text_embeds", {0: "batch"}), examples, fixed=fixed_length is not None)
    return Split((vision, text), similarity=similarity)


def _text_part(
    name: PartName,
    module: torch.nn.Module,
    compute: Callable[..., torch.Tensor],
    output: tuple[str, FreeAxes],
    texts: list[torch.Tensor],
    *,
    fixed: bool = False,
    kinds: bool = False,
) -> TorchPart:
    """Returns a part that reads texts.

    Args:
        name: Which part it is.
        module: Holds its weights.
        compute: From the module, tokens `(batch, seq)`, their mask unless the length is fixed, and their segments.
        output: Name and free axes of what it gives.
        texts: Examples of tokens.
        fixed: Whether texts always have the same length, and no mask.
        kinds: Whether segments of the tokens are an input.
    """
    import torch

    def inputs(ids: torch.Tensor) -> dict[str, torch.Tensor]:
        found = {"input_ids": ids}
        if not fixed:
            mask = torch.ones_like(ids)
            mask[-1, ids.shape[1] - ids.shape[1] // 3 :] = 0
            found["attention_mask"] = mask
        return found | ({"token_type_ids": torch.zeros_like(ids)} if kinds else {})

    axes: FreeAxes = {0: "batch"} if fixed else _AXES
    examples = [inputs(ids) for ids in texts]
    names = dict.fromkeys(examples[0], axes)
    return TorchPart(name, module, compute, examples[0], names, {output[0]: output[1]}, examples[1:])


def _texts(config: Any, fixed_length: int | None) -> list[torch.Tensor]:
    """Returns tokens of several texts, each ended as a pooling tower wants it."""
    import torch

    end = getattr(config, "eos_token_id", None)
    generator = torch.Generator().manual_seed(0)
    found = []
    for batch, length in ((2, _LENGTH), (1, _LENGTH - 2), (3, _LENGTH + 3)):
        ids = torch.randint(3, config.vocab_size - 1, (batch, fixed_length or length), generator=generator)
        if isinstance(end, int) and 0 <= end < config.vocab_size:
            ids[:, -1 - ids.shape[1] // 3] = end
        found.append(ids)
    return found
