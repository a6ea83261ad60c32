"""Files of stores: older ones are converted, damaged and foreign ones are refused, and a full disk loses nothing."""

from __future__ import annotations

import json
import re
import resource
import shlex
import signal
import sqlite3
from contextlib import closing
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from edgeq.errors import InputError
from edgeq.packing import arrays_from_bytes, pack_array
from edgeq.tuning.store import Store, Timing, TrialKey
from edgeq.tuning.store_salvage import salvage

TIMING = Timing(2.5, 2.4, 2.7, None, 100, "OpenVINO", "EPYC")
TRIALS, IMAGES = 12, 30
V1 = """
CREATE TABLE trials (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, model TEXT NOT NULL, plan TEXT NOT NULL, data TEXT NOT NULL,
    engine TEXT NOT NULL, machine TEXT NOT NULL, facts TEXT NOT NULL, made_s REAL NOT NULL
);
CREATE TABLE predictions (
    trial INTEGER NOT NULL REFERENCES trials, image TEXT NOT NULL, prediction BLOB NOT NULL, PRIMARY KEY (trial, image)
) WITHOUT ROWID;
CREATE TABLE measures (
    trial INTEGER NOT NULL REFERENCES trials, name TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (trial, name)
) WITHOUT ROWID;
PRAGMA application_id = 1701078885;
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""


def key(index: int) -> TrialKey:
    return TrialKey("ab" * 32, f"{index:064x}", "d", "e", "c")


def content(trial: int, image: int) -> bytes:
    return bytes([trial, image]) * 60


def filled(path: Path) -> Path:
    with Store(path) as store:
        for index in range(TRIALS):
            trial = store.trial(key(index), {"model": "net" * 50, "plan": f"plan {index}"})
            store.add_predictions(trial, {f"{image:064x}": content(index, image) for image in range(IMAGES)})
            store.add_measures(trial, {"top1": index / 100, "snr_db": 40.0})
            store.add_timing(trial, TIMING)
    return path


def read(path: Path) -> dict[int, tuple[int, dict[str, float], Timing | None]]:
    """Returns plan -> what a store says of it, and checks that nothing of that is wrong, however much is missing."""
    found = {}
    with Store(path, create=False) as store:
        store.rows()
        for index in range(TRIALS):
            trial = store.trial(key(index), {})
            kept = store.predictions(trial, [f"{image:064x}" for image in range(IMAGES)])
            measures, timing = store.measures(trial), store.timing(trial)
            assert all(each == content(index, int(image, 16)) for image, each in kept.items())
            assert measures.items() <= {"top1": index / 100, "snr_db": 40.0}.items()
            assert timing in {None, TIMING}
            found[index] = len(kept), measures, timing
    return found


def write_v1(path: Path) -> dict[str, np.ndarray]:
    """Writes a store as version 1 had it, and returns one of its predictions."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "boxes": rng.normal(size=(3, 4)),
        "classes": np.arange(3),
        "scores": np.ones(3, np.float32),
    }
    text = json.dumps({name: pack_array(array, 1) for name, array in arrays.items()}).encode()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(V1)
        for number in (1, 2):
            facts = json.dumps({"model": "net", "plan": f"plan {number}"})
            row = (number, key(number).digest, *astuple(key(number)), facts, 7.0)
            connection.execute("INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            connection.execute("INSERT INTO measures VALUES (?, 'top1', ?)", (number, number / 4))
            images = ["0" * 64, "unreadable 7"][:number]
            connection.executemany(
                "INSERT INTO predictions VALUES (?, ?, ?)", [(number, each, text) for each in images]
            )
        connection.execute("INSERT INTO predictions VALUES (2, 'cut', '{')")
        connection.commit()
    return arrays


def test_a_store_of_version_1_is_converted_with_all_that_it_holds(tmp_path, caplog):
    path = tmp_path / "s.sqlite"
    arrays = write_v1(path)
    with Store(path) as store:
        one, two = store.rows()
        kept = store.predictions(2, ["0" * 64, "unreadable 7", "cut"])
        assert store.trial(key(1), {}) == 1
    assert (one.key, one.facts, one.images, one.measures, one.made_s) == (
        key(1), {"model": "net", "plan": "plan 1"}, 1, {"top1": 0.25}, 7.0
    )  # fmt: skip
    assert (two.images, two.measures, sorted(kept)) == (2, {"top1": 0.5}, ["0" * 64, "unreadable 7"])
    for packed in kept.values():
        found = arrays_from_bytes(packed, 1 << 20)
        assert all(found[name].dtype == array.dtype for name, array in arrays.items())
        assert all((found[name] == array).all() for name, array in arrays.items())
    assert "is converted from version 1" in caplog.text
    caplog.clear()
    Store(path).close()
    assert not caplog.text


def limit_file_size(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def full_disk():
    """Sets the size from which this process cannot make a file longer, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield limit_file_size
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_one_clear_line_and_leaves_the_store_as_it_was(tmp_path, full_disk):
    path = filled(tmp_path / "s.sqlite")
    before = read(path)
    size = path.stat().st_size
    with Store(path) as store:
        full_disk(size)
        with pytest.raises(InputError, match="free space"):
            store.add_predictions(1, {f"new {image}": bytes(range(256)) * 20 for image in range(200)})
        assert store.predictions(1, ["new 0"]) == {}
        full_disk(resource.RLIM_INFINITY)
        store.add_predictions(1, {"new 0": b"it fits now"})
        assert store.predictions(1, ["new 0"]) == {"new 0": b"it fits now"}
        assert store.rows()[0].images == IMAGES + 1
    assert read(path) == before


def test_a_store_that_cannot_be_converted_for_want_of_space_stays_as_it_is(tmp_path, full_disk):
    path = tmp_path / "s.sqlite"
    write_v1(path)
    with closing(sqlite3.connect(path)) as connection:
        before = list(connection.iterdump())
    full_disk(path.stat().st_size)
    with pytest.raises(InputError, match="free space"):
        Store(path)
    full_disk(resource.RLIM_INFINITY)
    with closing(sqlite3.connect(path)) as connection:
        assert list(connection.iterdump()) == before
    with Store(path) as store:
        assert store.count() == 2


def test_flipped_bytes_and_cut_ends_are_refused_or_noticed_and_never_believed(tmp_path):
    whole = filled(tmp_path / "whole.sqlite").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for number in range(60):
        path = tmp_path / f"{number}.sqlite"
        damaged = np.frombuffer(whole, np.uint8).copy()
        if number % 3 == 0:
            damaged = damaged[: rng.integers(1, len(damaged))]
        elif number % 3 == 1:
            damaged[rng.integers(100, len(damaged), 20)] ^= rng.integers(1, 256, 20, np.uint8)
        else:
            page = 4096 * rng.integers(1, len(damaged) // 4096)
            damaged[page : page + 4096] = rng.integers(0, 256, 4096)
        path.write_bytes(damaged.tobytes())
        try:
            read(path)
        except InputError as error:
            refused += 1
            assert "--salvage" in str(error) or "no store of edgeq" in str(error), error
        path.unlink()
    assert refused > 20


def test_what_was_damaged_is_computed_and_kept_again(tmp_path):
    path = filled(tmp_path / "s.sqlite")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE predictions SET content = X'00' || SUBSTR(content, 2) WHERE id & 1")
        connection.execute("UPDATE measures SET value = 0.75 WHERE name = 'top1'")
        connection.execute("UPDATE timings SET median_ms = 0.1")
        connection.commit()
    assert set(map(str, read(path).values())) == {str((IMAGES // 2, {"snr_db": 40.0}, None))}
    filled(path)
    assert read(path)[3] == (IMAGES, {"top1": 0.03, "snr_db": 40.0}, TIMING)
    with Store(path) as store:
        assert {row.images for row in store.rows()} == {IMAGES}


def damage(path: Path, needle: bytes) -> None:
    """Overwrites each page of a store that holds some bytes."""
    whole = bytearray(path.read_bytes())
    pages = {4096 * (found.start() // 4096) for found in re.finditer(re.escape(needle), whole)}
    assert pages
    for begin in pages:
        whole[begin : begin + 4096] = b"\xff" * 4096
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("needle", "kept"),
    [(content(5, 7), (0.9, 0.99)), (b"plan 3", (1, 1)), (b"EPYC", (1, 1)), (b"snr_db", (1, 1))],
    ids=["predictions", "trials", "timings", "measures"],
)
def test_the_command_that_the_message_names_salvages_what_can_be_read(tmp_path, edgeq, needle, kept):
    path = filled(tmp_path / "a store.sqlite")
    damage(path, needle)
    with pytest.raises(InputError, match="is damaged") as refused:
        read(path)
    name, *words = shlex.split(str(refused.value).split("`")[1].replace("salvaged.sqlite", str(tmp_path / "new")))
    assert name == "edgeq"
    done = edgeq(*words)
    assert done.code == 0, done
    found = read(tmp_path / "new")
    images = sum(images for images, _, _ in found.values())
    assert kept[0] * TRIALS * IMAGES <= images <= kept[1] * TRIALS * IMAGES
    assert f"{images} prediction" in done.out
    with Store(tmp_path / "new") as store:
        assert sum(row.images for row in store.rows()) == images, "counted anew"
    filled(tmp_path / "new")
    assert read(tmp_path / "new")[3] == (IMAGES, {"top1": 0.03, "snr_db": 40.0}, TIMING)
    again = edgeq(*words)
    assert (again.code, "exists" in again.err) == (1, True)


def test_nothing_is_salvaged_from_what_is_no_store(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a data base at all, but long enough to be read as one" * 20)
    for source, message in ((path, "nothing can be read"), (tmp_path / "missing", "no such file")):
        with pytest.raises(InputError, match=message):
            salvage(source, tmp_path / "new.sqlite")
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as connection:
        connection.execute("CREATE TABLE mine (x)")
    with pytest.raises(InputError, match="no trials of a store"):
        salvage(tmp_path / "other.sqlite", tmp_path / "new.sqlite")
    assert not (tmp_path / "new.sqlite").exists()


@pytest.mark.parametrize("table", ["contexts", "trials", "images", "predictions", "measures", "timings"])
def test_a_missing_table_is_named(tmp_path, table):
    path = tmp_path / "s.sqlite"
    Store(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"DROP TABLE {table}")
    with pytest.raises(InputError, match=rf"damaged \(its table {table} is missing\)"):
        Store(path)


def test_rows_of_a_lost_trial_are_not_those_of_the_next_one(tmp_path):
    path = filled(tmp_path / "s.sqlite")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM trials WHERE id = ?", (TRIALS,))
        connection.commit()
    with Store(path) as store:
        number = store.trial(TrialKey("m", "p", "d", "e", "c"), {})
        assert number == TRIALS + 1
        assert (store.measures(number), store.timing(number)) == ({}, None)


def test_what_is_no_store_is_refused(tmp_path):
    other = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    with pytest.raises(InputError, match="no store of edgeq"):
        Store(other)
    text = tmp_path / "notes.txt"
    text.write_text("not a data base at all, but long enough to be read as one" * 20)
    with pytest.raises(InputError, match="is damaged"):
        Store(text)
    with pytest.raises(InputError, match="no such file; wanted a store"):
        Store(tmp_path / "missing.sqlite", create=False)
    assert not (tmp_path / "missing.sqlite").exists()


def test_a_newer_store_is_refused(tmp_path):
    path = filled(tmp_path / "s.sqlite")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 7")
    with pytest.raises(InputError, match="version 7, this edgeq reads 2; update edgeq"):
        Store(path)


def test_a_writer_that_waits_too_long_is_told_to_try_again(tmp_path, monkeypatch):
    monkeypatch.setattr("edgeq.tuning.store_file._WAIT_S", 0.05)
    path = filled(tmp_path / "s.sqlite")
    with Store(path) as one, Store(path) as other, one._transaction():
        with pytest.raises(InputError, match="another process writes to it"):
            other.trial(TrialKey("m", "p", "d", "e", "c"), {})
        assert len(other.rows()) == TRIALS, "readers do not wait"
