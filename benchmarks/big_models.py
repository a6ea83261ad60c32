"""How long does the export of a large model take, and how much memory, compared with the size of its file?

`python -m benchmarks.big_models` builds vision transformers of random weights, exports each to FP32 and INT8, every
step in a fresh process, and reports seconds and peak memory. A run that was interrupted resumes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from benchmarks.cases import result_parser, write_result
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.graphs.graph import save_onnx
from edgeq.exporting.graphs.onnx_file import data_path
from edgeq.inputs import items_of
from edgeq.machine import peak_rss_bytes, read_machine
from edgeq.resume import JobLog
from edgeq.sources.model import ModelRequest, open_model
from edgeq.verbs.export import export_model

PRESET = '[preprocessing]\nresize = "stretch"\n'
IMAGES = 2


@dataclass(frozen=True)
class Size:
    """A vision transformer with its sides (An Image is Worth 16x16 Words, Dosovitskiy et al., 2021).

    Attributes:
        title: What the table calls it.
        width: Numbers of a token.
        blocks: Encoder blocks.
        heads: Heads of an attention.
        side_px: Height and width of the image, in patches of 16 pixels.
    """

    title: str
    width: int
    blocks: int
    heads: int
    side_px: int = 64


SIZES = (Size("300 MB", 768, 11, 12), Size("2.5 GB", 1280, 32, 16))


def run(out: Path, sizes: Sequence[Size] = SIZES) -> Path:
    """Returns the result file: seconds and memory of every step for every size."""
    lines = [
        "| model | file GB | step | seconds | peak memory GB | peak over the file |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for size in sizes:
        log = JobLog.in_cache("benchmarks", {"big_models": asdict(size), "edgeq": version("edgeq")})
        done = {str(part["step"]): part for part in log.parts()} if log.path.is_file() else {}
        with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
            for step in STEPS:
                if step not in done:
                    done[step] = _in_a_process(size, Path(folder), step)
                    log.add(done[step])
                if step != "build":
                    lines.append(_row(size, done["build"], done[step]))
    machine = read_machine()
    tools = ", ".join(f"{name} {version(name)}" for name in ("onnx", "onnx-ir", "onnxruntime", "numpy"))
    how = (
        f"Each step in a fresh process on {machine.cpu}, {machine.usable_cpus} CPUs, Python {machine.python}, {tools}. "
        f"The peak is the process's largest resident set, with the libraries and with the mapped pages of the file. "
        f"`int8` calibrates on {IMAGES} images with `minmax` and compares the file with the model; `fp32` compares too."
    )
    return write_result(out, "big_models.md", "\n\n".join(["# Large models", "\n".join(lines), how]) + "\n")


def _row(size: Size, built: dict[str, float], taken: dict[str, float]) -> str:
    share = taken["peak_rss_bytes"] / built["file_bytes"]
    return (
        f"| {size.title} | {built['file_bytes'] / 1e9:.2f} | {taken['step']} | {taken['seconds']:.1f} | "
        f"{taken['peak_rss_bytes'] / 1e9:.2f} | {share:.2f} |"
    )


def _in_a_process(size: Size, folder: Path, step: str) -> dict[str, float]:
    """Returns what a step took; the model is built first where an interrupted run has left none."""
    if step != "build" and not (folder / "model.onnx").is_file():
        _in_a_process(size, folder, "build")
    job = json.dumps({"size": asdict(size), "folder": str(folder), "step": step})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.big_models", "--step", job], stdout=subprocess.PIPE, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def take_step(size: Size, folder: Path, step: str) -> dict[str, object]:
    """Returns what one step took in this process, as JSON values."""
    started = time.perf_counter()
    STEPS[step](size, folder)
    files = [path for path in (folder / "model.onnx", data_path(folder / "model.onnx")) if path.is_file()]
    return {
        "step": step,
        "seconds": time.perf_counter() - started,
        "peak_rss_bytes": peak_rss_bytes() or 0,
        "file_bytes": sum(path.stat().st_size for path in files),
    }


def build(size: Size, folder: Path) -> None:
    """Writes the model and its preset."""
    (folder / "preset.toml").write_text(PRESET)
    save_onnx(make_transformer(size), folder / "model.onnx")


def make_transformer(size: Size) -> ir.Model:
    """Returns a vision transformer with random weights: `(1, 3, side, side)` to ten scores."""
    tokens, head = (size.side_px // 16) ** 2, size.width // size.heads
    text = ["t0 = Conv<kernel_shape=[16,16], strides=[16,16]>(x, patch)", "t1 = Reshape(t0, flat)"]
    text.append("b0 = Transpose<perm=[0,2,1]>(t1)")
    shapes: dict[str, tuple[int, ...]] = {"patch": (size.width, 3, 16, 16), "classes": (size.width, 10)}
    for block in range(size.blocks):
        names = {name: f"{name}{block}" for name in ("q", "k", "v", "o", "up", "down", "upb", "downb", "g1", "g2")}
        wide = 4 * size.width
        square, vectors = (size.width, size.width), {"upb": (wide,)}
        vectors |= dict.fromkeys(("downb", "g1", "g2"), (size.width,))
        shapes |= {names[name]: square for name in ("q", "k", "v", "o")}
        shapes |= {names["up"]: (size.width, wide), names["down"]: (wide, size.width)}
        shapes |= {names[name]: shape for name, shape in vectors.items()}
        text += _block(block, names)
    text += [f"n = LayerNormalization<axis=-1>(b{size.blocks}, ones, zeros)", "m = ReduceMean<keepdims=0>(n, one)"]
    text.append("y = MatMul(m, classes)")
    side = size.side_px
    proto = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 18]> vit (float[1,3,{side},{side}] x) => (float[1,10] y) '
        + "{" + " ".join(text) + "}"
    )  # fmt: skip
    rng = np.random.default_rng(0)
    constants: dict[str, np.ndarray] = {
        "flat": np.array([1, size.width, tokens]), "parts": np.array([1, tokens, size.heads, head]),
        "joined": np.array([1, tokens, size.width]), "one": np.array([1]), "scale": np.array(head**-0.5, np.float32),
        "half": np.array(0.5, np.float32), "ones": np.ones(size.width, np.float32),
        "zeros": np.zeros(size.width, np.float32), "unit": np.array(1, np.float32),
        "root": np.array(2**-0.5, np.float32),
    }  # fmt: skip
    for name, shape in shapes.items():
        fan = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        constants[name] = rng.standard_normal(shape, np.float32) * np.float32(fan**-0.5)
    for name, array in constants.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        proto.graph.initializer.add(name=name, data_type=kind, dims=array.shape)
    model = ir.from_proto(proto)
    for name, array in constants.items():
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return model


def _block(number: int, names: dict[str, str]) -> list[str]:
    """Returns the text of an encoder block that reads `b<number>` and gives `b<number + 1>`."""

    def of(name: str) -> str:
        return f"{name}_{number}"

    lines = [f"{of('n')} = LayerNormalization<axis=-1>(b{number}, {names['g1']}, zeros)"]
    for each, order in (("q", "0,2,1,3"), ("k", "0,2,3,1"), ("v", "0,2,1,3")):
        lines += [
            f"{of(each)}m = MatMul({of('n')}, {names[each]})",
            f"{of(each)}r = Reshape({of(each)}m, parts)",
            f"{of(each)}t = Transpose<perm=[{order}]>({of(each)}r)",
        ]
    lines += [
        f"{of('l')} = MatMul({of('q')}t, {of('k')}t)", f"{of('s')} = Mul({of('l')}, scale)",
        f"{of('p')} = Softmax({of('s')})", f"{of('c')} = MatMul({of('p')}, {of('v')}t)",
        f"{of('ct')} = Transpose<perm=[0,2,1,3]>({of('c')})", f"{of('cj')} = Reshape({of('ct')}, joined)",
        f"{of('o')} = MatMul({of('cj')}, {names['o']})", f"{of('a')} = Add(b{number}, {of('o')})",
        f"{of('n2')} = LayerNormalization<axis=-1>({of('a')}, {names['g2']}, zeros)",
        f"{of('u')} = MatMul({of('n2')}, {names['up']})", f"{of('ub')} = Add({of('u')}, {names['upb']})",
        f"{of('e')} = Mul({of('ub')}, root)", f"{of('f')} = Erf({of('e')})", f"{of('g')} = Add({of('f')}, unit)",
        f"{of('h')} = Mul({of('ub')}, {of('g')})", f"{of('i')} = Mul({of('h')}, half)",
        f"{of('d')} = MatMul({of('i')}, {names['down']})", f"{of('db')} = Add({of('d')}, {names['downb']})",
        f"b{number + 1} = Add({of('a')}, {of('db')})",
    ]  # fmt: skip
    return lines


def _request(folder: Path) -> ModelRequest:
    return ModelRequest(str(folder / "model.onnx"), preset=str(folder / "preset.toml"))


def _open(_size: Size, folder: Path) -> None:
    open_model(_request(folder))


def _export(precision: str) -> Callable[[Size, Path], None]:
    def step(size: Size, folder: Path) -> None:
        images = np.random.default_rng(1).integers(0, 256, (IMAGES, size.side_px, size.side_px, 3), np.uint8)
        source = CalibrationSource(list(items_of(list(images), IMAGES)), method="minmax")
        calibration = source if precision == "int8" else None
        with tempfile.TemporaryDirectory(dir=folder) as out:
            export_model(_request(folder), "x86", (precision,), Path(out), calibration=calibration)

    return step


STEPS: dict[str, Callable[[Size, Path], None]] = {
    "build": build, "open": _open, "fp32": _export("fp32"), "int8": _export("int8"),
}  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    parser = result_parser(__doc__)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    if arguments.step is not None:
        job = json.loads(arguments.step)
        print(json.dumps(take_step(Size(**job["size"]), Path(job["folder"]), job["step"])))
    else:
        run(arguments.out)


if __name__ == "__main__":
    main()
