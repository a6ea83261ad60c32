"""The store of trials: what goes in comes out, from many processes and after kills, and trials are found."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.tuning.store import Selection, Store, Timing, TrialKey

KEY = TrialKey("m", "p", "d", "e", "c")
TIMING = Timing(2.5, 0.5, 0.48, 0.54, 100, "OpenVINO 2026.4, 1 threads", "EPYC")
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def key(plan: str) -> TrialKey:
    return TrialKey("m", plan, "d", "e", "c")


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(st.text(max_size=8), NUMBERS, max_size=5),
    st.dictionaries(st.text(max_size=8) | st.binary(min_size=32, max_size=32).map(bytes.hex), st.binary(max_size=9)),
)
def test_what_goes_in_comes_out_after_opening_again(tmp_path_factory, measures, predictions):
    path = tmp_path_factory.mktemp("store") / "s.sqlite"
    with Store(path) as store:
        trial = store.trial(KEY, {"model": "net"})
        store.add_measures(trial, measures)
        store.add_predictions(trial, predictions)
    with Store(path, create=False) as store:
        assert store.trial(KEY, {}) == trial
        assert store.measures(trial) == measures
        assert store.predictions(trial, [*predictions, "another"]) == predictions
        (row,) = store.rows()
    assert (row.key, row.facts, row.images, row.measures) == (KEY, {"model": "net"}, len(predictions), measures)


@pytest.mark.parametrize("changed", range(5))
def test_a_trial_is_another_one_if_anything_that_it_depends_on_is(tmp_path, changed):
    parts = ["m", "p", "d", "e", "c"]
    parts[changed] = "x"
    with Store(tmp_path / "s.sqlite") as store:
        assert store.trial(KEY, {}) != store.trial(TrialKey(*parts), {})


def test_a_thousand_images_are_asked_for_at_once_and_the_first_prediction_counts(tmp_path):
    names = [f"image {number}" for number in range(1203)]
    with Store(tmp_path / "s.sqlite") as store:
        one, other = store.trial(key("one"), {}), store.trial(key("other"), {})
        store.add_predictions(one, dict.fromkeys(names, b"1"))
        store.add_predictions(one, dict.fromkeys(names, b"2"))
        store.add_predictions(other, {name: b"12"[: 1 + (number % 3 == 0)] for number, name in enumerate(names[:900])})
        assert store.predictions(one, names) == dict.fromkeys(names, b"1")
        assert [row.images for row in store.rows()] == [1203, 900]
        assert store.agreement(one, other) == store.agreement(other, one) == (900, 600)


def test_the_newest_timing_counts_and_each_machine_has_its_own(tmp_path):
    fast, elsewhere = replace(TIMING, median_ms=2.0, ratio=None), replace(TIMING, median_ms=9.0, machine="Orin")
    path = tmp_path / "s.sqlite"
    with Store(path) as store:
        trial, other = store.trial(key("a"), {}), store.trial(key("b"), {})
        for timing in (TIMING, fast, elsewhere):
            store.add_timing(trial, timing)
    with Store(path) as store:
        assert (store.timing(trial), store.timing(trial, "EPYC"), store.timing(trial, "Pi")) == (elsewhere, fast, None)
        assert store.timing(other) is None
        assert [row.timing for row in store.rows()] == [elsewhere, None]


def test_trials_are_selected_by_model_plan_and_measure(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        for number, (model, loss) in enumerate([("ResNet", 0.3), ("vit", 0.1), ("ResNet", 0.2), ("resnet", None)]):
            trial = store.trial(key(str(number)), {"model": model, "plan": f"all but {'ab'[number % 2]}"})
            store.add_measures(trial, {} if loss is None else {"loss": loss})
            store.add_timing(trial, replace(TIMING, median_ms=9.0))
            store.add_timing(trial, replace(TIMING, median_ms=float(number % 3)))

        def chosen(**wanted):
            return [row.number for row in store.rows(Selection(**wanted))]

        assert chosen() == [1, 2, 3, 4]
        assert chosen(limit=2) == [3, 4], "the newest"
        assert chosen(model="resnet") == [1, 3, 4]
        assert chosen(model="RES", plan="BUT B") == [4]
        assert chosen(sort="loss") == [2, 3, 1]
        assert chosen(sort="loss", descending=True, limit=1, model="resnet") == [1]
        assert chosen(sort="ms") == [1, 4, 2, 3], "of the newest timing"
        assert (chosen(sort="another"), store.count(), list(store.find([2, 9]))) == ([], 4, [2])


def write(path: Path, number: int, trials: int, images: int) -> None:
    """Writes trials of which every second one is those of the other writers, too."""
    with Store(path) as store:
        for index in range(trials):
            trial = store.trial(key(f"shared {index}" if index % 2 else f"{number} {index}"), {"writer": str(number)})
            store.add_predictions(trial, {f"image {image}": bytes([index, image]) for image in range(images)})


def started(target, *arguments) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


def test_writers_at_the_same_time_lose_nothing_and_write_nothing_twice(tmp_path):
    path, writers, trials, images = tmp_path / "s.sqlite", 4, 10, 20
    processes = [started(write, path, number, trials, images) for number in range(writers)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * writers
    with Store(path) as store:
        rows = store.rows()
        assert len(rows) == writers * trials // 2 + trials // 2
        assert {row.images for row in rows} == {images}
        shared = next(row for row in rows if row.key.plan == "shared 1")
        assert store.predictions(shared.number, ["image 3"]) == {"image 3": bytes([1, 3])}


def write_for_ever(path: Path, wrote: int) -> None:
    with Store(path) as store:
        for index in range(100_000):
            trial = store.trial(key(str(index)), {})
            store.add_predictions(trial, {f"image {image}": b"%d" % index for image in range(50)})
            os.write(wrote, b".")


def test_kills_at_any_moment_leave_every_finished_transaction_and_no_part_of_one(tmp_path):
    path = tmp_path / "s.sqlite"
    rng = np.random.default_rng(0)
    finished = 0
    for _ in range(5):
        read_end, write_end = os.pipe()
        process = started(write_for_ever, path, write_end)
        os.close(write_end)
        wanted = finished + int(rng.integers(1, 6))
        seen = 0
        while seen < wanted:
            seen += len(os.read(read_end, 1))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        while chunk := os.read(read_end, 4096):
            seen += len(chunk)
        os.close(read_end)
        with Store(path) as store:
            counts = [row.images for row in store.rows()]
        # The trial in flight may be entered without its predictions, which are all there or none of them.
        assert set(counts) <= {0, 50}
        assert counts.count(50) >= seen
        finished = counts.count(50)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
