"""A deployment folder is whole or absent, replaces nothing but itself, and is the same when written again."""

from __future__ import annotations

import os
import subprocess

import pytest

from edgeq.deploying.folder import MARKER, SUMS, write_folder
from edgeq.errors import InputError

TEXTS = {MARKER: "{}\n", "README.md": "a\n", "sub/run.sh": "#!/bin/sh\necho ran\n"}


def _state(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_what_was_asked_with_digests_that_sha256sum_confirms(tmp_path):
    source = tmp_path / "model.onnx"
    source.write_bytes(os.urandom(1000))
    out = tmp_path / "deep" / "out"
    assert write_folder(out, {**TEXTS, "models/a/1/m.onnx": source})
    assert (out / "models/a/1/m.onnx").read_bytes() == source.read_bytes()
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=out, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{path}: OK" for path in sorted([*TEXTS, "models/a/1/m.onnx"])]
    assert subprocess.run([out / "sub/run.sh"], capture_output=True, text=True, check=True).stdout == "ran\n"
    assert not os.access(out / "README.md", os.X_OK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "model.onnx"]


def test_writing_again_changes_nothing(tmp_path):
    write_folder(tmp_path / "out", TEXTS)
    before = _state(tmp_path)
    assert not write_folder(tmp_path / "out", TEXTS)
    assert _state(tmp_path) == before


def test_other_content_replaces_an_earlier_folder(tmp_path):
    out = tmp_path / "out"
    write_folder(out, TEXTS | {"old.txt": "old\n"})
    assert write_folder(out, TEXTS | {"new.txt": "new\n"})
    assert not (out / "old.txt").exists()
    assert (out / "new.txt").read_text() == "new\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_damaged_file_is_written_again(tmp_path):
    write_folder(tmp_path / "out", TEXTS)
    (tmp_path / "out/README.md").write_text("cut")
    assert write_folder(tmp_path / "out", TEXTS)
    assert (tmp_path / "out/README.md").read_text() == "a\n"


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("years of work")
    with pytest.raises(InputError, match=f"not a folder of `edgeq deploy` .it has no {MARKER}"):
        write_folder(tmp_path / "thesis", TEXTS)
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        write_folder(tmp_path / "file", TEXTS)


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    assert write_folder(tmp_path / "out", TEXTS)


def test_engines_and_results_in_it_are_not_lost(tmp_path):
    out = tmp_path / "out"
    write_folder(out, TEXTS)
    (out / "model.plan").write_text("built for hours")
    assert not write_folder(out, TEXTS)
    with pytest.raises(InputError, match=r"did not write \(model.plan\)"):
        write_folder(out, TEXTS | {"README.md": "other\n"})
    assert (out / "model.plan").read_text() == "built for hours"
    assert (out / "README.md").read_text() == "a\n"


@pytest.mark.parametrize("earlier", [False, True], ids=["absent", "earlier"])
def test_a_failure_leaves_the_old_folder_or_none(tmp_path, monkeypatch, earlier):
    out, source = tmp_path / "out", tmp_path / "model.onnx"
    source.write_bytes(b"model")
    if earlier:
        write_folder(out, TEXTS)
    before = _state(tmp_path)

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_folder(out, {**TEXTS, "z.onnx": source})
    assert _state(tmp_path) == before
    assert out.exists() == earlier


def test_an_interruption_between_the_renames_keeps_the_old_folder(tmp_path, monkeypatch):
    from pathlib import Path

    write_folder(tmp_path / "out", TEXTS)
    before, rename = _state(tmp_path), Path.rename

    def interrupted(path, target):
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "out", TEXTS | {"README.md": "other\n"})
    assert _state(tmp_path) == before
