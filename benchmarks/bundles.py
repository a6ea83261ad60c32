"""Do models in parts compute what PyTorch computes, for every family that edgeq exports in parts?

`python -m benchmarks.bundles` makes a model of a few thousand random weights per family, exports it, and runs prompts
with images through its parts: log-probabilities of the prompt's tokens next to PyTorch's, and 32 tokens of greedy
search next to those of `generate`. Towers and encoders are compared by their outputs. Three minutes of an idle CPU.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.cases import result_parser, write_result
from benchmarks.tiny_language_models import PATCH, SIDE, TINY_MODELS, TinyModel
from edgeq.bundles.contents import GridLayout, ImageInput
from edgeq.bundles.cutting import as_grid
from edgeq.bundles.export import BundleRequest, export_bundle
from edgeq.bundles.families.parts import ROWS
from edgeq.bundles.manifest import Bundle
from edgeq.bundles.session import PartSession
from edgeq.generation.model import GeneratingModel, Prompt
from edgeq.generation.parts import OpenParts
from edgeq.generation.search import Limits
from edgeq.machine import read_machine

TOKENS = 32
_RENAMED = {"image_grid_thw": "grid_thw"}


class Compared(NamedTuple):
    """A bundle next to its model.

    Attributes:
        difference: Largest difference of log-probabilities of a prompt's tokens, or of scores of image and text.
        same_tokens: Tokens of greedy search that are those of `generate`, from the first on; `None` without a decoder.
    """

    difference: float
    same_tokens: int | None


def compare(tiny: TinyModel, model: Any, bundle: Bundle) -> Compared:
    """Returns how far a bundle is from the model that it was made of."""
    if bundle.part("decoder") is None:
        return Compared(_towers(tiny, model, bundle), None)
    import torch

    ids, images = tiny.prompt(), tiny.images()
    tokens = torch.tensor([ids])
    given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), **images}
    if "image_grid_thw" in images:
        given["mm_token_type_ids"] = torch.eq(tokens, bundle.tokens.image or 0).long()
    with torch.no_grad():
        scores = model(**given).logits[0, :-1].double().log_softmax(-1).numpy()
        written = model.generate(**given, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0)
    wanted = written[0, -TOKENS:].tolist()
    prompt = Prompt(bundle.name, tuple(ids), _vision_inputs(images))
    with OpenParts.open(bundle, "onnxruntime", threads=1) as parts:
        runner = GeneratingModel(parts)
        found = runner.generate([prompt], Limits((), TOKENS))[0]
        difference = np.abs(runner.log_probabilities(prompt) - scores[np.arange(len(ids) - 1), ids[1:]]).max()
    same = next((at for at, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b), TOKENS)
    return Compared(float(difference), same)


def _vision_inputs(images: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns what the vision part takes; tiles come without their mask, as they are whole."""
    found = {
        _RENAMED.get(name, name): each.numpy()
        for name, each in images.items()
        if "pixel_values" in name or "grid" in name
    }
    pixels = found.get("pixel_values")
    if pixels is not None and pixels.ndim == 5:
        found["pixel_values"] = pixels[0]
    if "image_sizes" in images:
        picture = np.zeros((*images["image_sizes"][0].tolist(), 3), np.uint8)
        layout = GridLayout(tile_px=SIDE, tokens=SIDE // PATCH, grids=((SIDE, 2 * SIDE), (2 * SIDE, SIDE)))
        found[ROWS] = as_grid(picture, ImageInput(), layout)[1]
    return found


def _towers(tiny: TinyModel, model: Any, bundle: Bundle) -> float:
    """Returns the difference of an encoder's hidden states, or of the similarity of an image and a text."""
    import torch

    length = 8
    ids = torch.tensor([[*tiny.prompt(), 2, 2, 2][:length]])
    with torch.no_grad():
        if bundle.part("text") is None:
            mask = torch.ones_like(ids)
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()
            feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy(), "token_type_ids": 0 * ids.numpy()}
            return float(np.abs(PartSession(bundle.path("encoder"), 1).run(feed)[0] - states).max())
        images = tiny.images()
        wanted = model(input_ids=ids, **images).logits_per_image.numpy()
    image = PartSession(bundle.path("vision"), 1).run({"pixel_values": images["pixel_values"].numpy()})[0]
    feed = {"input_ids": ids.numpy(), "attention_mask": np.ones_like(ids.numpy())}
    text = PartSession(bundle.path("text"), 1).run(feed)[0]
    assert bundle.similarity is not None
    cosine = (image / np.linalg.norm(image, axis=-1)) @ (text / np.linalg.norm(text, axis=-1)).T
    return float(np.abs(cosine * bundle.similarity.scale + bundle.similarity.bias - wanted).max())


def measured(name: str, folder: Path) -> tuple[Bundle, Compared]:
    """Returns the bundle of a family's tiny model, and how far it is from it."""
    tiny = TINY_MODELS[name]
    model = tiny.save(folder / "model")
    bundle = export_bundle(BundleRequest(folder / "model", tokenizer="none", threads=1), folder / "bundle")
    return bundle, compare(tiny, model, bundle)


def row(name: str) -> str:
    """Returns a family's line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        bundle, found = measured(name, Path(folder))
    parts = ", ".join(f"{part.name} {part.size_bytes / 1e3:.0f} kB" for part in bundle.parts)
    off = max(part.max_difference for part in bundle.parts)
    same = "–" if found.same_tokens is None else f"{found.same_tokens} of {TOKENS}"
    return f"| {TINY_MODELS[name].title} | {parts} | {off:.1e} | {found.difference:.1e} | {same} |"


def page(rows: Sequence[str]) -> str:
    """Returns the page with the lines of its table."""
    tools = ", ".join(f"{each} {version(each)}" for each in ("torch", "transformers", "onnxruntime"))
    lines = [
        "# Models in parts next to PyTorch",
        "",
        f"`python -m benchmarks.bundles`; {read_machine().cpu}, one thread, {tools}. Random weights in FP32. Measured:",
        "each part on random inputs of several lengths, when it was exported; the whole on a prompt with one or two",
        "images (log-probabilities of its tokens; of CLIP and SigLIP the score of an image with a text, of BERT its",
        "hidden states); greedy search next to `generate` of transformers.",
        "",
        "| family | parts | part off PyTorch by | whole off by | same tokens |",
        "|---|---|--:|--:|--:|",
        *rows,
    ]
    return "\n".join(lines) + "\n"


def run(names: Sequence[str], out: Path) -> Path:
    """Returns the page that was written: a row per family."""
    import torch

    torch.set_num_threads(1)
    return write_result(out, "bundles.md", page([row(name) for name in names]))


def make_parser() -> argparse.ArgumentParser:
    parser = result_parser(__doc__)
    parser.add_argument("families", nargs="*", default=list(TINY_MODELS), help="by default all")
    return parser


def main() -> None:
    given = make_parser().parse_args()
    run(given.families, given.out)


if __name__ == "__main__":
    main()
