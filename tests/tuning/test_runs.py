"""`edgeq runs`: what it prints of a store, and what it exports."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from edgeq.tuning.store import Store, Timing, TrialKey

TIMING = Timing(2.5, 0.5, 0.48, 0.54, 100, "OpenVINO", "EPYC")
TRIALS = 60


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    found: Path = tmp_path_factory.mktemp("runs") / "trials.sqlite"
    with Store(found) as store:
        for index in range(TRIALS):
            facts = {"model": "vit" if index % 2 else "net", "plan": f"all, but {index}"}
            trial = store.trial(TrialKey("m", str(index), "d", "e", "c"), facts)
            store.add_measures(trial, {"top1": 1 - index / 100} if index else {"snr_db": 40.0})
            store.add_predictions(trial, {f"image {image}": bytes([image % (index + 1)]) for image in range(5)})
        store.add_timing(TRIALS, TIMING)
    return found


def words(text: str) -> str:
    """Returns what a frame holds as one line."""
    return " ".join(text.replace("│", " ").split())


def test_the_newest_trials_are_listed_and_how_many_there_are(path, edgeq):
    lines = edgeq("runs", path).out.splitlines()
    assert len(lines) == 1 + 50 + 1
    assert (lines[1].split()[0], lines[-2].split()[0]) == ("11", "60")
    assert lines[-2].endswith("top1 0.41, ms 2.5, time by float's 0.5")
    assert lines[-1] == "50 of 60 trials; see --model, --plan, --sort and --limit"


def test_trials_are_filtered_and_sorted(path, edgeq):
    lines = edgeq("runs", path, "--model", "VIT", "--sort", "top1:desc", "--limit", 2).out.splitlines()
    assert [line.split()[0] for line in lines] == ["trial", "2", "4", "2"]
    assert [line.split()[0] for line in edgeq("runs", path, "--sort", "ms").out.splitlines()] == ["trial", "60", "1"]
    refused = edgeq("runs", path, "--sort", "mAP")
    assert (refused.code, "known: ms, snr_db, top1" in words(refused.err)) == (2, True)


def test_two_trials_are_compared(path, edgeq):
    done = edgeq("runs", path, "--compare", 2, 3)
    assert done.out.splitlines()[1].split() == ["top1", "0.99", "0.98", "-0.01"]
    assert done.out.splitlines()[-1] == "predictions of both: 5 images, the same on 2"
    refused = edgeq("runs", path, "--compare", 2, 99)
    assert (refused.code, "trial 99 is missing; the store's newest is 60" in words(refused.err)) == (2, True)


def test_csv_has_all_trials_and_a_column_for_each_fact_and_measure(path, edgeq, tmp_path):
    edgeq("runs", path, "--csv", tmp_path / "all.csv")
    with (tmp_path / "all.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["number"] for row in rows] == [str(index + 1) for index in range(TRIALS)]
    assert [(row["plan"], row["top1"], row["snr_db"]) for row in rows[:2]] == [
        ("all, but 0", "", "40.0"), ("all, but 1", "0.99", "")
    ]  # fmt: skip
    assert (rows[0]["timing_median_ms"], rows[-1]["timing_median_ms"], rows[-1]["timing_engine"]) == (
        "", "2.5", "OpenVINO"
    )  # fmt: skip
    assert rows[7]["plan_digest"] == "7"


def test_parquet_has_the_same_with_types(path, edgeq, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    done = edgeq("runs", path, "--plan", "all", "--parquet", tmp_path / "all.parquet", "--csv", tmp_path / "all.csv")
    assert done.out.splitlines()[-1] == str(tmp_path / "all.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "all.parquet")
    with (tmp_path / "all.csv").open() as stream:
        assert table.column_names == next(csv.reader(stream))
    first, last = table.slice(0, 1).to_pylist()[0], table.slice(TRIALS - 1).to_pylist()[0]
    assert (first["number"], first["top1"], first["snr_db"], first["timing_runs"]) == (1, None, 40.0, None)
    assert (last["images"], last["timing_runs"], last["timing_machine"]) == (5, 100, "EPYC")


def test_parquet_without_pyarrow_is_one_line_that_says_what_to_install(path, edgeq, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = edgeq("runs", path, "--parquet", tmp_path / "all.parquet")
    assert (done.code, "pip install 'edgeq[parquet]'" in done.err) == (1, True)
    assert not (tmp_path / "all.parquet").exists()
