"""`edgeq export FOLDER --target jetson-orin`: ONNX files for TensorRT, and the checkpoint for TensorRT Edge-LLM."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import edgeq
from edgeq.bundles.chain import Chain, Sample
from edgeq.bundles.edge_llm import (
    DECODER,
    GROUP_SIZE,
    OWN_VISION,
    VISION,
    BoardFit,
    Checkpoint,
    EdgeLlmFolder,
    FolderFile,
    ImagePart,
    checkpoint_format,
    is_edge_llm_folder,
    require_family,
    require_layers,
    require_precisions,
)
from edgeq.bundles.export import BundleRequest, require_ours, whole_folder
from edgeq.bundles.families import splitter
from edgeq.bundles.precision import precisions_of
from edgeq.bundles.samples import pieces
from edgeq.bundles.session import PartSession
from edgeq.bundles.source import ModelFolder, load_model, open_folder
from edgeq.bundles.static_part import prepared_inputs, require_whole_images, write_static
from edgeq.bundles.torch_part import compare_with_torch, export_part
from edgeq.errors import InputError
from edgeq.exporting.checkpoints.writer import plan_checkpoint
from edgeq.exporting.graphs.graph import copy_graph, save_onnx
from edgeq.exporting.onnx.writer import FloatModel, write_fp16, write_fp32
from edgeq.exporting.passes.order import SIMPLIFYING, reading, run_passes
from edgeq.memory.boards import BOARDS
from edgeq.memory.families import read_architecture
from edgeq.targets import Target, get_target
from edgeq.verbs.export_checkpoint import export_checkpoint
from edgeq.verbs.memory_plan import plan_model

if TYPE_CHECKING:
    from edgeq.bundles.families.parts import Split
    from edgeq.bundles.precision import Precision
    from edgeq.bundles.torch_part import TorchPart

PRESET = "asymmetric"
"""Unless told otherwise: FP16, and 4 bits in the decoder."""

_TRACED_OPSET = 20
_COMPARED = 8
_IMAGE_PARTS = ("vision", "connector")


def is_for_jetson(target: str) -> bool:
    """Returns whether a target's engine is TensorRT, for which models in parts have a folder of another form."""
    return get_target(target).runtimes[0] == "tensorrt"


def export_edge_llm(request: BundleRequest, out: Path) -> EdgeLlmFolder:
    """Returns the folder that was written, whole or not at all.

    Args:
        request: What to export; `keep` is for the parts in INT8.
        out: The folder: absent, empty, or an earlier one, which is replaced.

    Raises:
        InputError: a file is missing, a precision or layer is not for the engine, or no board holds the model.
        ModelError: the model brings code, cannot be exported, or a part computes something else than PyTorch.
        MissingDependencyError: transformers is not installed.
    """
    target, folder = get_target(request.target), open_folder(request.model, request.tokenizer)
    if request.keep:
        raise InputError(f"`keep` {request.keep[0]!r}: a Jetson's folder takes none; write vision=fp16 instead of int8")
    split_model, family = splitter(folder), folder.config.model_type
    architecture = read_architecture(folder.config)
    require_family(architecture)
    names = [part.name for part in architecture.parts if part.name != "head"]
    precisions = precisions_of(names, request.preset or PRESET, request.parts)
    require_precisions(family, precisions)
    layout = checkpoint_format(precisions["decoder"])
    planned = plan_checkpoint(folder.path, layout, 4, GROUP_SIZE, centred=True)
    require_layers(planned)
    fits = boards_that_hold(folder, precisions)
    require_ours(out, "folder for Jetson", is_edge_llm_folder)
    for precision in precisions.values():
        precision.resolved(has_samples=request.samples is not None)
    split = split_model(load_model(folder), folder)
    samples = [] if request.samples is None else list(request.samples(folder, split))
    with whole_folder(out) as temporary:
        own = family in OWN_VISION
        images = {} if own else _image_parts(split, samples, precisions, target, temporary, request.threads)
        tokens = _tokens(samples, split.image_token)
        decoder = precisions["decoder"].resolved(has_samples=tokens is not None)
        done = export_checkpoint(
            folder.path, temporary / DECODER, layout=checkpoint_format(decoder), group_size=GROUP_SIZE,
            weight_method=decoder.method, calib=tokens if decoder.method != "rtn" else None, threads=request.threads,
            centred=True,
        )  # fmt: skip
        described = EdgeLlmFolder(
            folder=temporary,
            name=folder.config.name,
            family=family,
            target=target.name,
            images=images,
            checkpoint=Checkpoint(
                format=done.format, precision=decoder.name, method=decoder.method, layers=done.layers
            ),
            fits=fits,
            files=tuple(FolderFile.of(temporary, path) for path in sorted(temporary.rglob("*")) if path.is_file()),
            source_digest=folder.digest(),
            tools={"edgeq": edgeq.__version__, **{each: version(each) for each in ("torch", "transformers", "onnx")}},
        )
        described.save()
    return dataclasses.replace(described, folder=out)


