"""Do models in parts compute what PyTorch computes, for every family that edgeq exports in parts?

`python -m benchmarks.bundles` makes a model of a few thousand random weights per family, exports it, and runs prompts
with images through its parts: log-probabilities of the prompt's tokens next to PyTorch's, and 32 tokens of greedy
search next to those of `generate`. Towers and encoders are compared by their outputs. With `--reader` the trained
reader of hex digits of the shared data is exported in several precisions, and reads 1,000 images. Three minutes of an
idle CPU each.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.cases import DATA, result_parser, write_result
from benchmarks.tiny_language_models import TINY_MODELS, TinyModel
from edgeq.bundles.export import BundleRequest, export_bundle
from edgeq.bundles.manifest import Bundle
from edgeq.bundles.samples import read_samples
from edgeq.bundles.session import PartSession
from edgeq.generation.model import GeneratingModel, Prompt
from edgeq.generation.parts import OpenParts
from edgeq.generation.search import Limits
from edgeq.machine import read_machine

TOKENS = 32
READERS: tuple[tuple[str, str | None, tuple[str, ...]], ...] = (
    ("FP32", None, ()),
    ("`--preset asymmetric --part decoder=w4g32-gptq`", "asymmetric", ("decoder=w4g32-gptq",)),
    ("`--part vision=w2g16a-gptq`", None, ("vision=w2g16a-gptq",)),
    ("`--part decoder=w2g16a-gptq`", None, ("decoder=w2g16a-gptq",)),
)
"""Precisions of the reader of hex digits: what the table calls them, preset and parts."""
_DIGITS, _BEGIN, _END, _IMAGE = "0123456789ABCDEF", 17, 18, 19
_MOST_DIGITS, _ROWS, _BATCH = 4, 16, 100
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


def read_digits(bundle: Bundle, images: np.ndarray) -> list[str]:
    """Returns what a bundle of the reader says of images `(N, 32, 32)`, uint8."""
    tokens = bundle.tokens
    assert tokens.bos is not None
    assert tokens.image is not None
    ids = (tokens.bos, *[tokens.image] * (tokens.per_image or 0))
    texts: list[str] = []
    with OpenParts.open(bundle, "onnxruntime", threads=1) as parts:
        model = GeneratingModel(parts)
        for start in range(0, len(images), _BATCH):
            prompts = [
                Prompt("digits", ids, {"pixel_values": pixels[None]}) for pixels in _pixels(images[start:][:_BATCH])
            ]
            found = model.generate(prompts, Limits(tokens.eos, _MOST_DIGITS))
            texts += ["".join(_DIGITS[each] if each < len(_DIGITS) else "?" for each in row) for row in found]
    return texts


def _pixels(images: np.ndarray) -> np.ndarray:
    """Returns what the reader's vision part takes: three equal channels from -1 to 1."""
    values = images.astype(np.float32) / 127.5 - 1
    return np.ascontiguousarray(np.broadcast_to(values[:, None], (len(images), 3, *images.shape[1:])))


def _calibration(source: Path, target: Path) -> Path:
    """Writes images and what they say as the reader's inputs, each text filled up with the end token."""
    with np.load(source) as stored:
        images, texts = stored["image"], [str(each) for each in stored["text"]]
    answers = [[*map(_DIGITS.index, text), *[_END] * (_MOST_DIGITS - len(text))] for text in texts]
    ids = np.array([[_BEGIN, *[_IMAGE] * _ROWS, *answer] for answer in answers])
    np.savez(target, input_ids=ids, pixel_values=_pixels(images))
    return target


def run_reader(out: Path, data: Path) -> Path:
    """Returns the page that was written: a row per precision of the reader of hex digits."""
    folder = data / "vlm"
    with np.load(folder / "hex_1000.npz") as stored:
        images, truth = stored["image"], [str(each) for each in stored["text"]]
    rows = []
    with tempfile.TemporaryDirectory() as work:
        calib = _calibration(folder / "hex_calib_256.npz", Path(work) / "calib.npz")
        for title, preset, parts in READERS:
            request = BundleRequest(
                folder / "tiny_llava_hex", preset=preset, parts=parts, tokenizer="none", threads=1,
                samples=partial(read_samples, calib),
            )  # fmt: skip
            bundle = export_bundle(request, Path(work) / "bundle")
            exact = np.mean([a == b for a, b in zip(read_digits(bundle, images), truth, strict=True)])
            sizes = ", ".join(f"{part.name} {part.size_bytes / 1e3:.0f}" for part in bundle.parts)
            error = bundle.require_part("decoder").output_error
            rows.append(f"| {title} | {sizes} | {100 * error:.2f} % | {exact:.3f} |")
    text = "\n".join(
        [
            "# A vision-language model in parts, with few bits in one of them",
            "",
            f"`python -m benchmarks.bundles --reader`; {read_machine().cpu}. "
            "A trained LLaVA of 0.8 M parameters reads 1",
            "to 3 hex digits from an image; 1,000 images, calibration on 128 others. Measured with the files in ONNX",
            "Runtime; the standard error of an exact match is 0.011. Decoder's error: of its logits on calibration",
            "inputs, in the norm.",
            "",
            "| precision | parts, kB | decoder's error | exact match |",
            "|---|---|--:|--:|",
            *rows,
        ]
    )  # fmt: skip
    return write_result(out, "bundles_reader.md", f"{text}\n")


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
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real data")
    parser.add_argument("--reader", action="store_true", help="instead: the trained reader of the shared data")
    parser.add_argument("families", nargs="*", default=list(TINY_MODELS), help="by default all")
    return parser


def main() -> None:
    given = make_parser().parse_args()
    if given.reader:
        run_reader(given.out, given.data)
    else:
        run(given.families, given.out)


if __name__ == "__main__":
    main()
