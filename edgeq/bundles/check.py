"""`edgeq check` of a bundle: whether its files are those of the manifest, fit each other and open in an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.bundles.contents import BundlePart, PartTensor
from edgeq.bundles.manifest import Bundle, file_problem, read_manifest
from edgeq.bundles.session import PartSession
from edgeq.errors import EdgeqError
from edgeq.results.serialization import RESULTS_VERSION

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class BundleCheck:
    """What was found.

    Attributes:
        bundle: The bundle, as its manifest describes it.
        problems: What is wrong, a line each.
    """

    bundle: Bundle
    problems: tuple[str, ...]

    @property
    def is_wrong(self) -> bool:
        """Whether anything is."""
        return bool(self.problems)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of a JSON file."""
        return {
            "results_version": RESULTS_VERSION,
            "bundle": self.bundle.name,
            "source_digest": self.bundle.source_digest,
            "problems": list(self.problems),
        }


def check_bundle(path: Path, threads: int | None = None) -> BundleCheck:
    """Returns what is wrong with a bundle.

    Args:
        path: Its folder or manifest.
        threads: CPU threads of the engine.

    Raises:
        InputError: there is no manifest, or it contradicts itself.
    """
    bundle = read_manifest(path)
    problems = [found for file in bundle.files if (found := file_problem(bundle, file)) is not None]
    for part in bundle.parts:
        model = bundle.folder / part.model.file
        if model.is_file():
            problems += _part_problems(part, model, threads)
    return BundleCheck(bundle, tuple(problems))


def _part_problems(part: BundlePart, model: Path, threads: int | None) -> list[str]:
    """Returns what is wrong with the file of a part, apart from its digest."""
    from edgeq.bundles.torch_part import tensors_of
    from edgeq.exporting.graphs.graph import read_onnx

    try:
        graph: ir.Model = read_onnx(model)
        problems = _differences(model, "input", part.inputs, tensors_of(graph.graph.inputs))
        problems = problems or _differences(model, "output", part.outputs, tensors_of(graph.graph.outputs))
        if not problems:
            PartSession(model, threads)
    except EdgeqError as error:
        return [str(error)]
    return problems


def _differences(model: Path, kind: str, stated: Sequence[PartTensor], found: Sequence[PartTensor]) -> list[str]:
    """Returns a line about the first tensor that is another one than the manifest says."""
    by_name = {tensor.name: tensor for tensor in found}
    for wanted in stated:
        tensor = by_name.get(wanted.name)
        if tensor is None:
            names = ", ".join(list(by_name)[:3])
            return [f"{model}: has no {kind} {wanted.name}, which the manifest lists; it has {names}"]
        if tensor != wanted:
            return [
                f"{model}: its {kind} {wanted.name} is {tensor.dtype} {list(tensor.shape)}, the manifest says "
                f"{wanted.dtype} {list(wanted.shape)}; it is a part of another model"
            ]
    return []
