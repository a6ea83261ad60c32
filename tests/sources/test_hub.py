"""`--download`, with a local fake of huggingface_hub in place of the hub: what is asked for, and what is refused."""

from __future__ import annotations

import fnmatch
import shutil
import sys
from types import ModuleType

import pytest

from edgeq.errors import InputError
from edgeq.sources.hub import download_model

_SAFE = {"config.json", "tokenizer.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json"}
_OTHERS = {"modeling_own.py", "pytorch_model.bin", "model.pkl", "training_args.bin", "README.md", "tf_model.h5"}


class FakeHub(ModuleType):
    """A local fake of huggingface_hub: its one model lies in a folder."""

    def __init__(self, folder):
        super().__init__("huggingface_hub")
        self.folder = folder

    def snapshot_download(self, repo_id, allow_patterns):
        if repo_id != "maker/model":
            raise OSError(f"404 for {repo_id}\nwith a traceback")
        found = self.folder / "cache"
        found.mkdir()
        for file in (self.folder / "hub").iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copyfile(file, found / file.name)
        return str(found)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "hub").mkdir()
    for name in _SAFE | _OTHERS:
        (tmp_path / "hub" / name).write_text("{}")
    monkeypatch.setitem(sys.modules, "huggingface_hub", FakeHub(tmp_path))
    return tmp_path


def test_no_code_and_nothing_pickled_is_fetched(hub):
    assert {file.name for file in download_model("maker/model").iterdir()} == _SAFE


def test_the_command_exports_what_was_fetched(hub, edgeq):
    (hub / "hub" / "config.json").write_text('{"model_type": "unknown"}')
    refused = edgeq("export", "maker/model", "--download", "--target", "x86-ort", "--out", hub / "out")
    assert f"{hub / 'cache'}" in refused.error  # the folder is what is looked at from here on
    assert not (hub / "out").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("maker/other", r"`download` maker/other: cannot be fetched \(404 for maker/other\); check its name"),
        ("../maker/model", "wanted the id of a model"),
        ("model", "wanted the id of a model"),
        ("https://hub/maker/model", "wanted the id of a model"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(hub, model, message):
    with pytest.raises(InputError, match=message):
        download_model(model)


def test_a_folder_that_is_here_is_not_fetched(hub):
    with pytest.raises(InputError, match="is here already; omit `download`"):
        download_model(str(hub))
