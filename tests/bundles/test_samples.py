"""What parts are calibrated on: arrays by input, and texts in pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeq.bundles.samples import MOST, pieces, read_prepared
from edgeq.bundles.source import ModelFolder
from edgeq.errors import InputError
from edgeq.memory.config_file import ConfigFile

_FOLDER = ModelFolder(Path(), ConfigFile(Path("config.json"), {"model_type": "llama"}, {}), (), (), {}, {})


def test_arrays_become_samples_in_the_types_that_parts_take(tmp_path):
    ids, pixels = np.arange(12, dtype=np.int32).reshape(4, 3), np.ones((4, 3, 2, 2), np.float64)
    np.savez(tmp_path / "calib.npz", input_ids=ids, pixel_values=pixels)
    samples = read_prepared(tmp_path / "calib.npz", _FOLDER)
    assert [sample["input_ids"].tolist() for sample in samples] == [[row] for row in ids.tolist()]
    assert samples[0]["input_ids"].dtype == np.int64
    assert samples[0]["pixel_values"].dtype == np.float32
    assert samples[0]["pixel_values"].shape == (1, 3, 2, 2)


def test_many_samples_are_taken_evenly_spaced(tmp_path):
    np.savez(tmp_path / "calib.npz", input_ids=np.arange(1024)[:, None])
    taken = [int(sample["input_ids"][0, 0]) for sample in read_prepared(tmp_path / "calib.npz", _FOLDER)]
    assert (len(taken), taken[0], taken[-1]) == (MOST, 0, 1023)
    assert set(np.diff(taken)) <= {8, 9}


def test_a_long_text_becomes_pieces_of_one_length():
    found = pieces(range(1000))
    assert [piece["input_ids"].shape for piece in found] == [(1, 256)] * 3
    assert (found[0]["input_ids"][0, 0], found[-1]["input_ids"][0, -1]) == (0, 999)
    assert [piece["input_ids"].shape for piece in pieces(range(7))] == [(1, 7)]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "wanted arrays of one length above 0"),
        ({"input_ids": np.zeros((2, 3)), "pixel_values": np.zeros((3, 3))}, "'input_ids': 2, 'pixel_values': 3"),
        ({"input_ids": np.array([{"a": 1}], object)}, "cannot be read as arrays .Object arrays"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "calib.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_prepared(tmp_path / "calib.npz", _FOLDER)


def test_texts_need_a_tokenizer(tmp_path):
    (tmp_path / "texts.txt").write_text("to be or not to be")
    with pytest.raises(InputError, match=r"has no tokenizer; give an \.npz with `input_ids`"):
        read_prepared(tmp_path / "texts.txt", _FOLDER)
    with pytest.raises(InputError, match="no such file"):
        read_prepared(tmp_path / "absent.npz", _FOLDER)
    with pytest.raises(InputError, match="has no tokens"):
        pieces([])
