"""What the writers make of many graphs, recorded as digests, so that no change of the code changes a file unseen.

`python -m tests.golden_files --record` writes `tests/data/golden.json`; `--compare CHECKOUT` writes every file with
this checkout and with another one that has this module, and compares them byte for byte.

Ranges are synthetic: they follow from a tensor's name, because a calibration by an engine rounds differently on each
CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgeq.calibration.observed_model import calibrated_tensors
from edgeq.calibrators import Histogram, Range
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.exporting.artifact import Artifact, Preprocessing
from edgeq.exporting.graphs.graph import WEIGHTED_OPS, read_onnx
from edgeq.exporting.jobs import FileJob
from edgeq.exporting.onnx.simulated_bits import simulate
from edgeq.exporting.onnx.writer import FloatModel, engine_graph, write_dynamic, write_fp16, write_fp32
from edgeq.exporting.options import ExportOptions
from edgeq.exporting.passes.batchnorm import fold_batchnorm
from edgeq.exporting.passes.cleaning import clean
from edgeq.exporting.passes.order import reading, run_passes
from edgeq.exporting.planning.keep import resolve_keep
from edgeq.exporting.tflite.graph import read_graph, rename_tensors, unpack
from edgeq.exporting.tflite.plan import observed_tensors
from edgeq.exporting.tflite.writer import RangeSources, TfliteModel, TfliteOptions, write
from edgeq.sources.formats import ONNX, TENSORRT_CACHE
from edgeq.targets import Target, get_target
from edgeq.verbs.export_options import with_int8_deconv

RECORD = Path(__file__).parent / "data" / "golden.json"
DATA = Path(os.environ.get("EDGEQ_DATA", Path(__file__).parents[2] / "shared" / "data"))
PACKAGES = ("onnx", "onnx-ir", "torch", "torchvision", "numpy", "litert-torch", "ai-edge-quantizer")

_TORCH = ("torch", "torchvision")
_TFLITE = ("ai-edge-quantizer",)
_SPEC = Preprocessing(height_px=16, width_px=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

_FACTS = (
    "int8_nodes", "float_nodes", "quantized_tensors", "notes", "method", "vit_plan", "rewritten_conv_transpose",
    "calibration_cache", "fp16", "fp16_islands", "weights_kept_in_fp32", "simulated_bits", "matched_tensors", "layers",
    "dynamic_nodes", "compat",
)  # fmt: skip
"""Entries of the manifest that say what was decided; others may come and go."""

Digests = dict[str, str]
"""`canonical` (operators, attributes, edges and constants, without names), `facts` (of the manifest) and `bytes`."""

_DETECTOR = """g (float[1,3,16,16] image) => (float[1,2,8,8] hm, float[1,2,8,8] wh) {
    c0 = Conv<pads=[1,1,1,1]>(image, w8_3_3_3, b8) r0 = Relu(c0)
    p0 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r0)
    c1 = Conv<pads=[1,1,1,1]>(p0, w8_8_3_3) r1 = Relu(c1)
    c2 = Conv<pads=[1,1,1,1]>(r1, v8_8_3_3, c8) s = Add(c2, p0) r2 = Relu(s)
    hm = Conv(r2, w2_8_1_1) wh = Conv(r2, v2_8_1_1) }"""
TEXTS = {
    "detector": _DETECTOR,
    "joined": """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, w4_3_3_3, b4) ra = Relu(a)
        b = Conv<pads=[1,1,1,1]>(x, v4_3_3_3) rb = Relu(b) j = Concat<axis=1>(ra, rb)
        c = Conv(j, w4_8_1_1, c4) rc = Relu(c) y = Conv(rc, w2_4_1_1) }""",
    "joined_of_three": """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, w4_3_3_3) q = Relu(a)
        b = Conv<pads=[1,1,1,1]>(x, v4_3_3_3) k = Relu(b) j = Concat<axis=1>(k, q, q)
        c = Conv(j, w4_12_1_1) rc = Relu(c) y = Conv(rc, w2_4_1_1) }""",
    "silu": """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w8_3_3_3) g = Sigmoid(c)
        m = Mul(c, g) d = Conv<pads=[1,1,1,1]>(m, w8_8_3_3) r = Relu(d) y = Conv(r, w2_8_1_1) }""",
    "depthwise": """g (float[1,8,8,8] x) => (float[1,2,8,8] y) { c = Conv<pads=[1,1,1,1], group=8>(x, w8_1_3_3)
        r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, w8_8_3_3) q = Relu(d) y = Conv(q, w2_8_1_1) }""",
    "deconvolution": """g (float[1,4,5,5] x) => (float[1,2,10,10] y) {
        c = ConvTranspose<strides=[2,2], pads=[1,1,1,1], kernel_shape=[4,4]>(x, w4_6_4_4, b6)
        r = Relu(c) y = Conv(r, w2_6_1_1) }""",
    "linear": """g (float[4,16] x) => (float[4,8] z) { a = Gemm<transB=1>(x, w24_16, b24) r = Relu(a)
        m = MatMul(r, w24_12) b = Add(m, b12) e = Erf(b) z = Gemm(e, w12_8, b8) }""",
    "tiny_and_shared": """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { c = Conv(x, tiny4_3_1_1, b4) r = Relu(c)
        d = Conv(r, w4_4_1_1, b4) q = Clip(d, zero, six) e = Conv(q, w4_4_1_1, b4) s = Add(e, q) t = Relu(s)
        y = Conv(t, w2_4_1_1) }""",
    "moved": """g (float[1,8,8,8] x) => (float[1,2,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, w8_8_3_3) r = Relu(a)
        u, v = Split<axis=1, num_outputs=2>(r) t = Transpose<perm=[0,1,3,2]>(v) j = Concat<axis=1>(u, t)
        c = Conv(j, v8_8_1_1) rc = Relu(c) y = Conv(rc, w2_8_1_1) }""",
    "decoded": """g (float[1,3,8,8] x) => (float[1,4,64] y) { c = Conv<pads=[1,1,1,1]>(x, w8_3_3_3) r = Relu(c)
        b = Conv(r, w2_8_1_1) o = Conv(r, v2_8_1_1) s = Sigmoid(o) j = Concat<axis=1>(b, s) y = Reshape(j, shape) }""",
    "coordinates": """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, w4_3_3_3) rb = Relu(a)
        j = Concat<axis=1>(rb, grid1_2_8_8) c = Conv(j, w4_6_1_1) rc = Relu(c) y = Conv(rc, w2_4_1_1) }""",
    "pruned": """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, dead4_3_3_3, b4) ra = Relu(a)
        c = Conv(ra, dead4_4_1_1) rc = Relu(c) y = Conv(rc, w2_4_1_1) }""",
}
"""Name -> graph in ONNX text; a weight's name says its shape."""

