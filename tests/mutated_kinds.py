"""Kinds of files that are not JSON: a small file of each, how it is changed, and all that is done with it."""

from __future__ import annotations

import io
import json
import sqlite3
import struct
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgeq.boundary import read_text
from edgeq.bundles.samples import read_prepared
from edgeq.datasets import open_split
from edgeq.datasets.xml_file import read_xml
from edgeq.exporting.checkpoints.stored import stored_tensors
from edgeq.exporting.costs.table import read_table
from edgeq.exporting.tensorrt.cache_file import read_cache
from edgeq.exporting.tflite.graph import read_graph
from edgeq.inputs.array_files import read_array
from edgeq.inputs.images import image_size, list_images, read_image, small_image
from edgeq.memory.config_file import read_config
from edgeq.memory.families import read_architecture
from edgeq.models.zoo import read_metadata, read_weights
from edgeq.resume import JobLog
from edgeq.sources.artifact_file import open_artifact
from edgeq.sources.model import ModelRequest, open_float_model
from edgeq.studying.space import read_space
from edgeq.tasks.labelled_images import load_labelled_images
from edgeq.tasks.language.answers import load_answers
from edgeq.tasks.language.questions import load_questions
from edgeq.tasks.oriented.truth import load_objects
from edgeq.tasks.text.truth import load_text_truth
from edgeq.tuning.store import Store
from edgeq.verbs.check import check_file
from tests.mutations import mutate_bytes, mutate_lines

Change = Callable[[bytes, int, int], Iterator[tuple[str, bytes]]]


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        path: Where it lies in a folder of its own.
        make: Returns its content, and may write what lies beside it into the folder.
        read: Does all that is done with such a file.
        change: Changes the content.
    """

    path: str
    make: Callable[[Path], bytes]
    read: Callable[[Path], object]
    change: Change


def put(kind: Kind, folder: Path) -> Path:
    """Returns the file of a kind, written into a new folder with all that lies beside it."""
    folder.mkdir()
    for name in ("3.png", "5.png"):
        (folder / name).touch()
    content = kind.make(folder)
    path = folder / kind.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def as_bytes(content: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Changes bytes."""
    return mutate_bytes(content, count, seed)


