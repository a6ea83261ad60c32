"""The table of networks without VNNI: which files it compares, and which images they are scored on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.image_sets import ImageSet
from tests.x86 import figures
from tests.x86.one_file import fewer


def test_a_row_compares_each_way_with_fp32_and_the_simulation_with_the_engine(monkeypatch, tmp_path):
    found = {
        ("fp32", "onnxruntime"): 0.0, ("int8", "simulated-narrow"): 0.01, ("int8", "openvino"): 0.1,
        ("int8", "simulated-avx2-openvino"): 0.1,
    }  # fmt: skip

    def compute(python, artifact, runtime, images, data, work, counts):
        values = np.ones(4) + found[artifact.digest[:4], runtime]
        path = figures._outputs_path(python, artifact, runtime, work, counts)
        np.savez(path, steady=np.ones(4), output=values + 1e-5 * runtime.startswith("simulated-avx2"))
        return {"score": {"name": "AP", "value": values[0] / 2, "images": 3}}

    def export(name, target, isa, data, images, work):
        return SimpleNamespace(digest="fp32"), SimpleNamespace(digest=f"int8{isa}", quantization={"int8_nodes": 7})

    monkeypatch.setattr(figures, "compute", compute)
    monkeypatch.setattr(figures, "export", export)
    rows = figures.rows_of("yunet", "openvino", Path("emulated"), tmp_path, 4, tmp_path, (2, 3))
    figures_of_it = "40.0 | 20.0 | 20.0 | 3 images, AP | 0.5000 | 0.5050 | 0.5500 | 0.5500 | 100.8"
    assert rows == [f"| YuNet | openvino | 7 | {isa} | {figures_of_it} |" for isa in ("vnni", "any")]


def test_fewer_images_keep_their_own_annotations_only(tmp_path):
    truth = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(10)],
        "annotations": [{"id": number, "image_id": number % 10} for number in range(30)],
        "categories": [{"id": 1, "name": "thing"}],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    found = json.loads(fewer(ImageSet(tmp_path, None, path, tmp_path), 3, tmp_path).truth.read_text())
    kept = {each["id"] for each in found["images"]}
    assert len(kept) == 3
    assert [each["id"] for each in found["annotations"]] == [number for number in range(30) if number % 10 in kept]
    assert found["categories"] == truth["categories"]


def test_of_labels_a_share_is_taken(tmp_path):
    (tmp_path / "labels.csv").write_text("".join(f"{number}.png,{number % 2}\n" for number in range(10)))
    found = fewer(ImageSet(tmp_path, None, tmp_path / "labels.csv", tmp_path), 5, tmp_path).truth.read_text()
    assert len(found.splitlines()) == 5