_ENCODERS = {"vit_torchvision": 18, "vit_deit": 17, "vit_clip": 19}
"""Name -> opset; each is written for the targets that take it."""

_ONNX_FILES = {
    "ultraface": "models/ultraface_rfb320.onnx",
    "yunet": "models/yunet_n_320.onnx",
    "fastestdet": "weights/fastestdet_coco_352.onnx",
    "yolox": "weights/yolox_nano_coco_416.onnx",
}
_TFLITE_FILE = "weights/mlperftiny_resnet8_cifar10_float.tflite"


@dataclass(frozen=True)
class Source:
    """Where a group of files comes from.

    Attributes:
        files: Yields label -> the artifact, written to a folder.
        packages: Packages whose version decides what the graph looks like.
        data: Path of a given file, in the folder of real data.
    """

    files: Callable[[Path], Iterator[tuple[str, Artifact]]]
    packages: tuple[str, ...] = ()
    data: str | None = None


def sources() -> dict[str, Source]:
    """Returns name -> source of all golden files."""
    found = {name: Source(lambda folder, name=name: _of_text(name, folder)) for name in TEXTS}  # type: ignore[misc]
    for name in _ENCODERS:
        found[name] = Source(lambda folder, name=name: _of_encoder(name, folder), _TORCH)  # type: ignore[misc]
    found["centernet"] = Source(_of_centernet, _TORCH)
    for name, path in _ONNX_FILES.items():
        found[name] = Source(lambda folder, path=path: _of_onnx(path, folder), (), path)  # type: ignore[misc]
    found["tflite_resnet8"] = Source(_of_tflite_file, _TFLITE, _TFLITE_FILE)
    found["tflite_mobile"] = Source(_of_tflite_net, (*_TORCH, "litert-torch", *_TFLITE))
    return found


def digests_of(source: Source) -> dict[str, Digests]:
    """Returns label -> digests of all files of a source."""
    with tempfile.TemporaryDirectory() as folder:
        return {label: _digests(artifact) for label, artifact in source.files(Path(folder))}


def versions() -> dict[str, str]:
    """Returns package -> version, for those that are installed.

    torch's comes with the instruction set of its kernels: it decides the last bits of the weights that it draws.
    """
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if "torch" in found:
        import torch

        found["torch"] += f", {torch.backends.cpu.get_cpu_capability()}"
    return found


