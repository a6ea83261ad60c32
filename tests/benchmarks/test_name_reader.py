"""The reader of surnames: its pictures, its training, and the study of which part low bits break."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.name_reader import __main__ as name_reader
from benchmarks.name_reader import page, parts, reader, study, subjects, train
from benchmarks.name_reader.files import FILES
from benchmarks.name_reader.pictures import COLUMN, COLUMNS, HEIGHT, LETTERS, PATCH, SIDE, draw_pictures, fold
from benchmarks.name_reader.reader import NAMES, build_reader, read_texts
from benchmarks.name_reader.study import ALL, FP16, FP32, SKIPPING
from benchmarks.name_reader.subjects import WEIGHTS, Subject
from edgeq.errors import MismatchError

pytest.importorskip("transformers")

TINY = train.Plan(tower_steps=3, tower_batch=2, joint_steps=3, joint_batch=2)


@pytest.fixture(scope="module", autouse=True)
def one_layer() -> Iterator[None]:
    """Builds readers of one layer a part, which are quantized in a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_LAYERS", 1)
        yield


def test_a_picture_depends_on_its_number_alone():
    all_of_them, last = draw_pictures(5, 4), draw_pictures(5, 1, first=3)
    assert np.array_equal(all_of_them.strips[3:], last.strips) and all_of_them.names[3:] == last.names
    assert not np.array_equal(draw_pictures(6, 4).strips, all_of_them.strips)


def test_columns_are_labelled_with_the_letters_of_the_name():
    drawn = draw_pictures(1, 50)
    for name, letters, ranks in zip(drawn.names, drawn.letters, drawn.ranks, strict=True):
        assert 4 <= len(name) <= 8
        inside = ranks[ranks > 0]
        assert (np.diff(inside) >= 0).all() and inside.max() <= len(name)
        assert [LETTERS[letter - 1] for letter in letters[ranks > 0]] == [name[rank - 1] for rank in inside]
        assert (letters[ranks == 0] == 0).all()


