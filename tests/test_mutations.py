"""What is read from outside is used or refused in one line that names the file, however it was changed.

`EDGEQ_MUTATIONS=5000` makes that many changes of each kind of file instead of some tens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeq.boundary import convert, parse_json
from edgeq.calibrators.ranges import Ranges
from edgeq.cli.check_console import describe_compilations
from edgeq.cli.console import print_report
from edgeq.cli.export_console import describe_layers
from edgeq.datasets import open_split
from edgeq.devices.config import read_devices
from edgeq.evaluation.prediction_codec import pack_prediction, unpack_prediction
from edgeq.exporting.artifact import parse_manifest
from edgeq.inputs.images import list_images
from edgeq.inputs.presets import load_preset, parse_labels
from edgeq.measurement.telemetry import Observations, Window
from edgeq.reporting.build import build_document
from edgeq.reporting.compiled import cells as compiled_cells
from edgeq.reporting.runs import read_runs
from edgeq.results.environment import parse_environment
from edgeq.runtimes.answers import Power, Sensed, Series, Turn
from edgeq.runtimes.latency import summarize
from edgeq.runtimes.runner import make_inputs
from edgeq.tasks.classification.truth import class_indices
from edgeq.tasks.detection.categories import category_ids
from edgeq.tasks.detection.coco import load_ground_truth
from edgeq.tasks.detection.ground_truth import ground_truth_of
from edgeq.tasks.detection.task import DetectionTask
from edgeq.tasks.labelled_images import load_labelled_images
from edgeq.verbs.gate import Limits, check_limits
from tests.mutated_kinds import KINDS, put
from tests.mutations import mutate_json, mutate_toml, surprise
from tests.reporting.made import BUILT, make_check, make_detections, make_ground_truth, make_score, make_timing

COUNT = int(os.environ.get("EDGEQ_MUTATIONS", "30"))
SEED = 13
V1 = Path(__file__).parent / "data" / "results_v1"

COCO = {
    "images": [{"id": number, "file_name": f"{number}.png", "width": 64, "height": 48} for number in (3, 5)],
    "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
    "annotations": [{"image_id": 3, "category_id": 7, "bbox": [1, 2, 3.5, 4], "area": 14.0, "iscrowd": 0}],
}
PRESET = """labels = ["cat", "dog"]
[preprocessing]
height_px = 48
width_px = 64
resize = "letterbox"
channel_order = "rgb"
scale = 1.0
mean = [0, 0.5, 1]
std = [1.0, 2.0, 3.0]
fill = 114
antialias = true
crop_fraction = 0.875
[postprocessing]
decoder = "yolox"
outputs = {predictions = "output"}
options = {score_threshold = 0.001}
"""
DEVICES = """[pi]
host = "ssh://me@pi:2222"
threads = 4
cpus = [0, 1]
runtimes = ["litert"]
python = "python3.11"
env = "venv"
cache = "~/edgeq"
"""


LABEL_STUDIO = [
    {
        "data": {"image": "/data/upload/1/0a1b2c3d-3.png"},
        "annotations": [
            {
                "was_cancelled": False,
                "result": [
                    {
                        "type": "rectanglelabels",
                        "original_width": 20,
                        "original_height": 10,
                        "value": {"x": 1, "y": 2, "width": 50, "height": 9, "rotation": 3, "rectanglelabels": ["cat"]},
                    },
                    {
                        "type": "polygonlabels",
                        "original_width": 20,
                        "original_height": 10,
                        "value": {"points": [[1, 2], [30, 40], [50, 6]], "polygonlabels": ["dog"]},
                    },
                    {"type": "choices", "value": {"choices": ["sharp"]}},
                ],
            }
        ],
    }
]


def read_manifest(path: Path) -> None:
    artifact = parse_manifest(path, parse_json(path.read_bytes(), dict[str, Any], source=path, kind="a manifest"))
    describe_layers(artifact.quantization_facts)
    if sum((length or 1) > 2**20 for spec in artifact.inputs for length in spec.shape) == 0:
        make_inputs(artifact)


def read_result_files(path: Path) -> None:
    runs = read_runs([path])
    print_report(runs.rows)
    document = build_document(runs, examples=2)
    list(map(compiled_cells, document.compiled))
    describe_compilations((each.name, each.compiled) for each in runs.compiled)
    if any(not row.is_float for row in runs.rows):
        check_limits(runs.rows, Limits(max_drop=1, per_class=1, small=1, latency_ratio=2))


def read_ranges(path: Path) -> None:
    ranges = Ranges.load(path)
    ranges.with_method("minmax")
    assert ranges.digest


def read_coco(path: Path) -> None:
    truth = load_ground_truth(path)
    category_ids(truth, ("cat", "dog"))
    parse_labels(str(path))
    list_images(path, path.parent)


def read_data_set(path: Path) -> None:
    split = open_split(path, "evaluation")
    if split.box_count:
        category_ids(ground_truth_of(split), tuple(split.categories.values())[::-1])


def read_classes(path: Path) -> None:
    class_indices(load_labelled_images(path, path.parent), 3, ("cat", "dog", "cow"))


def read_prediction(path: Path) -> None:
    unpack_prediction(DetectionTask, parse_json(path.read_bytes(), dict[str, Any], source=path, kind="a prediction"))


def read_environment(path: Path) -> None:
    found = parse_json(path.read_bytes(), dict[str, Any], source=path, kind="an environment")
    parse_environment(found, source=path)


def read_turn(path: Path) -> None:
    found = parse_json(path.read_bytes(), dict[str, Any], source=path, kind="an answer")
    summarize(convert(found, Turn, source=path, kind="an answer", place="answer").samples_ns)


def read_series(path: Path) -> None:
    found = parse_json(path.read_bytes(), dict[str, Any], source=path, kind="an answer")
    series = convert(found, Series, source=path, kind="an answer", place="answer")
    power = Power("rails", "INA3221", 2.0)
    observed = Observations(power=power, series=series, before=Sensed({"cpu_clock": found.get("cpu_clock")}))
    observed.energy([Window(0, 10**10, None)], images=3)
    observed.governors()
    assert observed.sensors() is None or observed.troubles(gpu=True) is not None


def recorded(name: str) -> Any:
    return json.loads((V1 / name).read_text())


def made_results() -> list[dict[str, Any]]:
    truth = make_ground_truth(4)
    scores = [make_score(truth, make_detections(truth, seed, 3.0), name) for seed, name in enumerate(("fp32", "int8"))]
    return [*scores, make_timing("fp32", 8.0), make_timing("int8", 4.0)]


def a_prediction() -> dict[str, Any]:
    truth = make_ground_truth(1)
    return pack_prediction(DetectionTask, next(iter(make_detections(truth, 0, 1.0).values())))


TURN = {
    "ok": True,
    "samples_ns": [3, 4, 5],
    "window_ns": [1, 20],
    "clock_mhz": [2400.0, 2400.0],
    "energy_j": 0.5,
    "device_ns": {"compute": [1, 2, 3], "enqueue": [1, 1, 1]},
}
SERIES = {
    "entries": [{"t_s": 0.1, "cpu_clock": {"policy0": 2400}}],
    "power": [[number, number + 1, 5.0] for number in range(12)],
    "cpu_share": 0.01,
    "troubles": ["too hot"],
    "gpu_troubles": [],
    "cpu_clock": {"policy0": {"mhz": 2400, "governor": "ondemand"}},
}

# Kind of file -> its name, its content, and all that is done with it.
JSON_KINDS: dict[str, tuple[str, Callable[[], Any], Callable[[Path], object]]] = {
    "manifest": ("net.onnx.json", lambda: recorded("manifest_jetson.json"), read_manifest),
    "bench": ("bench.json", lambda: recorded("bench.json"), read_result_files),
    "scores and times": ("results.json", made_results, read_result_files),
    "classification": ("eval.json", lambda: recorded("eval_classification.json"), read_result_files),
    "embedding": ("eval.json", lambda: recorded("eval_embedding.json"), read_result_files),
    "compiled": ("check.json", lambda: make_check("net.x86.int8.onnx", BUILT), read_result_files),
    "ranges": ("net.ranges.json", lambda: recorded("ranges.json"), read_ranges),
    "COCO": ("instances.json", lambda: COCO, read_coco),
    "COCO data": ("instances.json", lambda: COCO, read_data_set),
    "Label Studio": ("project.json", lambda: LABEL_STUDIO, read_data_set),
    "classes": ("labels.json", lambda: {"3.png": "cat", "5.png": 2}, read_classes),
    "prediction": ("prediction.json", a_prediction, read_prediction),
    "turn": ("turn.json", lambda: TURN, read_turn),
    "series": ("series.json", lambda: SERIES, read_series),
    "environment": ("environment.json", lambda: recorded("bench.json")[0]["environment"], read_environment),
}
TOML_KINDS: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "preset": ("mine.toml", PRESET, lambda path: load_preset(str(path), None)),
    "devices": ("devices.toml", DEVICES, read_devices),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    for name in ("3.png", "5.png"):
        (tmp_path / name).touch()
    return tmp_path


def surprises(path: Path, changes: Iterator[tuple[str, bytes]], read: Callable[[Path], object]) -> list[str]:
    """Returns what is surprising about reading changed files, with what was changed."""
    found = []
    for name, content in changes:
        path.write_bytes(content)
        if said := surprise(path, read):
            found.append(f"{name}: {said}")
    return found


@pytest.mark.parametrize("kind", JSON_KINDS)
def test_changed_json_is_used_or_refused_in_one_line(kind: str, folder: Path, capsys: Any) -> None:
    name, make, read = JSON_KINDS[kind]
    document = make()
    (folder / name).write_text(json.dumps(document))
    read(folder / name)  # as it is, it can be used
    assert surprises(folder / name, mutate_json(document, COUNT, SEED), read) == []


@pytest.mark.parametrize("kind", TOML_KINDS)
def test_changed_toml_is_used_or_refused_in_one_line(kind: str, folder: Path) -> None:
    name, text, read = TOML_KINDS[kind]
    (folder / name).write_text(text)
    read(folder / name)
    assert surprises(folder / name, mutate_toml(text, COUNT, SEED), read) == []


@pytest.mark.parametrize("name", KINDS)
def test_changed_files_are_used_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    path = put(kind, tmp_path / "set")
    kind.read(path)
    changes = kind.change(path.read_bytes(), max(8, COUNT // 4), SEED)
    assert surprises(path, changes, kind.read) == []