# Synthetic ranges ---------------------------------------------------------------------------------------------------


def synthetic_ranges(tensors: list[str], model_digest: str, preprocessing: Preprocessing, method: str) -> Ranges:
    """Returns ranges that follow from the names of the tensors alone."""
    provenance = Provenance.of(
        model_digest=model_digest, preprocessing_digest=preprocessing.digest, image_digests=["0"], tool_version="golden"
    )
    ends = {name: _ends(name) for name in tensors}
    histograms = {name: Histogram.of([low * 1.25, high * 1.25]) for name, (low, high) in ends.items()}
    ranges = {name: Range(low, high, max(high, -low) * 0.875) for name, (low, high) in ends.items()}
    return Ranges(method, {}, provenance, ranges, histograms)


def _ends(name: str) -> tuple[float, float]:
    digest = hashlib.sha256(name.encode()).digest()
    high = 2.0 ** (digest[0] % 4) * (1 + digest[1] / 256)
    if digest[2] < 12:
        high *= 2.0**14  # what FP16 cannot hold
    return (-high * digest[3] / 256 if digest[4] % 2 else 0.0), high


# Sources ------------------------------------------------------------------------------------------------------------


def _weight(name: str) -> np.ndarray:
    shape = [int(size) for size in name.lstrip("abcdefghijklmnopqrstuvwxyz").split("_")]
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    weight = np.random.default_rng(seed).integers(-255, 256, shape).astype(np.float32) / np.float32(256)
    if name.startswith("tiny"):
        weight[2] *= np.float32(2.0**-40)
    if name.startswith("dead"):
        weight[1] = 0
    return weight


def _text_model(name: str, opset: int) -> FloatModel:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {TEXTS[name]}')
    for node in proto.graph.node:
        if node.op_type == "Split" and opset < 18:  # the attribute is as old as opset 18
            kept = [each for each in node.attribute if each.name != "num_outputs"]
            del node.attribute[:]
            node.attribute.extend(kept)
    given = {value.name for value in proto.graph.input}
    made = {output for node in proto.graph.node for output in node.output}
    fixed = {
        "zero": np.zeros((), np.float32),
        "six": np.array(6, np.float32),
        "shape": np.array([1, 4, 64]),
    }
    for read in dict.fromkeys(each for node in proto.graph.node for each in node.input if each not in given | made):
        array = fixed[read] if read in fixed else _weight(read)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, read))
    model = ir.from_proto(proto)
    clean(model)
    return FloatModel(name, model, _SPEC)


def _of_text(name: str, folder: Path) -> Iterator[tuple[str, Artifact]]:
    for target in ("x86", "x86-ort", "arm", "jetson-orin", "jetson-orin-trt11"):
        yield from _onnx_files(_text_model(name, get_target(target).rules.opset), target, folder)
    yield from _narrow_files(_text_model(name, 18), folder)


def _of_encoder(name: str, folder: Path) -> Iterator[tuple[str, Artifact]]:
    from tests.exporting import encoders

    opset = _ENCODERS[name]
    model = FloatModel(name, encoders.exported(name.removeprefix("vit_"), opset), _SPEC)
    for target in ("x86", "x86-ort", "arm", "jetson-orin", "jetson-orin-trt11"):
        if get_target(target).rules.opset == opset:
            yield from _onnx_files(model, target, folder, plans=("balanced", "fast", "safe"))
    yield from _narrow_files(model, folder)


def _of_centernet(folder: Path) -> Iterator[tuple[str, Artifact]]:
    import torch

    from edgeq.sources.torch_export import export_torch
    from tests.small import SIZE, small_centernet

    graph = export_torch(small_centernet(0), torch.zeros(1, 3, *SIZE), ["hm", "wh", "reg"], opset=18)
    fold_batchnorm(graph)
    model = FloatModel("centernet", graph, _SPEC)
    for target in ("x86", "x86-ort", "arm", "jetson-orin"):
        yield from _onnx_files(model, target, folder)


def _of_onnx(path: str, folder: Path) -> Iterator[tuple[str, Artifact]]:
    graph = read_onnx(DATA / path)
    run_passes(graph, reading(18))
    fold_batchnorm(graph)
    model = FloatModel("real", graph, _SPEC)
    known = _ranges_of(model)
    for name in ("x86", "x86-ort", "arm", "jetson-orin"):
        target = get_target(name)
        yield f"{name}/int8", _write_int8(model, target, folder, known)
        if target.rules.takes_dynamic:
            yield f"{name}/dynamic", write_dynamic(model, target, folder)


