"""Weights of a few bytes that would fill the memory."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from edgeq.errors import InputError, ModelError
from edgeq.exporting.checkpoints.stored import stored_tensors
from edgeq.models.zoo import read_weights


def test_compressed_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(10_000)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "w.pth", "w", 8) as packed:
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
    with pytest.raises(InputError, match=r"w\.pth: is a compressed archive"):
        read_weights(tmp_path / "w.pth")
    assert read_weights(tmp_path / "plain.pth")["w"].shape == (10_000,)


def test_an_archive_on_several_disks_is_refused(tmp_path: Path) -> None:
    """One flipped bit makes it so; Python's `is_zipfile` raises of it instead of answering."""
    torch.save({"w": torch.zeros(3)}, tmp_path / "w.pth")
    content = bytearray((tmp_path / "w.pth").read_bytes())
    content[content.rindex(b"PK\x06\x07") + 16] ^= 2  # the number of disks in the locator of the archive's end
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"w\.pth: cannot be read as weights \(zipfiles that span multiple disks"):
        read_weights(tmp_path / "w.pth")


def test_a_view_that_repeats_one_number_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1, dtype=torch.float16).expand(10**12)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="'w' repeats its values to 2,000,000,000,000 bytes"):
        read_weights(tmp_path / "w.pth")


def test_a_shape_of_nothing_that_no_array_has_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40, 2**40, 0], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ModelError, match="w does not lie within the file"):
        stored_tensors(tmp_path)
