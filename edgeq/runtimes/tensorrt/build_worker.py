"""`python -m edgeq.runtimes.tensorrt.build_worker`: engines on the device that is to run them, driven by JSON lines.

`edgeq build` is for people; this is for who times many files on a device behind ssh. It needs TensorRT, numpy and this
package. An engine lies beside its file, and is taken again as long as the same library and GPU are there.

    {"command": "build", "file": "net.onnx", "manifest": {...}}
        builds the engine: explicit INT8 if the file has Q/DQ nodes, otherwise what its types say -> file, manifest
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from edgeq.errors import EdgeqError
from edgeq.exporting.artifact import Artifact, parse_manifest
from edgeq.files import sha256_file
from edgeq.runtimes.commands import answer_by, field, serve
from edgeq.runtimes.cuda import open_cuda
from edgeq.runtimes.tensorrt.build_options import BuildOptions
from edgeq.runtimes.tensorrt.builder import build_plan, has_qdq
from edgeq.runtimes.tensorrt.engine import save_engine
from edgeq.runtimes.tensorrt.facts import BuildFacts, Platform, read_platform
from edgeq.runtimes.tensorrt.library import TENSORRT
from edgeq.targets import get_target


def build(command: Mapping[str, Any]) -> dict[str, Any]:
    """Returns path and manifest of the engine of a file."""
    source = parse_manifest(Path(field(command, "file", str)), field(command, "manifest", dict))
    trt, cuda = TENSORRT.load(), open_cuda()
    path, platform = source.path.with_suffix(".engine"), read_platform(trt, cuda)
    built_from = {source.name: sha256_file(source.path)}
    engine = _built(path, platform, built_from)
    if engine is None:
        options = _options(source)
        plan = build_plan(trt, cuda, source.path, source.inputs, options)
        engine = save_engine(source, path, plan, options, platform, built_from)
    return {"file": str(engine.path), "manifest": engine.to_json()}


def _built(path: Path, platform: Platform, built_from: Mapping[str, str]) -> Artifact | None:
    """Returns the engine that an earlier run left, if it would be built the same again."""
    with contextlib.suppress(EdgeqError):
        engine = Artifact.load(path)
        facts = BuildFacts.of(engine)
        if facts.platform == platform and facts.built_from == built_from:
            return engine
    return None


def _options(source: Artifact) -> BuildOptions:
    facts, explicit = source.quantization_facts, has_qdq(source.path.read_bytes())
    return BuildOptions(
        int8=explicit,
        fp16=explicit or source.precision != "fp32",
        strongly_typed=bool(source.target) and get_target(source.target).rules.fp16 == "graph",
        float_layers=frozenset(facts.float_nodes),
        fp32_layers=frozenset(facts.fp16_islands),
    )


def main() -> NoReturn:
    """Answers commands until the end of stdin."""
    serve(lambda line: answer_by({"build": build}, line), lambda: False)


if __name__ == "__main__":
    main()
