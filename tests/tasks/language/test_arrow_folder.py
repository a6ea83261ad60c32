"""Data sets in the form that Hugging Face's `datasets` saves, written here with pyarrow alone."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from edgeq.errors import InputError
from edgeq.tasks import get_task
from edgeq.tasks.language.questions import load_questions

pyarrow = pytest.importorskip("pyarrow")


def _png(value):
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _rows():
    return pyarrow.table(
        {
            "question": ["what?", "where?"],
            "answers": [["a", "b"], ["c"]],
            "image": [{"bytes": _png(7), "path": None}, {"bytes": _png(9), "path": "second.png"}],
        }
    )


@pytest.fixture
def split(tmp_path):
    folder = tmp_path / "test"
    folder.mkdir()
    with pyarrow.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink:
        table = _rows()
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=1)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return folder


def test_a_saved_split_is_read_with_its_images(split):
    questions = load_questions(split)
    assert [(each.name, each.prompt, each.answers) for each in questions] == [
        ("0", "what?", ("a", "b")), ("1", "where?", ("c",)),
    ]  # fmt: skip
    task = get_task("vqa").from_files(split, split, "")
    assert [int(item.read().mean()) for item in task.items] == [7, 9]
    assert task.items[0].digest() != task.items[1].digest()


def test_a_folder_of_parquet_files_is_read(tmp_path):
    import pyarrow.parquet

    table = _rows().drop(["image", "answers"]).append_column("id", [[5, 6]])
    table = table.append_column("caption", [["a cat", "a dog"]]).append_column("image", [["cat.png", "dog.png"]])
    pyarrow.parquet.write_table(table, tmp_path / "test-00000-of-00001.parquet")
    questions = load_questions(tmp_path)
    assert [(each.name, each.image, each.answers) for each in questions] == [
        ("5", "cat.png", ("a cat",)), ("6", "dog.png", ("a dog",)),
    ]  # fmt: skip


def test_what_is_no_single_data_set_is_one_line(split, tmp_path):
    with pytest.raises(InputError, match=r"is not a data set; wanted a folder that `save_to_disk` wrote"):
        load_questions(tmp_path)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    with pytest.raises(InputError, match=r"holds the splits train, test; name one, as .*train"):
        load_questions(tmp_path)
    (split / "data-00000-of-00001.arrow").write_bytes(b"no arrow")
    with pytest.raises(InputError, match=r"\.arrow: cannot be read"):
        load_questions(split)
    (split / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../secret.arrow"}]}))
    with pytest.raises(InputError, match=r"names '\.\./secret\.arrow', which is not in its folder"):
        load_questions(split)
