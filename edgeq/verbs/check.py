"""`edgeq check`: a Q/DQ file against the rules of the engine that is to build it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.tensorrt.cache import DEFAULT_VERSION
from edgeq.exporting.tensorrt.check import STRONG_TYPING_ONLY, Checked, check_graph, parse_version
from edgeq.files import sha256_file
from edgeq.registry import registered
from edgeq.results.compilation import Compilation
from edgeq.results.serialization import RESULTS_VERSION, to_json
from edgeq.runtimes.tensorrt.compile import Compiler
from edgeq.targets import TARGETS, get_target
from edgeq.verbs.check_compile import compile_file


@dataclass(frozen=True)
class CheckResult:
    """A checked file.

    Attributes:
        path: The ONNX file.
        digest: SHA-256 of the file.
        target: The target's name.
        tensorrt: The version of TensorRT whose rules were taken.
        checked: What was found.
        compiled: What TensorRT for RTX makes of it, where that was asked for.
    """

    path: Path
    digest: str
    target: str
    tensorrt: str
    checked: Checked
    compiled: Compilation | None = None

    @property
    def is_wrong(self) -> bool:
        """Whether a rule is broken, the compiler refused the file, or it computes a layer otherwise than planned."""
        return bool(self.checked.errors) or (self.compiled is not None and self.compiled.is_wrong)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of a JSON file."""
        return {
            "results_version": RESULTS_VERSION,
            "file": self.path.name,
            "digest": self.digest,
            "target": self.target,
            "tensorrt": self.tensorrt,
            **to_json(self.checked),
            **({} if self.compiled is None else {"compiled": to_json(self.compiled)}),
        }


def check_file(
    path: Path, target_name: str, tensorrt: str | None = None, compiler: Compiler | None = None
) -> CheckResult:
    """Returns what TensorRT would refuse or run badly of a file.

    Args:
        path: An ONNX file of any tool, or the manifest of one of ours.
        target_name: A target whose first runtime is TensorRT.
        tensorrt: TensorRT's version; by default that of JetPack 6.2, or 11.0 for a strongly typed target.
        compiler: Compiles the file too.

    Raises:
        InputError: the file, the target or the version cannot be used, or the compiler does not know the capability.
        ModelError: the file holds no graph.
        EngineError: the compiler cannot be imported, or its log cannot be read.
    """
    target = get_target(target_name)
    if not target.runtimes[0].startswith("tensorrt"):
        known = [name for name in registered("target", TARGETS) if get_target(name).runtimes[0].startswith("tensorrt")]
        raise InputError(f"`target` {target_name}: its engines take any Q/DQ file; rules to check are of {known}")
    strongly_typed = target.rules.fp16 == "graph"
    chosen = tensorrt or (f"{STRONG_TYPING_ONLY}.0" if strongly_typed else DEFAULT_VERSION)
    version = parse_version(chosen)
    if path.suffix == ".json":
        path = Artifact.load(path).path
    checked = check_graph(read_onnx(path), version, strongly_typed=strongly_typed)
    compiled = None if compiler is None else compile_file(path, compiler)
    return CheckResult(path, sha256_file(path), target_name, chosen, checked, compiled)
