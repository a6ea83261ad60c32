"""`edgeq demo`: the whole story, with a small detector in the place of the shipped one."""

from __future__ import annotations

import json

import pytest

from benchmarks import demo
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.results.reading import read_results
from edgeq.runtimes import child, is_installed
from edgeq.tasks import score_types
from edgeq.tasks.detection.shapes import CATEGORIES
from edgeq.verbs.demo import TARGETS, run_demo
from tests.exact import KERNELS_ARE_EXACT


@pytest.fixture(scope="module")
def told(tmp_path_factory, small_weights, warm_python):
    """Runs the demo once: the folder, the rows and the lines it said."""
    from edgeq.models import zoo
    from tests.small import save_small_centernet

    folder = tmp_path_factory.mktemp("demo")
    metadata = {"labels": ",".join(CATEGORIES), "input_size": "64x96"}
    weights = save_small_centernet(folder / "weights.safetensors", 0, metadata)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "shipped_weights", lambda _: weights)
        patch.setattr(child, "subprocess", warm_python)  # what a process costs is not looked at
        rows = run_demo(folder / "demo", images=8, seconds=0.02, threads=1, say=said.append)
    return folder / "demo", rows, said


def test_each_engine_runs_and_scores_the_files_that_were_planned_for_it(told):
    _, rows, said = told
    targets = {name: target for name, target in TARGETS.items() if is_installed(name)}
    files = [
        (f"centernet_shapes.{target}.{precision}.onnx", runtime)
        for runtime, target in targets.items()
        for precision in ("fp32", "fp16", "int8")
    ]
    assert [(row.artifact, row.runtime) for row in rows] == files, "scores and times of an artifact share a row"
    for row in rows:
        assert row.scores.images == 8
        assert row.p50_ms > 0
        assert row.timing.ratio_to_fp32 > 0
    sizes = {row.artifact: row.timing.size_bytes for row in rows}
    for target in targets.values():
        fp32, int8 = (sizes[f"centernet_shapes.{target}.{precision}.onnx"] for precision in ("fp32", "int8"))
        # Without VNNI ONNX Runtime's file has its small layers in float.
        assert int8 < (0.3 if KERNELS_ARE_EXACT or target == "x86" else 0.5) * fp32
    assert [line[:4] for line in said] == ["1/4 ", "2/4 ", "3/4 ", "4/4 "]


def test_it_leaves_files_that_the_other_commands_read(told):
    folder, rows, _ = told
    assert sorted(path.name for path in folder.iterdir()) == [
        "artifacts", "bench.json", "calibration", "eval.json", "report.md", "validation",
    ]  # fmt: skip
    assert len(read_results([folder / "bench.json", folder / "eval.json"], score_types())) == 2 * len(rows)
    for row in rows:
        artifact = Artifact.load(folder / "artifacts" / row.artifact)
        assert artifact.digest == row.digest
        assert artifact.labels == CATEGORIES
    table = [line for line in (folder / "report.md").read_text().splitlines() if line.startswith("| centernet")]
    assert len(table) == len(rows)
    assert all(cell.strip() != "-" for line in table for cell in line.split("|"))


def test_calibration_and_validation_share_no_image(told):
    folder, *_ = told
    calibration, validation = (
        {path.read_bytes() for path in (folder / name).glob("*.png")} for name in ("calibration", "validation")
    )
    assert (len(calibration), len(validation)) == (64, 8)
    assert not calibration & validation
    document = json.loads((folder / "validation" / "annotations.json").read_text())
    assert [category["name"] for category in document["categories"]] == list(CATEGORIES)


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"calibration: holds something else .*; remove it or name another folder"):
        run_demo(tmp_path, images=8, say=lambda _: None)
    assert [path.name for path in tmp_path.rglob("*")] == ["calibration", "mine.txt"]


def test_the_benchmark_of_the_demo_keeps_its_table(told, tmp_path):
    folder, rows, _ = told
    result = demo.run(rows, tmp_path)
    assert result.name == "demo.md"
    assert result.read_text() == "# make demo\n\n" + (folder / "report.md").read_text()
