"""What the command line says of bundles: models in parts, exported, checked and inspected."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeq.cli import edge_llm
from edgeq.cli.options import write_json_file
from edgeq.cli.printing import say
from edgeq.cli.words import as_options

if TYPE_CHECKING:
    from edgeq.bundles.contents import BundlePart, PartTensor
    from edgeq.bundles.export import BundleRequest
    from edgeq.bundles.manifest import Bundle

PartOption = Annotated[
    list[str] | None,
    typer.Option(
        "--part",
        metavar="PART=PRECISION",
        help="Hugging Face folder: a part's precision, such as vision=int8, decoder=w4g128-gptq or head=w8g32; "
        "repeatable. --preset asymmetric, uniform-8 or uniform-4 sets all others.",
    ),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER", help="Hugging Face folder: where the tokenizer is, if not there; none for a model without."
    ),
]
DownloadOption = Annotated[
    bool,
    typer.Option(
        "--download",
        help="MODEL is the id of a model on the Hugging Face hub, such as llava-hf/llava-1.5-7b-hf: fetch its "
        "description, tokenizer and safetensors first. Otherwise nothing is downloaded.",
    ),
]


def fetched(model: str, *, download: bool) -> str:
    """Returns the folder of a model that is to be downloaded; any other as it is."""
    from edgeq.sources.hub import download_model

    return str(download_model(model)) if download else model


def export(
    model: str,
    out: Path,
    *,
    target: str,
    preset: str | None,
    part: list[str] | None,
    keep: list[str] | None,
    calib: Path | None,
    tokenizer: str | None,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Writes the bundle of a Hugging Face folder, and prints its parts."""
    from edgeq.bundles.export import BundleRequest, export_bundle
    from edgeq.verbs.export_edge_llm import is_for_jetson

    request = BundleRequest(Path(model), target, preset, tuple(part or ()), tuple(keep or ()), tokenizer=tokenizer)
    request = _with_samples(request, calib, threads)
    if is_for_jetson(target):
        edge_llm.export(request, out, json_file)
        return
    found = export_bundle(request, out)
    print_bundle(found)
    write_json_file(json_file, found.to_json())


def _with_samples(request: BundleRequest, calib: Path | None, threads: int | None) -> BundleRequest:
    import dataclasses
    from functools import partial

    from edgeq.generation.samples import read_samples

    samples = None if calib is None else partial(read_samples, calib, "")
    return dataclasses.replace(request, samples=samples, threads=threads)


def check(path: Path, json_file: Path | None) -> None:
    """Checks a bundle; exit code 1 if something is wrong."""
    from edgeq.bundles.check import check_bundle

    found = check_bundle(path)
    write_json_file(json_file, found.to_json())
    for problem in found.problems:
        say(as_options(problem))
    if found.is_wrong:
        raise typer.Exit(1)
    parts = ", ".join(part.name for part in found.bundle.parts)
    say(f"{path}: {parts} are whole, fit each other, and open in ONNX Runtime")


def inspect(path: Path, json_file: Path | None) -> None:
    """Shows what a bundle consists of."""
    from edgeq.bundles.manifest import Bundle

    found = Bundle.load(path)
    print_bundle(found)
    for edge in found.edges:
        say(f"{edge.source}.{edge.output} feeds {edge.target}.{edge.input}")
    for part in found.parts:
        say(f"{part.name}: {_ends(part.inputs, found)} -> {_ends(part.outputs, found)}")
        for layer, reason in list(part.kept.items())[:_SHOWN]:
            say(f"  {layer} stays in float: {reason}")
    write_json_file(json_file, found.to_json())


_TITLES = ("part", "precision", "MB", "off PyTorch by", "quantization adds")
_SHOWN = 8
"""Layers that are listed."""


def print_bundle(bundle: Bundle) -> None:
    """Prints the parts of a bundle with precision, size and difference from PyTorch, and what it takes of memory."""
    from edgeq.cli.console import print_table

    say(f"{bundle.folder}: {bundle.architecture} for {bundle.target}, {bundle.memory.parameters:,} parameters")
    print_table([_TITLES, *(_row(part) for part in bundle.parts)])
    memory, cache = bundle.memory, bundle.cache
    if cache is not None:
        say(
            f"weights {sum(memory.weight_bytes.values()) / 1e6:.2f} MB; keys and values "
            f"{memory.cache_bytes_per_token:,} bytes per token ({cache.layers} layers, {cache.kv_heads} heads of "
            f"{cache.head_dim}), at most {memory.context:,} tokens"
        )
    if "vision" in memory.weight_bytes and bundle.images is not None and not _says_size(bundle):
        say("the folder has no preprocessor_config.json that says how images are prepared; give them as arrays")
    for part in bundle.parts:
        if part.simulated:
            say(
                f"{part.name}: {part.precision} is simulated, because the engine of {bundle.target} has no kernel for "
                "it: the file can be scored, and is neither smaller nor faster"
            )
        else:
            for line in _slower(part, bundle):
                say(f"{part.name}: {line}")


def _slower(part: BundlePart, bundle: Bundle) -> list[str]:
    """Returns what of a part the engine of its target computes more slowly than FP32."""
    from edgeq.bundles.precision import parse_precision
    from edgeq.cli.low_bit import describe_slower
    from edgeq.targets import get_target

    precision = parse_precision(part.precision)
    if precision.is_float or precision.is_static:
        return []
    return describe_slower(get_target(bundle.target).runtimes[0], precision.scheme.bits, precision.group_size)


def _row(part: BundlePart) -> tuple[str, ...]:
    precision = " ".join(filter(None, (part.precision, part.method, part.head and f"(head {part.head})")))
    added = "-" if precision == "fp32" else f"{100 * part.output_error:.2f} %"
    return part.name, precision, f"{part.size_bytes / 1e6:.2f}", f"{part.max_difference:.1e}", added


def _says_size(bundle: Bundle) -> bool:
    images = bundle.images
    return images is not None and any((images.preprocessing, images.patches, images.tiles, images.grid))


def _ends(tensors: tuple[PartTensor, ...], bundle: Bundle) -> str:
    """Returns inputs or outputs in words; keys and values were counted already."""
    cached = () if bundle.cache is None else (*bundle.cache.past_names, *bundle.cache.present_names)
    shown = [tensor for tensor in tensors if tensor.name not in cached]
    said = [f"{each.name} {each.dtype} ({', '.join(map(str, each.shape))})" for each in shown]
    return ", ".join(said) + (f", {len(tensors) - len(shown)} of the cache" if len(shown) < len(tensors) else "")
