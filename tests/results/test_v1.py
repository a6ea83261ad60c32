"""Files that edgeq 0.1.0 wrote: still read, and written again with the same keys and values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import edgeq
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import InputError
from edgeq.exporting.artifact import parse_manifest
from edgeq.exporting.tensorrt.check import Checked
from edgeq.reporting.build import build_document
from edgeq.reporting.runs import read_runs
from edgeq.results.reading import parse_results, read_results
from edgeq.results.rows import merge, provenance
from edgeq.results.serialization import to_json
from edgeq.tasks import score_types
from edgeq.verbs.check import CheckResult
from edgeq.verbs.gate import Limits, check_limits

V1 = Path(__file__).parents[1] / "data" / "results_v1"
NEW = {"results_version"}
"""Keys that were added since."""


def recorded(name: str) -> Any:
    return json.loads((V1 / name).read_text())


def without_new(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in NEW}


def as_stated(found: Any, stated: Any) -> Any:
    """Returns what was found without the keys that were added since, at any depth."""
    if isinstance(found, dict) and isinstance(stated, dict):
        return {key: as_stated(value, stated[key]) for key, value in found.items() if key in stated}
    if isinstance(found, list) and isinstance(stated, list) and len(found) == len(stated):
        return [as_stated(each, other) for each, other in zip(found, stated, strict=True)]
    return found


@pytest.mark.parametrize("name", ["bench.json", "eval.json", "eval_classification.json", "eval_embedding.json"])
def test_results_are_written_as_they_were_read(name: str) -> None:
    document = recorded(name)
    written = to_json(read_results([V1 / name], score_types()))
    # As text: the order of the keys is kept, too.
    expected = document if isinstance(document, list) else [document]
    assert json.dumps([without_new(each) for each in written]) == json.dumps(expected)
    assert [each["results_version"] for each in written] == [1] * len(expected)


def test_a_gate_of_recorded_results_says_the_same() -> None:
    rows = read_runs([V1 / "bench.json", V1 / "eval.json"]).rows
    gate = check_limits(rows, Limits(max_drop=5.0, latency_ratio=3.0))
    assert json.dumps(without_new(gate.to_json())) == json.dumps(recorded("gate.json"))


def test_a_report_of_recorded_results_says_the_same() -> None:
    document = build_document(read_runs([V1 / "bench.json", V1 / "eval.json"]), examples=6)
    stated = recorded("report.json")
    found = as_stated(json.loads(json.dumps(document.to_json())), stated)
    # How a sentence is worded may change; what is said of a run may not get lost.
    assert len(found.pop("sentences")) == len(stated.pop("sentences"))
    assert (found.pop("version"), stated.pop("version")) == (edgeq.__version__, "0.1.0")
    assert found == stated


def test_a_check_is_written_as_it_was() -> None:
    document = recorded("check.json")
    checked = Checked((), tuple(document["int8_layers"]), tuple(document["float_layers"]))
    result = CheckResult(Path("out") / document["file"], "", document["target"], document["tensorrt"], checked)
    assert json.dumps(as_stated(result.to_json(), document)) == json.dumps(document)


def test_a_report_of_recorded_embeddings_compares_them() -> None:
    """0.1.0 ended in a TypeError here, because embeddings have no classes."""
    document = build_document(read_runs([V1 / "eval_embedding.json"]), examples=6)
    (loss,) = document.losses
    assert loss.classes == ()
    assert loss.areas[0].points == pytest.approx(100 * (1 - recorded("eval_embedding.json")[1]["cosine"]))


@pytest.mark.parametrize("name", ["manifest.json", "manifest_jetson.json"])
def test_manifests_are_written_as_they_were_read(name: str) -> None:
    document = recorded(name)
    artifact = parse_manifest(V1 / f"{document['path']}.json", document)
    assert json.dumps(artifact.to_json()) == json.dumps(document)


def test_what_a_manifest_says_of_quantization_is_typed() -> None:
    document = recorded("manifest_jetson.json")
    facts = parse_manifest(V1 / "net.json", document).quantization_facts
    assert facts.int8_nodes == document["quantization"]["int8_nodes"]
    assert facts.float_nodes == document["quantization"]["float_nodes"]
    assert facts.calibration_cache is not None
    assert facts.calibration_cache.float_file == "centernet_shapes.jetson-orin.fp32.onnx"


def test_entries_of_later_versions_stay_in_a_manifest() -> None:
    document = recorded("manifest.json")
    document["quantization"]["novelty"] = {"worst_db": 31.5}
    artifact = parse_manifest(V1 / "net.json", document)
    assert artifact.to_json()["quantization"] == document["quantization"]


def test_ranges_are_written_as_they_were_read(tmp_path: Path) -> None:
    Ranges.load(V1 / "ranges.json").save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (V1 / "ranges.json").read_bytes()


def test_results_of_a_later_version_are_refused() -> None:
    document = recorded("bench.json")[0] | {"results_version": 2}
    with pytest.raises(InputError, match=r"r\.json: holds results of version 2, this edgeq reads 1; update edgeq"):
        parse_results(document, "r.json", score_types())


def test_keys_of_later_versions_are_ignored() -> None:
    document = recorded("eval.json")
    for each in document:
        each["novelty"] = {"deep": [1]}
    assert parse_results(document, "r.json", score_types()) == read_results([V1 / "eval.json"], score_types())


def test_what_only_one_engine_tells_of_itself_is_kept() -> None:
    document = recorded("bench.json")[0]
    document["environment"] |= {"gpu": "Orin", "cuda_graph": True, "further": [1]}
    (result,) = parse_results(document, "r.json", score_types())
    assert result.environment.further == {"gpu": "Orin", "cuda_graph": True, "further": [1]}
    assert to_json(result)["environment"] == document["environment"]


def test_one_object_may_hold_scores_and_times() -> None:
    document = recorded("eval.json")[0] | recorded("bench.json")[0]
    (row,) = merge(parse_results(document, "r.json", score_types()))
    assert row.scores is not None and row.timing is not None
    assert len(provenance([row])) >= 2