def test_every_patch_of_the_square_is_a_column_of_the_strip():
    strip = draw_pictures(2, 1).strips
    square = fold(strip)[0]
    for column in range(COLUMNS):
        row, place = divmod(column, SIDE)
        patch = square[:, row * PATCH : (row + 1) * PATCH, place * PATCH : (place + 1) * PATCH]
        pixels = strip[0][:, column * COLUMN : (column + 1) * COLUMN] / 127.5 - 1
        halves = np.concatenate([pixels[: HEIGHT // 2], pixels[HEIGHT // 2 :]], axis=1)
        assert np.allclose(patch, halves[None], atol=1e-6)


def test_texts_become_tokens_and_return():
    (row,) = NAMES.tokens_of(["ABC"]).tolist()
    assert NAMES.text_of(row[len(NAMES.prompt) :]) == "ABC"
    assert NAMES.text_of([0, 31, 1]) == "A?B"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("reader")
    train.train(TINY, folder)
    return folder


def test_an_interrupted_training_ends_with_the_same_weights(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_KEEP_EVERY", 4)  # once in the second stage

    def interrupt(_line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.train(TINY, tmp_path, interrupt)
    assert not (tmp_path / "config.json").exists()
    with pytest.raises(MismatchError, match="from a training with other settings"):
        train.train(dataclasses.replace(TINY, seed=8), tmp_path)
    train.train(TINY, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in trained.iterdir())


@pytest.fixture(scope="module")
def subject(trained) -> Subject:
    drawn = draw_pictures(3, 12)
    pixels = fold(drawn.strips)
    return Subject("Reader", trained, NAMES, (pixels[:8], drawn.names[:8]), (pixels[8:], drawn.names[8:]))


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq+gptq"])
def test_only_the_chosen_part_has_few_levels(subject, method):
    model, before = subject.load(), subject.load().state_dict()
    precision = parts.Precision(2, 16, method, ("connector",))
    parts.quantize_parts(model, precision, subject.runs(model))
    after = model.state_dict()
    changed = {name for name in before if not np.array_equal(before[name].numpy(), after[name].numpy())}
    assert changed == {f"model.multi_modal_projector.linear_{number}.weight" for number in (1, 2)}
    if method != "awq+gptq":  # AWQ's scales spread the levels of a group
        for name in changed:
            assert all(len(np.unique(group)) <= 4 for group in after[name].numpy().reshape(-1, 16))


def test_gptq_keeps_more_of_what_a_part_computes(subject):
    pixels = subject.calibration[0]

    def features(method: str | None) -> np.ndarray:
        import torch

        model = subject.load()
        if method is not None:
            precision = parts.Precision(2, 16, method, ("vision",))
            parts.quantize_parts(model, precision, subject.runs(model))
        with torch.inference_mode():
            return np.asarray(model.model.vision_tower(torch.from_numpy(pixels)).last_hidden_state.numpy())

    wanted = features(None)
    errors = {method: np.square(features(method) - wanted).mean() for method in ("rtn", "gptq")}
    assert errors["gptq"] < 0.7 * errors["rtn"]


def test_sizes_count_scales_and_what_stays_in_fp16(subject):
    model = subject.load()
    weights = sum(each.numel() for each in model.parameters())
    linear = 4 * 128 * 128 + 3 * 128 * 256
    assert parts.stored_bytes(model, None) == 2 * weights
    assert parts.stored_bytes(model, SKIPPING) == 2 * (weights - linear) + linear * (8 + (16 + 8) / 32) / 8


def test_the_study_writes_its_page_and_resumes(subject, tmp_path, monkeypatch):
    sweep = ((4, 32, ("rtn", "gptq")), (2, 16, ("rtn", "gptq")))
    for module in (study, page):
        monkeypatch.setattr(module, "SWEEP", sweep)
        monkeypatch.setattr(module, "METHODS", ("rtn", "gptq"))
    timed = name_reader.Timed((FILES[0], FILES[4]), threads=1, seconds=0.01)
    text = name_reader.run([subject], tmp_path / "work", tmp_path, timed).read_text("utf-8")
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert {FP32, FP16, "8 bits, groups of 32, all parts", "2 bits, groups of 16, GPTQ"} <= set(rows)
    assert all(question in text for question in ("Which part breaks?", "What does reconstruction buy back?"))
    fp32, asymmetric = [line.strip("| ").split(" | ") for line in text.splitlines() if line.count("|") == 8][2:]
    assert float(asymmetric[1]) < 0.6 * float(fp32[1])
    assert all(float(cell.rstrip("x")) >= 0 for cell in [*fp32[1:], *asymmetric[1:]])
    monkeypatch.setattr(study, "read_texts", None)
    assert name_reader.run([subject], tmp_path / "work", tmp_path).read_text("utf-8") == text


def test_intervals_are_of_paired_differences(subject):
    ones = np.ones(400)
    half = np.repeat([0.0, 1.0], 200)
    readings = study.Readings(subject, {FP32: ones, "half": half, "same": half}, {}, {})
    lost = readings.lost("half")
    assert lost.value == 50 and 44 < lost.low < 46 and 54 < lost.high < 56 and lost.is_resolved
    assert not readings.lost("half", "same").is_resolved


@pytest.mark.skipif(not (WEIGHTS / "model.safetensors").is_file(), reason="the reader of surnames was not trained yet")
def test_the_shipped_reader_reads():
    one = subjects.name_reader(128)
    pixels, names = one.test
    texts = read_texts(one.load(), one.script, pixels)
    assert np.mean([text == name for text, name in zip(texts, names, strict=True)]) > 0.85
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 3e6


def test_the_reader_is_a_llava_of_two_parts_and_a_connector():
    model = build_reader()
    assert {part: len(parts.linear_layers(model, [part])) for part in parts.PARTS} == {
        "vision": 6, "connector": 2, "decoder": 7,
    }  # fmt: skip
    assert set(ALL) == set(parts.PARTS)
