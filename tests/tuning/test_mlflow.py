"""`edgeq tune --mlflow`: what MLflow holds of a search, read back through its client from a real store of files."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeq.tuning.mlflow_log import MlflowLog
from tests.tuning.nets import save_classifier
from tests.tuning.test_search_events import DROP, arguments

needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="MLflow is not installed: pip install 'edgeq[mlflow]'"
)


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> tuple[Path, Path, Path, Path]:
    return save_classifier(tmp_path_factory.mktemp("net"))


@pytest.fixture
def address(tmp_path, monkeypatch) -> str:
    """A store of files, which MLflow opens only for those who say so."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return str(tmp_path / "runs")


def runs_of(address: str, experiment: str = "edgeq") -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=address)
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


@needs_mlflow
def test_mlflow_holds_the_search_and_each_trial_below_it(net, tmp_path, edgeq, exact_runtime, address):
    from mlflow import MlflowClient

    json_file = tmp_path / "tuning.json"
    done = edgeq(*arguments(net, tmp_path / "out"), "--max-drop", DROP, "--json", json_file, "--mlflow", address)
    assert done.code == 0, done
    result = json.loads(json_file.read_text())
    runs = runs_of(address)
    assert {run.info.status for run in runs} == {"FINISHED"}
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    trials = {run.data.params["trial"]: run for run in runs if run is not parent}
    assert {run.data.tags["mlflow.parentRunId"] for run in trials.values()} == {parent.info.run_id}
    assert parent.info.run_name == parent.data.params["model"] == "net"
    assert parent.data.metrics == {"float_score": 1.0}
    assert parent.data.tags["recommended"] == result["recommended"]
    assert sorted(trials) == sorted(each["plan"] for each in result["files"])
    for each in result["files"]:
        found = trials[each["plan"]]
        assert found.info.run_name == each["name"]
        assert found.data.params["int8_layers"] == str(each["int8_layers"])
        assert found.data.metrics["score"] == each["score"]
        assert found.data.metrics["size_bytes"] == each["size_bytes"]
        assert found.data.metrics["time_over_fp32"] == each["latency"]["ratio"]
        assert ("dropped" in found.data.tags) == bool(each["dropped"])
        if each["loss"] is not None:
            assert found.data.metrics["points"] == each["loss"]["points"]
            assert found.data.metrics["points_high"] == each["loss"]["high"]
    client = MlflowClient(tracking_uri=address)
    whole = next(each for each in result["files"] if each["name"] == "default")
    steps = client.get_metric_history(trials[whole["plan"]].info.run_id, "points")
    assert sorted({each.step for each in steps}) == [32, 64, 70], "a point per stage, by the images scored"
    folder = Path(client.download_artifacts(parent.info.run_id, "."))
    assert {each.name for each in folder.iterdir()} == {"tuning.json", "tuning.svg"}
    logged = json.loads((folder / "tuning.json").read_text())
    assert logged == {key: value for key, value in result.items() if key != "command"}


@needs_mlflow
def test_a_search_that_fails_or_is_cut_leaves_no_run_open(net, tmp_path, edgeq, exact_runtime, address, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cameras")
    too_fast = [*arguments(net, tmp_path / "out"), "--latency", "0.01x", "--mlflow", address]
    assert "the nearest is" in edgeq(*too_fast).error
    assert [run.info.status for run in runs_of(address, "cameras") if "mlflow.parentRunId" not in run.data.tags] == [
        "FAILED"
    ]

    def cut(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeq.tuning.search.halve", cut)
    assert edgeq(*too_fast).code == 130
    runs = runs_of(address, "cameras")
    assert sorted({run.info.status for run in runs}) == ["FAILED", "FINISHED", "KILLED"]


@needs_mlflow
def test_a_server_that_vanishes_ends_the_log_and_not_the_search(
    net, tmp_path, edgeq, exact_runtime, address, monkeypatch
):
    def gone(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host. Try again\nsoon")

    monkeypatch.setattr(MlflowLog, "_begin", gone)
    done = edgeq(*arguments(net, tmp_path / "out"), "--max-drop", DROP, "--mlflow", address)
    assert done.code == 0
    warned = [line for line in done.err.splitlines() if "MLflow" in line]
    assert warned == ["warning: MLflow: no route to host; the search continues without it"]


@needs_mlflow
@pytest.mark.parametrize("wrong", ["http://127.0.0.1:9", "nonsense://host"])
def test_an_address_where_nothing_answers_is_refused_before_the_work(net, tmp_path, edgeq, wrong, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    refused = edgeq(*arguments(net, tmp_path / "out"), "--mlflow", wrong).error
    assert refused.startswith(f"--mlflow {wrong}: ")
    assert refused.endswith("sqlite:///mlflow.db, or env for MLFLOW_TRACKING_URI")
    assert not list((tmp_path / "out").glob("*.sqlite"))


def test_without_mlflow_the_extra_is_named(net, tmp_path, edgeq, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    refused = edgeq(*arguments(net, tmp_path / "out"), "--mlflow", "runs").error
    assert refused.endswith("needs the package mlflow, which is not installed; run: pip install 'edgeq[mlflow]'")


def test_a_sensitivity_is_not_logged(net, tmp_path, edgeq):
    refused = edgeq(*arguments(net, tmp_path / "out"), "--sensitivity", "--mlflow", "runs")
    assert refused.code == 2
    assert "is for a search" in refused.err
