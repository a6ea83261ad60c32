"""What of a folder runs on which JetPack of an Orin: by NVIDIA's release notes and by the rules of `edgeq check`.

Nothing here was run on a board. Versions are those of NVIDIA's JetPack pages; a parser that lacks an operator is found
by `check_graph`, besides the two that TensorRT 8.6 brought
(https://github.com/onnx/onnx-tensorrt/blob/main/docs/Changelog.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeq.deploying.packed import Packed
from edgeq.deploying.quoting import code_span
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.tensorrt.check import check_graph, parse_version


@dataclass(frozen=True)
class JetPack:
    """A release for Orin.

    Attributes:
        name: Its version.
        tensorrt: TensorRT that comes with it.
        python: Python of its Ubuntu.
        strongly_typed: Whether that TensorRT takes strongly typed networks alone.
        dla: What DLA of that TensorRT takes.
    """

    name: str
    tensorrt: str
    python: str
    strongly_typed: bool
    dla: str

    @property
    def has_runner(self) -> bool:
        """Whether edgeq runs on its Python."""
        return parse_version(self.python) >= (3, 10)


_BY_CACHE = "by the cache (`DLA=0 ROUTE=implicit`)"
_NO_LONGER = "no: TensorRT 10.7 was the last version 10 with DLA"

JETPACKS = (
    JetPack("5.1", "8.5.2", "3.8", False, _BY_CACHE),
    JetPack("6.0", "8.6.2", "3.10", False, _BY_CACHE),
    JetPack("6.1, 6.2", "10.3.0", "3.10", False, _BY_CACHE),
    JetPack("7.2", "10.16.2", "3.12", False, _NO_LONGER),
    JetPack(
        "7.2 with TensorRT 11",
        "11.4.1",
        "3.12",
        True,
        "AGX Orin takes Q/DQ nodes; not verified, and not by these scripts",
    ),
)

# Operator -> the first TensorRT whose parser has it.
_SINCE = {"LayerNormalization": (8, 6), "GroupNormalization": (8, 6)}


def matrix(models: Sequence[Packed], *, strongly_typed: bool) -> str:
    """Returns the table of JetPacks: what of these models works on each, and what does not.

    Args:
        models: Models that are built with TensorRT.
        strongly_typed: Whether their files are for strong typing.
    """
    has_cache = any(model.cache for model in models)
    lines = [
        "| JetPack | TensorRT | Python | build.sh | edgeq's runner | Q/DQ nodes and operators | INT8 on DLA |",
        "|---|---|---|---|---|---|---|",
    ]
    for release in JETPACKS:
        fits = release.strongly_typed == strongly_typed
        other = "jetson-orin-trt11" if release.strongly_typed else "jetson-orin"
        cells = [
            release.name,
            release.tensorrt,
            release.python,
            "yes" if fits else f"no: export with `--target {other}`",
            "yes" if fits and release.has_runner else "no" if not fits else "no: needs Python 3.10",
            _verdict(models, release) if fits else "-",
            "-" if not fits else release.dla if has_cache or release.dla != _BY_CACHE else "no: no calibration cache",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _verdict(models: Sequence[Packed], release: JetPack) -> str:
    refused = [(model.name, reason) for model in models if (reason := _refused(model, release))]
    return "accepted" if not refused else "; ".join(f"{name}: {reason}" for name, reason in refused)


def _refused(model: Packed, release: JetPack) -> str:
    """Returns why the TensorRT of a JetPack would refuse a file, or nothing."""
    graph = read_onnx(model.artifact.path)
    version = parse_version(release.tensorrt)
    for operator in sorted(_SINCE.keys() & {node.op_type for node in graph.graph}):
        if version < (since := _SINCE[operator]):
            return f"{operator} needs TensorRT {'.'.join(map(str, since))}"
    errors = check_graph(graph, version, strongly_typed=release.strongly_typed).errors
    return "" if not errors else f"`edgeq check`: {code_span(errors[0].sentence)}"
