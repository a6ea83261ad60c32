"""How far is aarch64 from x86, model by model?

`python -m tests.arm.figures` writes benchmarks/results/arm_emulated.md; it takes some minutes.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.json_results import merge
from edgeq.files import write_text
from edgeq.results.rows import provenance
from tests.arm.agreement import ROOT, Machine, compare, install_edgeq, on_both
from tests.arm.either_side import BASIC
from tests.arm.emulator import Emulator, assemble_packages, set_up
from tests.arm.subjects import Subject, fastestdet, resnet, shapes, vit

_IMAGES = 24
_EVERY = 100
_DATA = Path(os.environ.get("EDGEQ_DATA", ROOT.parent / "shared/data"))
CPU = "neoverse-n1"


@dataclass(frozen=True)
class _Line:
    """A line of the table: an engine, a file, and how many outputs are compared; in float, each takes seconds."""

    engine: str
    runtime: str
    file_format: str
    precision: str
    outputs: int
    scored: bool = False


_LINES = (
    _Line("ONNX Runtime, basic optimization", BASIC, "onnx", "int8", 3),
    _Line("ONNX Runtime", "onnxruntime", "onnx", "int8", 6, scored=True),
    _Line("ONNX Runtime", "onnxruntime", "onnx", "fp32", 3),
    _Line("LiteRT", "litert", "tflite", "int8", 6, scored=True),
    _Line("LiteRT", "litert", "tflite", "fp32", 3),
)
_HEAD = """# aarch64 beside x86, emulated

The same files of `edgeq export --target arm` on both machines. Differences are over the range of the output.

| model | engine | precision | compared on | values that differ | largest | mean | AP or top-1 x86 | aarch64 |
|---|---|---|---:|---:|---:|---:|---:|---:|
"""


def _lines(subject: Subject, x86: Machine, arm: Machine, folder: Path, results: list[dict[str, Any]]) -> str:
    files = {file_format: subject.export(file_format, folder / file_format) for file_format in ("onnx", "tflite")}
    text = ""
    for line in _LINES:
        artifact = files[line.file_format][line.precision]
        found = compare(*on_both(x86, arm, "outputs", artifact, line.runtime, subject.images, line.outputs))
        scores = ["-", "-"]
        if line.scored and subject.annotations is not None:
            scored = on_both(x86, arm, "score", artifact, line.runtime, subject.annotations, subject.images)
            results += scored
            scores = [f"{result.get('AP', result.get('top1')):.4f}" for result in scored]
        figures = f"{found.share:.1%} | {found.largest:.2g} | {found.mean:.2g}"
        cells = (subject.title, line.engine, line.precision, f"{line.outputs} images", figures, *scores)
        text += f"| {' | '.join(map(str, cells))} |\n"
        print(text.splitlines()[-1], flush=True)
    return text


def machines(folder: Path) -> tuple[Emulator, Machine]:
    """Returns the emulator, and an emulated machine that has this edgeq; `folder` is for both."""
    emulator = set_up()
    packages = assemble_packages(emulator)
    return emulator, Machine(emulator.write_python(folder / CPU, CPU, [install_edgeq(folder), packages]))


def main() -> None:
    """Writes the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        emulator, arm = machines(folder)
        subjects = [
            shapes(folder / "shapes", images=_IMAGES),
            resnet(folder / "resnet", images=_IMAGES),
            fastestdet(_DATA, folder / "fastestdet", images=_IMAGES),
            vit(_DATA, folder / "vit", every=_EVERY),
        ]
        text, results = _HEAD, list[dict[str, Any]]()
        for number, subject in enumerate(subjects):
            text += _lines(subject, Machine(Path(sys.executable)), arm, folder / str(number), results)
    facts = emulator.facts()
    how = f"aarch64 is QEMU {facts['qemu']} in user mode, CPU {CPU}, glibc {facts['glibc']}; it tells nothing of speed."
    sources = dict.fromkeys(sentence for result in results for sentence in provenance(merge([result])))
    write_text(ROOT / "benchmarks/results/arm_emulated.md", "\n".join([text, how, *sources]) + "\n")


if __name__ == "__main__":
    main()
