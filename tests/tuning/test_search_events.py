"""What `edgeq tune` tells other programs while it searches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.exact import EXACT
from tests.tuning.nets import save_classifier

DROP = 5.0


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> tuple[Path, Path, Path, Path]:
    return save_classifier(tmp_path_factory.mktemp("net"))


def arguments(net: tuple[Path, Path, Path, Path], out: Path) -> list[Any]:
    file, preset, labels, calib = net
    return [
        "tune", file, "--data", labels, "--preset", preset, "--calib", calib, "--target", "arm", "--runtime", EXACT,
        "--threads", 1, "--out", out,
    ]  # fmt: skip


def test_events_follow_a_search_and_agree_with_its_result(net, tmp_path, edgeq, exact_runtime):
    json_file = tmp_path / "tuning.json"
    done = edgeq(*arguments(net, tmp_path), "--max-drop", DROP, "--json", json_file, "--progress", "json")
    assert done.code == 0, done
    events = [json.loads(line) for line in done.err.splitlines()]
    result = json.loads(json_file.read_text())
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        by_kind.setdefault(event["event"], []).append(event)
    (search,), (met,), (end,) = by_kind["search-started"], by_kind["budget-met"], by_kind["search-finished"]
    assert (search["score"], search["float_score"], search["images"]) == ("top1", 1.0, result["images"])
    assert search["budget"] == "max_drop 5"
    files = {each["plan"]: each for each in result["files"]}
    started = [each["trial"] for each in by_kind["trial-started"]]
    assert sorted(started) == sorted(plan for plan, each in files.items())
    for each in by_kind["trial-finished"]:
        file = files[each["trial"]]
        assert (each["name"], each["score"], each["dropped"]) == (file["name"], file["score"], file["dropped"])
        if file["loss"] is not None:
            assert {key: each[key] for key in ("points", "low", "high", "images")} == file["loss"]
        assert each["ratio"] == file["latency"]["ratio"]
    assert {each["trial"]: each["reason"] for each in by_kind["trial-dropped"]} == {
        plan: each["dropped"] for plan, each in files.items() if each["dropped"]
    }
    last: dict[str, Any] = {each["trial"]: each for each in by_kind["trial-scored"]}
    for plan, each in files.items():
        if each["loss"] is not None:
            assert {key: last[plan][key] for key in ("points", "low", "high", "images")} == each["loss"]
    stages = by_kind["stage-finished"]
    assert [each["stage"] for each in stages] == [1, 2, 3]
    assert stages[0]["left"] + stages[0]["dropped"] == len(files) - 1, "FP32 is what others are compared with"
    assert (met["name"], met["proved"]) == (result["recommended"], result["proved"])
    assert (end["digest"], Path(end["file"]).name) == (result["digest"], result["file"])
    order = [each["event"] for each in events]
    assert order[0] == "command-started"
    assert order[-1] == "command-ended"
    assert order.index("search-started") < order.index("trial-started") < order.index("trial-scored")
    assert order.index("trial-scored") < order.index("trial-finished") < order.index("budget-met")


def test_a_budget_that_nothing_keeps_ends_with_the_nearest(net, tmp_path, edgeq, exact_runtime):
    done = edgeq(*arguments(net, tmp_path), "--latency", "0.01x", "--progress", "json")
    last = json.loads(done.err.splitlines()[-1])
    assert (done.code, last["event"], last["exit_code"]) == (1, "command-ended", 1)
    assert "the nearest is" in last["error"]
    assert '"budget-met"' not in done.err


def test_sensitivity_tells_of_the_trials_that_it_scores(net, tmp_path, edgeq, exact_runtime):
    done = edgeq(*arguments(net, tmp_path), "--sensitivity", "--progress", "json")
    scored = [json.loads(line) for line in done.err.splitlines() if '"trial-scored"' in line]
    assert {each["name"] for each in scored} == {"fragile in INT8", "all in INT8 but fragile"}
    assert all(each["verdict"] == "matters" and each["images"] == 32 for each in scored)
