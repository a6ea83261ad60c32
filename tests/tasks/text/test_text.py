"""Text: where it is, by DB's post-processing, and what it says, by CTC; both with trained models where they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.json_results import evaluate_artifacts, merge
from edgeq.errors import InputError, ModelError
from edgeq.evaluation.prediction_codec import pack_prediction, unpack_prediction
from edgeq.exporting.artifact import Artifact, Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.packing import pack_array
from edgeq.reporting.comparison import compare
from edgeq.tasks.polygons import iou
from edgeq.tasks.prediction_records import pack_predictions, unpack_predictions
from edgeq.tasks.text.components import components
from edgeq.tasks.text.db import decode
from edgeq.tasks.text.detection import TextDetectionPredictions, TextDetectionTask
from edgeq.tasks.text.recognition import TextRecognitionPredictions, TextRecognitionTask, edit_distance
from edgeq.tasks.text.regions import TextRegions
from tests.golden import PP_OCR_ON_DRAWN_TEXT, TEXT_MAP_BY_RAPIDOCR
from tests.shipped import shipped
from tests.tasks.text.drawn import draw_lines, draw_words, text_map

PLACE = Placement(256, 96, 128, 96, 0.5, 1, 0, 0)
SQUARE: list[tuple[float, float]] = [(0, 0), (20, 0), (20, 10), (0, 10)]


# -- Where text is


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0, 0.2, 0.4, 0.6, 1]))
def test_components_are_those_of_a_flood(seed, share):
    bitmap = np.random.default_rng(seed).random((9, 13)) < share
    left = {(x, y) for y, x in np.argwhere(bitmap).tolist()}
    floods = []
    while left:
        flood, edge = set(), {left.pop()}
        while edge:
            flood |= edge
            edge = {(x + i, y + j) for x, y in edge for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= edge
        floods.append(flood)
    found = [{tuple(point) for point in each.tolist()} for each in components(bitmap)]
    assert len(found) == len(floods)
    for flood in floods:
        (one,) = [each for each in found if each <= flood]
        for y in {point[1] for point in flood}:
            row, ends = [x for x, at in flood if at == y], [x for x, at in one if at == y]
            assert (min(ends), max(ends)) == (min(row), max(row))


def test_rectangles_are_those_of_rapidocr():
    place = Placement(128, 96, 128, 96, 1, 1, 0, 0)
    found = decode({"any": text_map()}, Postprocessing("db"), place)
    overlap = iou(list(found.corners.astype(float)), [np.array(each, float) for each, _ in TEXT_MAP_BY_RAPIDOCR])
    best = overlap.argmax(axis=1)
    assert sorted(best.tolist()) == list(range(len(TEXT_MAP_BY_RAPIDOCR)))
    assert overlap.max(axis=1).min() > 0.85
    scores = np.array([score for _, score in TEXT_MAP_BY_RAPIDOCR])
    np.testing.assert_allclose(found.scores, scores[best], atol=0.1)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_rectangles_lie_in_the_image_and_options_count():
    found = decode({"any": text_map()}, Postprocessing("db"), PLACE)
    assert found.corners[..., 0].max() > 200
    assert found.corners.min() >= 0
    assert (found.corners <= (256, 96)).all()
    for options, count in (({"top_k": 2}, 2), ({"box_threshold": 0.99}, 0), ({"threshold": 1.0}, 0)):
        assert len(decode({"any": text_map()}, Postprocessing("db", options=options), PLACE).scores) == count
    with pytest.raises(ModelError, match=r"wanted a map \(1, 1, h, w\)"):
        decode({"any": np.zeros((1, 2, 8, 8))}, Postprocessing("db"), PLACE)
    with pytest.raises(ModelError, match="not finite"):
        decode({"any": np.full((1, 1, 8, 8), np.nan)}, Postprocessing("db"), PLACE)


def regions(*polygons: list[tuple[float, float]]) -> TextRegions:
    return TextRegions(np.array(polygons, np.float32).reshape(-1, 4, 2), np.ones(len(polygons), np.float32))


def moved(polygon: list[tuple[float, float]], by: float) -> list[tuple[float, float]]:
    return [(x + by, y) for x, y in polygon]


ARTIFACT = Artifact(Path("net.onnx"), "onnx", "fp32", "x86", (), (), None, labels=("a", "b", "c"))


@pytest.mark.parametrize("form", ["icdar", "labels"])
def test_what_is_illegible_does_not_count(tmp_path, form):
    pieces: list[tuple[list[tuple[float, float]], str]] = [
        (SQUARE, "one"),
        (moved(SQUARE, 40), "two, three"),
        (moved(SQUARE, 80), "###"),
    ]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    source = tmp_path / "truth"
    if form == "icdar":
        source.mkdir()
        lines = [",".join([*(str(value) for point in polygon for value in point), text]) for polygon, text in pieces]
        (source / "gt_a.txt").write_text("\ufeff" + "\n".join(lines))
    else:
        entries = [{"transcription": text, "points": polygon} for polygon, text in pieces]
        source.write_text(f"a.png\t{json.dumps(entries)}\n")
    task = TextDetectionTask.from_files(source, tmp_path / "images", "pycocotools")
    # Two on one piece, one on nothing, one on the illegible piece, one beside it.
    found = regions(SQUARE, moved(SQUARE, 1), moved(SQUARE, 47), moved(SQUARE, 81), moved(SQUARE, 95))
    score = task.score(ARTIFACT, {0: found}, {})
    assert (score.precision_50, score.recall_50, score.hmean) == (1 / 4, 1 / 2, 2 / 6)
    records = task.per_image(ARTIFACT, {0: found}, {})
    packed = json.loads(json.dumps(pack_predictions(records)))
    assert unpack_predictions(packed, TextDetectionPredictions).resampled("hmean")[0] == score.hmean
    nothing = task.score(ARTIFACT, {0: regions()}, {})
    assert (nothing.precision_50, nothing.recall_50, nothing.hmean) == (None, 0, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.png", "line 1 is 'a.png'; expected a folder of ICDAR's"),
        ('a.png\t{"points": []}', "line 1"),
        ('a.png\t[{"transcription": "x", "points": [[0, 0], [1, 1]]}]', "wanted three corners or more"),
        ('a.png\t[{"transcription": "x", "points": [[0, 0], [1, 1], ["a", 2]]}]', "line 1"),
    ],
)
def test_broken_labels_are_one_clear_line(tmp_path, content, message):
    (tmp_path / "a.png").touch()
    (tmp_path / "labels.txt").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        TextDetectionTask.from_files(tmp_path / "labels.txt", tmp_path, "pycocotools")
    assert "\n" not in str(caught.value)


def test_a_device_sends_regions_and_broken_ones_are_refused():
    found = regions(SQUARE, moved(SQUARE, 40))
    packed = json.loads(json.dumps(pack_prediction(TextDetectionTask, found)))
    np.testing.assert_array_equal(unpack_prediction(TextDetectionTask, packed).corners, found.corners)
    for name, changed in (("corners", found.corners[:, :3]), ("scores", found.scores[:1])):
        with pytest.raises(InputError, match="cannot be used for text-detection"):
            unpack_prediction(TextDetectionTask, {**packed, name: pack_array(changed)})


# -- What text says


def test_blanks_and_repeated_characters_are_left_out():
    steps = np.array([0, 1, 1, 0, 1, 2, 2, 3, 0, 0])
    scores = np.eye(4, dtype=np.float32)[steps][None]
    found = TextRecognitionTask.decode({"any": scores}, Postprocessing("ctc"), PLACE)
    assert found.tolist() == [0, 0, 1, 2]
    for shape in ((1, 5), (2, 5, 4), (1, 5, 1)):
        with pytest.raises(ModelError, match=r"wanted scores \(1, T, classes\)"):
            TextRecognitionTask.decode({"any": np.zeros(shape)}, Postprocessing("ctc"), PLACE)


@settings(deadline=None, max_examples=50)
@given(first=st.text("abc ", max_size=7), second=st.text("abc ", max_size=7))
def test_edit_distance_is_that_of_its_definition(first, second):
    def distance(one: str, other: str) -> int:
        if not one or not other:
            return len(one) + len(other)
        table[one, other] = table.get((one, other)) or min(
            distance(one[1:], other) + 1,
            distance(one, other[1:]) + 1,
            distance(one[1:], other[1:]) + (one[0] != other[0]),
        )
        return table[one, other]

    table: dict[tuple[str, str], int] = {}
    assert edit_distance(first, second) == distance(first, second) == edit_distance(second, first)


def test_texts_are_compared_by_their_characters(tmp_path):
    assert edit_distance("kitten", "sitting") == 3
    for name in ("1.png", "2.png", "3.png"):
        (tmp_path / name).touch()
    (tmp_path / "texts.json").write_text(json.dumps({"1.png": "ab", "2.png": "a cab", "3.png": "b"}))
    task = TextRecognitionTask.from_files(tmp_path / "texts.json", tmp_path, "pycocotools")
    found = {number: np.array(each, np.int64) for number, each in enumerate([[0, 1], [0, 3, 2, 0], []])}
    score = task.score(ARTIFACT, found, {})
    assert score.exact == pytest.approx(1 / 3)
    assert score.similarity == pytest.approx((1 + 4 / 5 + 0) / 3)
    assert score.cer == pytest.approx(2 / 8)
    records = task.per_image(ARTIFACT, found, {})
    assert records.texts == ("ab", "a ca", "")
    again = unpack_predictions(json.loads(json.dumps(pack_predictions(records))), TextRecognitionPredictions)
    assert again.has_truth_of(records)
    assert again.resampled("exact")[0] == score.exact
    with pytest.raises(InputError, match="reads character 4, but has 3 `labels`"):
        task.score(ARTIFACT, {0: np.array([4])}, {})
    with pytest.raises(InputError, match="has no characters; give `labels`"):
        task.check(Artifact(Path("net.onnx"), "onnx", "fp32", "x86", (), (), None))


# -- Trained models

NORMALISED = 'channel_order = "bgr"\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n[postprocessing]\n'


def test_a_trained_model_finds_drawn_text(tmp_path):
    model = shipped("rapidocr_onnxruntime", "1.4.4", "models/ch_PP-OCRv4_det_infer.onnx")
    (tmp_path / "det.toml").write_text(
        f'[preprocessing]\nheight_px = 480\nwidth_px = 640\nresize = "stretch"\n{NORMALISED}decoder = "db"\n'
    )
    labels = draw_lines(tmp_path / "lines", 4, seed=0)
    results = evaluate_artifacts(
        [model], labels, tmp_path / "lines", preset=str(tmp_path / "det.toml"), runtimes=["onnxruntime"], threads=1
    )
    assert results[0]["hmean"] == pytest.approx(PP_OCR_ON_DRAWN_TEXT["hmean"], abs=0.03)
    assert compare(merge(results))[0].task == "text-detection"


def test_a_trained_model_reads_drawn_words(tmp_path):
    onnx = pytest.importorskip("onnx")
    model = shipped("rapidocr_onnxruntime", "1.4.4", "models/ch_PP-OCRv4_rec_infer.onnx")
    (characters,) = [each.value for each in onnx.load(model).metadata_props if each.key == "character"]
    (tmp_path / "rec.toml").write_text(
        f"labels = {json.dumps(characters.splitlines(), ensure_ascii=False)}\n[preprocessing]\nheight_px = 48\n"
        f'width_px = 320\nresize = "letterbox"\nfill = 127.5\n{NORMALISED}decoder = "ctc"\n',
        encoding="utf-8",
    )
    texts = draw_words(tmp_path / "words", 16, seed=1)
    (result,) = evaluate_artifacts(
        [model], texts, tmp_path / "words", preset=str(tmp_path / "rec.toml"), runtimes=["onnxruntime"], threads=1
    )
    assert result["exact"] == pytest.approx(PP_OCR_ON_DRAWN_TEXT["exact"], abs=0.07)
    assert result["similarity"] == pytest.approx(PP_OCR_ON_DRAWN_TEXT["similarity"], abs=0.03)