def as_lines(content: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Changes words and lines."""
    return mutate_lines(content.decode(), count, seed)


def _conv_onnx(folder: Path) -> bytes:
    from tests.tiny import save_conv_net

    return save_conv_net(folder / "made.onnx").path.read_bytes()


def _qdq_onnx(_: Path) -> bytes:
    import onnx

    text = """<ir_version: 8, opset_import: ["" : 17]> net (float[1,3,8,8] x) => (float[1,4,8,8] y)
    <float s = {0.1}, int8 z = {0}, float[4] ws = {0.1,0.1,0.1,0.1}, int8[4] wz = {0,0,0,0}, int8[4,3,1,1] w =
    {1,2,3,4,5,6,7,8,9,10,11,12}> { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear<axis = 0>(w, ws, wz)  y = Conv(d, wd) }"""
    content: bytes = onnx.parser.parse_model(text).SerializeToString()
    return content


def _read_onnx(path: Path) -> None:
    check_file(path, "jetson-orin")
    open_float_model(ModelRequest(str(path), size=(16, 16)))


def _read_qdq_onnx(path: Path) -> None:
    check_file(path, "jetson-orin")
    open_artifact(path)


def _read_tflite(path: Path) -> None:
    read_graph(path.read_bytes(), path.name)


def _safetensors(_: Path) -> bytes:
    tensors: dict[str, np.ndarray] = {
        "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b": np.ones(3, np.float16),
    }
    header, data = {}, b""
    for name, array in tensors.items():
        dtype = {"float32": "F32", "float16": "F16"}[str(array.dtype)]
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    text = json.dumps({"__metadata__": {"labels": "cat,dog"}, **header}).encode()
    return struct.pack("<Q", len(text)) + text + data


def _read_safetensors(path: Path) -> None:
    read_metadata(path)
    read_weights(path)


def _read_stored(path: Path) -> None:
    for tensor in stored_tensors(path.parent).values():
        tensor.read()


def _pth(_: Path) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save({"state_dict": {"a.weight": torch.ones(3, 4), "b": torch.ones(3)}}, stream)
    return stream.getvalue()


def _image(form: str) -> Callable[[Path], bytes]:
    def make(_: Path) -> bytes:
        from PIL import Image

        stream = io.BytesIO()
        pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
        Image.fromarray(pixels).save(stream, form)
        return stream.getvalue()

    return make


def _read_image(path: Path) -> None:
    image_size(path)
    read_image(path)
    small_image(path, 8)


def _images(folder: Path) -> Path:
    """Returns a folder with two images."""
    images = folder / "images"
    if not images.exists():
        images.mkdir()
        for name in ("3.png", "5.png"):
            (images / name).write_bytes(_image("PNG")(folder))
    return images


def _npy(_: Path) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.arange(12, dtype=np.float32).reshape(3, 4))
    return stream.getvalue()


def _npz(_: Path) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, x=np.zeros((2, 8, 8, 3), np.uint8), y=np.arange(2))
    return stream.getvalue()


def _npz_samples(_: Path) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, input_ids=np.arange(12).reshape(3, 4))
    return stream.getvalue()


def _in_data_set(name: str, path: str) -> Callable[[Path], bytes]:
    def make(folder: Path) -> bytes:
        from tests.datasets import written

        getattr(written, name)(written.draw(folder.with_name(f"{folder.name} drawn")), folder, written.CLASSES)
        return (folder / path).read_bytes()

    return make


def _read_split(up: int) -> Callable[[Path], object]:
    return lambda path: open_split(path.parents[up], "evaluation")


def _text(text: str) -> Callable[[Path], bytes]:
    return lambda _: text.encode()


def _store(folder: Path) -> bytes:
    path = folder / "made.sqlite"
    with Store(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes()


def _read_store(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with Store(path, create=False) as store:
        list(store.rows())


def _job_log(folder: Path) -> bytes:
    log = JobLog(folder / "made.jsonl", {"job": 1})
    for number in range(3):
        log.add({"number": number, "text": "abc"})
    return log.path.read_bytes()


_LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256,
    "max_position_embeddings": 128, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
_QUESTIONS = '{"id": 1, "image": "3.png", "question": "what?", "answers": ["cat", "dog"]}\n{"id": "b", "answer": "x"}\n'
_ANSWERS = '{"model": "m", "precision": "w4"}\n{"id": 1, "answer": "cat"}\n{"id": "b", "text": "dog"}\n'
_CACHE = "TRT-100300-EntropyCalibration2\nimages: 3c010a14\n/conv/Conv_output_0: 3dcccccd\n"
_SPACE = (
    'question = "bits"\nblocks = 2\nmixed = false\n[axes]\nbits = [2, 4]\ngranularity = [32, "row"]\nmethod = ["rtn"]\n'
)
_DOTA = "imagesource:GoogleEarth\ngsd:0.1\n1 1 9 1 9 9 1 9 plane 0\n2 2 8 2 8 8 2 8 ship 1\n"
_PROBES = files("edgeq") / "data"

KINDS: dict[str, Kind] = {
    "ONNX": Kind("net.onnx", _conv_onnx, _read_onnx, as_bytes),
    "ONNX with Q/DQ pairs": Kind("net.onnx", _qdq_onnx, _read_qdq_onnx, as_bytes),
    "ONNX of another tool": Kind("net.onnx", lambda _: (_PROBES / "probe.onnx").read_bytes(), open_artifact, as_bytes),
    "TFLite": Kind("net.tflite", lambda _: (_PROBES / "probe.tflite").read_bytes(), _read_tflite, as_bytes),
    "safetensors": Kind("net.safetensors", _safetensors, _read_safetensors, as_bytes),
    "safetensors of a checkpoint": Kind("model.safetensors", _safetensors, _read_stored, as_bytes),
    "pth": Kind("net.pth", _pth, read_weights, as_bytes),
    "PNG": Kind("a.png", _image("PNG"), _read_image, as_bytes),
    "JPEG": Kind("a.jpg", _image("JPEG"), _read_image, as_bytes),
    "BMP": Kind("a.bmp", _image("BMP"), _read_image, as_bytes),
    "WebP": Kind("a.webp", _image("WEBP"), _read_image, as_bytes),
    "TIFF": Kind("a.tiff", _image("TIFF"), _read_image, as_bytes),
    "npy": Kind("a.npy", _npy, read_array, as_bytes),
    "npz of images": Kind("a.npz", _npz, lambda path: open_split(path, "evaluation"), as_bytes),
    "npz of samples": Kind("a.npz", _npz_samples, lambda path: read_prepared(path, None), as_bytes),  # type: ignore[arg-type]
    "YOLO yaml": Kind("set.yaml", _in_data_set("yolo", "set.yaml"), _read_split(0), as_lines),
    "YOLO labels": Kind("labels/val/a.txt", _in_data_set("yolo", "labels/val/a.txt"), _read_split(2), as_lines),
    "YOLO list": Kind("val.txt", _in_data_set("listed_yolo", "val.txt"), _read_split(0), as_lines),
    "YOLO names": Kind("classes.txt", _in_data_set("label_studio_yolo", "classes.txt"), _read_split(0), as_lines),
    "Darknet data": Kind("obj.data", _in_data_set("darknet", "obj.data"), _read_split(0), as_lines),
    "VOC": Kind("valid/a.xml", _in_data_set("roboflow_voc", "valid/a.xml"), _read_split(1), as_lines),
    "VOC list": Kind(
        "VOCdevkit/VOC2012/ImageSets/Main/val.txt",
        _in_data_set("voc", "VOCdevkit/VOC2012/ImageSets/Main/val.txt"), _read_split(4), as_lines,
    ),
    "COCO lines": Kind(
        "annotations/instances_val2017.json", _in_data_set("coco", "annotations/instances_val2017.json"),
        _read_split(1), as_lines,
    ),
    "DOTA": Kind(
        "labelTxt/3.txt", _text(_DOTA), lambda path: load_objects(path.parent, _images(path.parents[1])), as_lines
    ),
    "ICDAR": Kind(
        "gt/gt_3.txt", _text("1,1,9,1,9,9,1,9,word\n2,2,8,2,8,8,2,8,###\n"),
        lambda path: load_text_truth(path.parent, _images(path.parents[1])), as_lines,
    ),
    "CVAT": Kind("annotations.xml", _in_data_set("cvat", "annotations.xml"), _read_split(0), as_lines),
    "XML": Kind("a.xml", _text("<a><b c='1'>x</b></a>"), lambda path: read_xml(path, kind="XML"), as_bytes),
    "image list": Kind("list.txt", _text("3.png\n5.png\n"), lambda path: list_images(path, None), as_lines),
    "CSV of classes": Kind(
        "labels.csv", _text("path,label\n3.png,cat\n5.png,dog\n"),
        lambda path: load_labelled_images(path, path.parent), as_lines,
    ),
    "CSV data set": Kind(
        "labels.csv", _text("path,label\n3.png,cat\n5.png,dog\n"), lambda path: open_split(path, "evaluation"), as_lines
    ),
    "calibration cache": Kind("net.cache", _text(_CACHE), read_cache, as_lines),
    "kernel costs": Kind(
        "t.csv", lambda _: b"\n".join((_PROBES / "kernels" / "avx2.openvino.csv").read_bytes().splitlines()[:40]),
        read_table, as_lines,
    ),
    "study": Kind("space.toml", _text(_SPACE), lambda path: read_space(path, None), as_lines),
    "config.json": Kind(
        "config.json", _text(json.dumps(_LLAMA, indent=1)),
        lambda path: read_architecture(read_config(path)), as_lines,
    ),
    "questions": Kind("q.jsonl", _text(_QUESTIONS), load_questions, as_lines),
    "answers": Kind("a.jsonl", _text(_ANSWERS), load_answers, as_lines),
    "trial store": Kind("store.sqlite", _store, _read_store, as_bytes),
    "log of a cut job": Kind("job.jsonl", _job_log, lambda path: JobLog(path, {"job": 1}).parts(), as_lines),
    "text": Kind("a.txt", _text("äöü\n"), lambda path: read_text(path, kind="text"), as_bytes),
}  # fmt: skip