def _ranges_of(model: FloatModel, method: str = "entropy") -> Ranges:
    return synthetic_ranges(calibrated_tensors(model), model.digest, model.preprocessing, method)


def _onnx_files(
    model: FloatModel, name: str, folder: Path, plans: tuple[str, ...] = ("balanced",)
) -> Iterator[tuple[str, Artifact]]:
    target, ranges = get_target(name), _ranges_of(model)
    yield f"{name}/fp32", write_fp32(model, target, folder)
    yield f"{name}/fp16", write_fp16(model, target, folder, ranges)
    for plan in plans:
        yield f"{name}/int8 {plan}", _write_int8(model, target, folder, ranges, (), plan)
    yield f"{name}/int8 minmax", _write_int8(model, target, folder, _ranges_of(model, "minmax"))
    layers = [str(node.name) for node in model.graph.graph if node.op_type in WEIGHTED_OPS]
    yield f"{name}/int8 keep", _write_int8(model, target, folder, ranges, [layers[0]])
    if "tensorrt" in target.runtimes and any(node.op_type == "ConvTranspose" for node in model.graph.graph):
        yield f"{name}/int8 deconv", _write_int8(model, with_int8_deconv(target), folder, ranges)
    if target.rules.takes_dynamic:
        yield f"{name}/dynamic", write_dynamic(model, target, folder)
        yield f"{name}/dynamic keep", write_dynamic(model, target, folder, resolve_keep(model.graph, [layers[0]]))


def _write_int8(
    model: FloatModel, target: Target, folder: Path, ranges: Ranges, keep: Sequence[str] = (), plan: str = "balanced"
) -> Artifact:
    options = ExportOptions(vit_plan=plan)  # type: ignore[arg-type]
    companions = (TENSORRT_CACHE.function("write"),) if target.rules.calibration_cache else ()
    kept = resolve_keep(engine_graph(model, target), keep, options.vit_plan)
    job = FileJob(model, target, folder, options, ranges, kept, companions=companions, precision="int8")
    written: Artifact = ONNX.function("write")(job)
    return written


def _narrow_files(model: FloatModel, folder: Path) -> Iterator[tuple[str, Artifact]]:
    ranges = _ranges_of(model)
    for name in ("x86", "arm", "jetson-orin"):
        for weight_bits, activation_bits in ((4, 4), (6, 8), (8, 3)):
            artifact = simulate(model, get_target(name), ranges, None, weight_bits, activation_bits, folder)
            yield f"{name}/w{weight_bits}a{activation_bits}", artifact


def _of_tflite_file(folder: Path) -> Iterator[tuple[str, Artifact]]:
    content = (DATA / _TFLITE_FILE).read_bytes()
    names = {index: f"t{index}" for index in range(len(read_graph(content, "given").tensors))}
    spec = dataclasses.replace(_SPEC, height_px=32, width_px=32)
    yield from _tflite_files(TfliteModel("resnet8", rename_tensors(content, names, "given"), spec), folder)


def _of_tflite_net(folder: Path) -> Iterator[tuple[str, Artifact]]:
    from tests import tflite_nets

    yield from _tflite_files(tflite_nets.mobile(), folder)


def _tflite_files(model: TfliteModel, folder: Path) -> Iterator[tuple[str, Artifact]]:
    ranges = synthetic_ranges(observed_tensors(model.graph), model.digest, model.preprocessing, "entropy")
    known = RangeSources({name: (ranges, name) for name in ranges.tensors})
    layer = next(each for each in model.graph.operators if each.kind == "CONV_2D")
    kept = {model.graph.tensors[layer.outputs[0]].name: "asked for"}
    variants = {
        "fp16": ("fp16", TfliteOptions()),
        "int8": ("int8", TfliteOptions()),
        "int8 keep": ("int8", TfliteOptions(kept=kept)),
        "int8 io": ("int8", TfliteOptions(integer_io=True)),
        "int16x8": ("int16x8", TfliteOptions()),
        "dynamic": ("dynamic", TfliteOptions()),
        "dynamic compat": ("dynamic", TfliteOptions(compat="tflite-runtime")),
    }
    for label, (precision, options) in variants.items():
        yield label, write(model, "arm", precision, folder, options, known)


# Digests ------------------------------------------------------------------------------------------------------------


def _digests(artifact: Artifact) -> Digests:
    content = artifact.path.read_bytes()
    canonical = canonical_tflite(content) if artifact.format == "tflite" else canonical_onnx(content)
    facts = {key: _without_words(artifact.quantization[key]) for key in _FACTS if key in artifact.quantization}
    cache = facts.get("calibration_cache")
    given = {} if cache is None else {"cache": _sha256((artifact.path.parent / cache["file"]).read_bytes())}
    digest = _sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    return {"canonical": _sha256(canonical), "facts": digest, "bytes": _sha256(content), **given}


