"""LLaVA-NeXT: LLaVA whose image is cut into a grid of tiles ("LLaVA-NeXT", Liu et al., 2024).

Which tokens of the tiles a decoder reads depends on the image's size: their numbers are an input of the connector.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from edgeq.bundles.families.llava import split_llava
from edgeq.bundles.families.parts import FEATURES, HIDDEN, ROWS, TILE, Split, drawn
from edgeq.bundles.torch_part import TorchPart

if TYPE_CHECKING:
    import torch

    from edgeq.bundles.source import ModelFolder

_TILES, _TAKEN = 3, 7


def split_llava_next(model: Any, folder: ModelFolder) -> Split:
    """Returns LLaVA-NeXT in parts; the vision part takes tiles, and the connector which of their tokens are read."""
    plain, body = split_llava(model, folder), model.model
    example = next(part for part in plain.parts if part.name == "connector").inputs[HIDDEN]
    connector, of_a_tile = _connectors(body, int(example.shape[1]), int(example.shape[2]))
    parts = tuple(connector if part.name == "connector" else part for part in plain.parts)
    return dataclasses.replace(plain, parts=parts, per_image=None, per_tile={"connector": of_a_tile})


def _connectors(body: Any, tokens: int, channels: int) -> tuple[TorchPart, TorchPart]:
    """Returns the part that takes all tiles of an image and gives what is read, and the one for one tile."""
    import torch

    class Connector(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.projector, self.newline = body.multi_modal_projector, body.image_newline

    def table_of(module: Any, found: torch.Tensor) -> torch.Tensor:
        projected = module.projector(found)
        return torch.cat([projected.reshape(-1, projected.shape[-1]), module.newline[None]])

    def taken(module: Any, found: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        table = table_of(module, found)
        # -1 ends a row of an image; it is the last one of the table.
        number = torch.where(rows < 0, torch.full_like(rows, 0) + table.shape[0] - 1, rows)
        return torch.nn.functional.embedding(number, table)

    def example(tiles: int, count: int) -> dict[str, torch.Tensor]:
        rows = torch.arange(-1, count - 1) % (tiles * tokens + 1)
        return {HIDDEN: drawn(tiles, tokens, channels), ROWS: torch.where(rows == tiles * tokens, -1, rows)}

    examples = [example(_TILES, _TAKEN), example(2, 1), example(5, 5 * tokens + 3)]
    axes, module = {HIDDEN: {0: "images"}, ROWS: {0: "image_rows"}}, Connector()
    alone = [{HIDDEN: each[HIDDEN]} for each in examples]
    return (
        TorchPart("connector", module, taken, examples[0], axes, {FEATURES: {0: "image_rows"}}, examples[1:]),
        TorchPart("connector", module, table_of, alone[0], {HIDDEN: axes[HIDDEN]}, {TILE: {0: "rows"}}, alone[1:]),
    )
