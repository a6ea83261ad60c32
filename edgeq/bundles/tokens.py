"""The special tokens of a model, by what its folder says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.bundles.contents import SpecialTokens

if TYPE_CHECKING:
    from edgeq.bundles.families.parts import Split
    from edgeq.bundles.source import ModelFolder


def special_tokens(folder: ModelFolder, split: Split) -> SpecialTokens:
    """Returns the tokens with a meaning of their own."""
    bos, eos, pad = (folder.stated(f"{name}_token_id", "text_config") for name in ("bos", "eos", "pad"))
    before, after = split.around_image
    return SpecialTokens(
        bos=bos,
        eos=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
        pad=pad,
        image=split.image_token,
        per_image=split.per_image,
        before_image=before,
        after_image=after,
    )