def _without_words(fact: Any) -> Any:
    """Returns an entry of the manifest without its reasons, which may be worded anew."""
    if isinstance(fact, Mapping):
        return {key: "" if " " in str(value) else value for key, value in fact.items()}
    return len(fact) if isinstance(fact, list) else fact


def canonical_onnx(content: bytes) -> bytes:
    """Returns what an ONNX file computes, as text without the names of nodes and tensors."""
    graph = onnx.load_model_from_string(content).graph
    numbers: dict[str, str] = {"": "-"}
    for initializer in graph.initializer:
        array = onnx.numpy_helper.to_array(initializer)
        numbers[initializer.name] = f"{array.dtype}{list(array.shape)}:{_sha256(array.tobytes())}"
    numbers |= {value.name: f"input {value.name}" for value in graph.input}
    lines = []
    for place, node in enumerate(graph.node):
        read = [numbers[name] for name in node.input]
        attributes = sorted((each.name, _attribute(onnx.helper.get_attribute_value(each))) for each in node.attribute)
        lines.append(f"{node.domain}.{node.op_type} {attributes} {read}")
        numbers |= {name: f"{place}.{index}" for index, name in enumerate(node.output) if name}
    lines += [f"output {value.name} {numbers[value.name]}" for value in graph.output]
    return "\n".join(lines).encode()


def _attribute(value: Any) -> str:
    if isinstance(value, onnx.TensorProto):
        array = onnx.numpy_helper.to_array(value)
        return f"{array.dtype}{list(array.shape)}:{_sha256(array.tobytes())}"
    return repr(list(value) if not isinstance(value, (bytes, str, int, float)) else value)


def canonical_tflite(content: bytes) -> bytes:
    """Returns what a TFLite file computes, as text without the names of tensors."""
    graph, model = read_graph(content, "golden"), unpack(content, "golden")
    tensors = model.subgraphs[0].tensors
    lines = []
    for tensor in graph.tensors:
        data = model.buffers[tensors[tensor.index].buffer].data
        held = _sha256(bytes(bytearray(data))) if tensor.constant else "-"
        lines.append(f"{tensor.index} {tensor.shape} {tensor.dtype} {tensor.scales} {tensor.zero_points} {held}")
    for operator in graph.operators:
        options = sorted(vars(operator.options).items()) if operator.options is not None else []
        shown = [(key, value.tolist() if isinstance(value, np.ndarray) else value) for key, value in options]
        lines.append(f"{operator.kind} {operator.inputs} {operator.outputs} {shown}")
    return "\n".join([*lines, f"{graph.inputs} {graph.outputs}"]).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]


# The command --------------------------------------------------------------------------------------------------------


def record() -> dict[str, Any]:
    """Returns the digests of all files whose source is here, and the versions of the packages."""
    files = {}
    for name, source in sources().items():
        if source.data is None or (DATA / source.data).is_file():
            files[name] = digests_of(source)
    return {"versions": versions(), "files": files}


def compare(checkout: Path) -> list[str]:
    """Returns a line for every file that another checkout writes otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "golden.json"
        command = [sys.executable, "-m", "tests.golden_files", "--record", str(path)]
        environment = os.environ | {"PYTHONPATH": str(checkout), "EDGEQ_DATA": str(DATA)}
        subprocess.run(command, cwd=checkout, env=environment, check=True)
        return differences(json.loads(path.read_text())["files"], record()["files"])


def differences(theirs: Mapping[str, Mapping[str, Digests]], ours: Mapping[str, Mapping[str, Digests]]) -> list[str]:
    """Returns a line for every file that two records do not agree on."""
    lines = []
    for name in sorted(theirs.keys() | ours.keys()):
        left, right = theirs.get(name, {}), ours.get(name, {})
        for label in sorted(left.keys() | right.keys()):
            before, after = left.get(label, {}), right.get(label, {})
            differing = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
            if differing:
                lines.append(f"{name}: {label}: {', '.join(differing)}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--record", type=Path, nargs="?", const=RECORD, help="write the digests to a file")
    action.add_argument("--compare", type=Path, help="compare with the files of another checkout")
    arguments = parser.parse_args()
    if arguments.compare is not None:
        lines = compare(arguments.compare.resolve())
        print("\n".join(lines) or "all files are equal")
        sys.exit(bool(lines))
    arguments.record.write_text(json.dumps(record(), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
