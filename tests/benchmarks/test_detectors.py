"""Every benchmark of detectors runs from the model to the file that it writes, on the shipped detector."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import (
    before_and_after,
    calibration_cost,
    calibration_pick,
    command_line,
    conv_transpose,
    exact_signal,
    jetson_simulated,
    methods,
    x86_int8,
)
from edgeq.calibrators import METHODS
from tests.benchmarks.conftest import BRIEF, HAS_NNCF, require_nncf, table

pytestmark = pytest.mark.slow

TOLERANCE = 0.1
"""How far INT8's AP on two images may lie from FP32's: a file that was mixed up with another lies further."""

RUNTIMES = ("openvino", "onnxruntime")


@pytest.fixture(scope="module")
def x86(subject, new_folder) -> Path:
    peers = {title: peer for title, peer in x86_int8.PEERS.items() if HAS_NNCF or title != x86_int8.NNCF}
    return x86_int8.run(subject, new_folder("x86"), peers=peers, sampling=BRIEF)


@pytest.fixture(scope="module")
def cost(subject, new_folder) -> Path:
    tools = {tool: title for tool, title in calibration_cost.TOOLS.items() if HAS_NNCF or tool != "nncf"}
    out = new_folder("cost")
    return calibration_cost.run(subject, subject, out, tools=tools, counts={"edgeq": (1, 2)}, rounds=1)


def test_x86_int8_scores_and_times_edgeqs_files(x86):
    assert x86.name == "x86_int8_shapes.md"
    rows = table(x86)
    reference = float(rows["FP32", "onnxruntime"][0])
    assert reference > 0.5
    for runtime in RUNTIMES:
        for file in ("FP32", "edgeq x86", "edgeq x86-ort"):
            ap, _, to_fp32, p50_ms, to_nncf, ratio, size_mb = rows[file, runtime]
            assert float(ap) == pytest.approx(reference, abs=TOLERANCE)
            assert float(to_fp32) == pytest.approx(float(ap) - float(rows["FP32", runtime][0]), abs=1.1e-4)
            assert float(p50_ms) > 0
            assert float(ratio) > 0
            assert (to_nncf == "-") == (runtime != "openvino" or not HAS_NNCF)
            assert float(size_mb) < (2 if file.startswith("edgeq") else 7)


@pytest.mark.parametrize("peer", x86_int8.PEERS)
def test_x86_int8_scores_and_times_the_peers(x86, peer):
    if peer == x86_int8.NNCF:
        require_nncf()
    rows = table(x86)
    for runtime in x86_int8.PEERS[peer].runtimes:
        ap, _, _, p50_ms, to_nncf, _, size_mb = rows[peer, runtime]
        assert float(ap) == pytest.approx(float(rows["FP32", runtime][0]), abs=TOLERANCE)
        assert float(p50_ms) > 0
        assert to_nncf == "1.00" or peer != x86_int8.NNCF
        # With OpenVINO's weights, which lie in a file beside it.
        assert 1.4 < float(size_mb) < 2


@pytest.mark.parametrize("tool", calibration_cost.TOOLS)
def test_calibration_cost_times_every_tool(cost, tool):
    if tool == "nncf":
        require_nncf()
    times = cost.read_text().split("\n\n")[1]
    (row,) = [line for line in times.splitlines() if line.startswith(f"| {calibration_cost.TOOLS[tool]} |")]
    seconds, over_plain, memory_mb = (float(cell) for cell in row.strip("|").split("|")[1:])
    assert seconds >= 0
    assert over_plain > 0
    assert 30 < memory_mb < 20_000


def test_calibration_cost_measures_memory_by_the_number_of_images(cost):
    rows = table(cost)
    for count in ("1", "2"):
        assert float(rows["edgeq calibrate", count][1]) > 30


def test_conv_transpose(subject, tmp_path):
    rows = table(conv_transpose.run(subject, tmp_path, sampling=BRIEF))
    for runtime in RUNTIMES:
        (plain_ms, (phases_ms, ratio)) = next((key[1], row) for key, row in rows.items() if key[0] == runtime)
        assert min(float(plain_ms), float(phases_ms), float(ratio)) > 0


def test_jetson_simulated(subject, tmp_path):
    result = jetson_simulated.run([subject], tmp_path)
    lines = result.read_text().splitlines()
    rows = [[cell.strip() for cell in line[1:].split("|")] for line in lines if line.startswith(("| FP32", "| INT8"))]
    assert [row[0] for row in rows] == ["FP32", "INT8 x86", "INT8 x86", "INT8 jetson-orin"]
    assert [row[5] for row in rows] == ["measured", "measured", "measured", "simulated"]
    for row in rows:
        assert float(row[2]) == pytest.approx(float(rows[0][2]), abs=TOLERANCE)
    (said,) = [line for line in lines if line.startswith("On `jetson-orin` ")]
    assert int(said.split()[2]) > 20


def test_methods(subject, tmp_path):
    rows = table(methods.run([subject], tmp_path))
    assert {method for _, method in rows} == {"FP32", "method", *METHODS}
    reference = float(rows["Shapes", "FP32"][0].split()[0])
    for method in ("minmax", "lp"):
        for cell in rows["Shapes", method]:
            assert float(cell.split()[0]) == pytest.approx(reference, abs=TOLERANCE)


def test_calibration_pick(subject, tmp_path):
    result = calibration_pick.run(subject, tmp_path, sizes=(3,), draws=2)
    (row,) = [line for line in result.read_text().splitlines() if line.startswith("| 3 |")]
    for cell in (float(cell) for cell in row.strip("|").split("|")[1:]):
        assert abs(cell) < 100 * TOLERANCE


def test_command_line(tmp_path):
    rows = table(command_line.run(tmp_path, runs=1))
    names = [name for name, _ in rows]
    assert names == ["command", "python -c pass", "edgeq --help", "import edgeq"]
    assert all(float(median) > 0 for _, median in list(rows)[1:])


def test_before_and_after_of_one_checkout(small_onnx, tmp_path):
    # An ONNX file, so that no process imports torch.
    model = (str(small_onnx), "--preset", "centernet")
    here = before_and_after.HERE
    rows = table(before_and_after.run(here, tmp_path, model=model, rounds=1, images=2, bench_s=0.05))
    names = [name for name, _ in rows]
    assert names == ["command", "`edgeq calibrate`", "`edgeq bench`", "`edgeq --help`"]
    assert all(float(ratio) > 0 for _, ratio, _ in list(rows.values())[1:])


def test_exact_signal(tmp_path):
    for _ in range(2):  # the second time from what the first has kept
        rows = table(exact_signal.run(["shapes"], tmp_path, images=4, work=tmp_path / "work"))
    ((ratio, equalized),) = [(least, row[0]) for (title, least), row in rows.items() if title.startswith("shapes")]
    assert float(ratio) > 20 and float(equalized) > 20