def boards_that_hold(folder: ModelFolder, precisions: Mapping[str, Precision]) -> tuple[BoardFit, ...]:
    """Returns the Jetson boards that hold a model by `edgeq plan`, the smallest first.

    Args:
        folder: The model.
        precisions: Of its parts.

    Raises:
        InputError: none of them does.
    """
    # A part that is planned for weights alone: activations of 8 bits add nothing.
    stored = {name: "w8" if each.is_static else each.name for name, each in precisions.items()}
    known = {str(part.name) for part in read_architecture(folder.config).parts}
    pinned = {name: precision for name, precision in stored.items() if name in known}
    found, plans = [], []
    for board in BOARDS.values():
        plan = plan_model(folder.path, device=board.name, pinned=pinned)
        plans.append(plan)
        if plan.chosen is not None:
            found.append(
                BoardFit(
                    board=board.name, total_bytes=plan.use.total, budget_bytes=plan.budget_bytes, context=plan.context,
                    most_context=plan.most_context or plan.context,
                )
            )  # fmt: skip
    if not found:
        needed = min(plan.use.total for plan in plans)
        raise InputError(
            f"{folder.path}: takes {needed / 1e9:.2f} GB with {plans[-1].context:,} tokens, more than any Jetson Orin "
            f"has; see `edgeq plan {folder.path}` for what fits"
        )
    return tuple(found)


def _image_parts(
    split: Split,
    samples: Sequence[Sample],
    precisions: Mapping[str, Precision],
    target: Target,
    folder: Path,
    threads: int | None,
) -> dict[str, ImagePart]:
    """Writes what reads images, each file for one image, and returns what the manifest says of it."""
    chain, found = Chain(split, samples), {}
    for part in (split.per_tile.get(part.name, part) for part in split.parts):
        if part.name in _IMAGE_PARTS:
            feeds = [single for feed in chain.feeds(part) for single in _one_by_one(feed)]
            precision = precisions[part.name].resolved(has_samples=bool(feeds))
            found[str(part.name)] = _image_part(part, precision, target, feeds, folder, threads, chain)
    return found


def _one_by_one(feed: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Returns what a part reads of each image, or of each tile of one."""
    count = min(len(array) for array in feed.values())
    return [{name: array[number : number + 1] for name, array in feed.items()} for number in range(count)]


def _image_part(
    part: TorchPart,
    precision: Precision,
    target: Target,
    feeds: Sequence[Mapping[str, np.ndarray]],
    folder: Path,
    threads: int | None,
    chain: Chain,
) -> ImagePart:
    graph = export_part(part, _TRACED_OPSET)
    if part.name == "vision":
        require_whole_images(graph)
    (folder / VISION).mkdir(exist_ok=True)
    plain = folder / VISION / f"{part.name}.onnx"
    save_onnx(copy_graph(graph), plain)
    session = PartSession(plain, threads)
    difference = compare_with_torch(part, session.run)
    plain.unlink()
    run_passes(graph, (*reading(target.rules.opset), *SIMPLIFYING))
    model = FloatModel(str(part.name), graph, prepared_inputs(graph))
    if precision.is_static:
        images = [image for feed in feeds for image in next(iter(feed.values()))]
        written = write_static(model, target, precision.method, images, folder / VISION, threads=threads)
    else:
        written = (write_fp16 if precision.name == "fp16" else write_fp32)(model, target, folder / VISION)
    chain.run(part, session)
    tried = list(feeds[:_COMPARED]) or [{name: array.numpy()[:1] for name, array in part.inputs.items()}]
    return ImagePart(
        file=written.path.relative_to(folder).as_posix(),
        precision=precision.name,
        method=precision.method,
        max_difference=difference,
        output_error=0.0 if precision.is_float else _error(PartSession(written.path, threads), session, tried),
    )


def _error(found: PartSession, wanted: PartSession, feeds: Sequence[Mapping[str, np.ndarray]]) -> float:
    """Returns the norm of the outputs' difference over their norm."""
    pairs = [(found.run(feed)[0], wanted.run(feed)[0]) for feed in feeds]
    lost, whole = (sum(float(np.square(each).sum()) for each in arrays) for arrays in (
        [a.astype(np.float64) - b for a, b in pairs], [b.astype(np.float64) for _, b in pairs]))  # fmt: skip
    return float(np.sqrt(lost / whole)) if whole else 0.0


def _tokens(samples: Sequence[Sample], image_token: int | None) -> np.ndarray | None:
    """Returns the texts of samples, without what stands for images, `(pieces, length)`; `None` without any."""
    ids = [int(each) for sample in samples if "input_ids" in sample for each in sample["input_ids"].reshape(-1)]
    words = [each for each in ids if each != image_token]
    return np.concatenate([piece["input_ids"] for piece in pieces(words)]) if words else None
