"""The table of files for RTX GPUs: every precision has a row, and rounding by inputs keeps more signal."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import rtx_precisions
from benchmarks.any_graph import Subject
from edgeq.exporting.graphs.graph import save_onnx
from tests.benchmarks.conftest import table
from tests.exporting import nets

PRESET = '[preprocessing]\nheight_px = 8\nwidth_px = 8\nresize = "stretch"\nscale = 0.00392\n'
NET = """g (float[1,3,8,8] x) => (float[1,40] y) {
    k = Conv<pads=[1,1,1,1]>(x, u) a = Relu(k) f = Flatten(a) h = Gemm(f, w, b) r = Relu(h) y = Gemm(r, v, c) }"""


def test_each_precision_has_a_row(drawn, tmp_path, monkeypatch):
    data = tmp_path / "data"
    (data / "coco").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (data / "coco" / split).symlink_to(drawn.folder)
    (data / "coco/instances_val.json").symlink_to(drawn.annotations)
    weights = {
        "u": nets.normal(3, 3, 3, 3, 3),
        "w": nets.normal(0, 192, 64) / 8,
        "b": nets.normal(1, 64),
        "v": nets.normal(2, 64, 40) / 8,
    }
    save_onnx(nets.graph(NET, weights | {"c": np.zeros(40, np.float32)}), tmp_path / "net.onnx")
    (tmp_path / "preset.toml").write_text(PRESET)
    subject = Subject("Net", str(tmp_path / "net.onnx"), str(tmp_path / "preset.toml"))
    monkeypatch.setattr(rtx_precisions, "SUBJECTS", {"net": subject})
    written = rtx_precisions.run(["net"], tmp_path, data=data, images=8, work=tmp_path / "work")
    rows = {precision: cells for (_, precision), cells in table(written).items() if precision != "precision"}
    assert list(rows) == [
        "FP16", "INT8", "FP8", "INT4 weights", "FP4 weights", "INT4 weights, to nearest", "FP4 weights, to nearest"
    ]  # fmt: skip
    assert [rows[each][0] for each in rows] == ["", "1", "1", "2", "2", "2", "2"]
    signal = {precision: float(cells[3]) for precision, cells in rows.items()}
    assert signal["FP16"] > 50 > signal["INT8"] > signal["INT4 weights"] > signal["INT4 weights, to nearest"] > 5
    assert signal["FP4 weights"] > signal["FP4 weights, to nearest"] > 5
    assert "8 were" in written.read_text() and "edgeq 0." in written.read_text()
    monkeypatch.setattr(rtx_precisions, "measure", pytest.fail)  # what is kept is not measured again
    assert rtx_precisions.run(["net"], tmp_path, data=data, images=8, work=tmp_path / "work") == written
