"""Embeddings: the images that are searched, and scores against a search written in the plainest way."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgeq.tasks.embedding
from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.tasks.embedding import RECALL_AT, EmbeddingScores, decode, score
from edgeq.tasks.searched_images import load_searched_images
from tests.tasks.test_classification import touch

POST = Postprocessing("embedding")

# -- Images


def test_classes_come_from_folders_or_a_file_and_may_be_missing(tmp_path):
    folders = load_searched_images(None, touch(tmp_path / "sorted", "dog/1.png", "cat/2.png", "cat/3.png"))
    assert folders.classes is not None and folders.classes.tolist() == [0, 0, 1]
    flat = load_searched_images(None, touch(tmp_path / "flat", "1.png", "more/2.png"))
    assert (list(flat.names), flat.classes) == (["1.png", "more/2.png"], None)
    (tmp_path / "labels.json").write_text(json.dumps({"more/2.png": "cat", "1.png": 7}))
    labelled = load_searched_images(tmp_path / "labels.json", tmp_path / "flat")
    assert labelled.classes is not None and len(set(labelled.classes.tolist())) == 2
    assert list(labelled.names) == ["more/2.png", "1.png"]


def test_one_class_tells_nothing(tmp_path):
    assert load_searched_images(None, touch(tmp_path, "images/1.png", "images/2.png")).classes is None


def test_images_that_cannot_be_searched_are_told(tmp_path):
    with pytest.raises(InputError, match="one: holds a single image, which has no neighbour"):
        load_searched_images(None, touch(tmp_path / "one", "1.png"))
    (touch(tmp_path / "half", "cat/1.png", "cat/2.png") / "dog").mkdir()
    with pytest.raises(InputError, match="dog: holds no images"):
        load_searched_images(None, tmp_path / "half")
    with pytest.raises(InputError, match="none: no such file or folder"):
        load_searched_images(None, tmp_path / "none")


# -- Outputs


def test_an_embedding_is_one_vector_whatever_it_is_called():
    vector = np.arange(3, dtype=np.float32)
    np.testing.assert_array_equal(decode({"x": vector.reshape(1, 3, 1, 1)}, POST), vector)
    named = Postprocessing("embedding", {"embedding": "y"})
    np.testing.assert_array_equal(decode({"x": np.zeros((1, 9)), "y": vector[None]}, named), vector)


@pytest.mark.parametrize(
    ("output", "post", "error", "message"),
    [
        (np.zeros((1, 50, 128)), POST, ModelError, r"found embedding \(1, 50, 128\); let the model pick a token"),
        (np.zeros((2, 128)), POST, ModelError, r"found embedding \(2, 128\)"),
        (np.array([[1, np.nan]]), POST, ModelError, "not finite numbers"),
        (np.zeros((1, 4)), Postprocessing("embedding", {"token": "x"}), InputError, "has no role 'token'"),
        (np.zeros((1, 4)), Postprocessing("embedding", options={"p": 2}), InputError, "takes no options, found 'p'"),
    ],
)
def test_outputs_that_are_no_embedding_are_told(output, post, error, message):
    with pytest.raises(error, match=message):
        decode({"x": output}, post)


# -- Scores


def known(scores: EmbeddingScores) -> dict[str, float]:
    """Returns the numbers that there are."""
    return {name: value for name, value in scores.numbers().items() if value is not None}


def plain_recall(queries, index, wanted) -> dict[int, float | None]:
    """Returns recalls by sorting; `wanted(query)` is the set of images of which one must be found, or nothing."""
    hits: dict[int, list[bool]] = {k: [] for k in RECALL_AT}
    for query in range(len(queries)):
        found = sorted(
            (other for other in range(len(index)) if other != query), key=lambda i: (-(queries[query] @ index[i]), i)
        )
        if targets := wanted(query):
            for k in RECALL_AT:
                hits[k].append(bool(targets & set(found[:k])))
    return {k: sum(hit) / len(hit) if hit and k < len(queries) - 1 else None for k, hit in hits.items()}


@given(st.integers(2, 24), st.integers(0, 2**32 - 1), st.sampled_from([None, 1, 3]))
def test_recalls_are_those_of_a_plain_search(images, seed, classes_of):
    rng = np.random.default_rng(seed)
    # Unit vectors of whole numbers over 5: many ties, and no rounding to break them by.
    unit = np.array([(3, 4, 0, 0), (0, 5, 0, 0), (4, 0, 3, 0), (0, 0, 5, 0), (0, -3, 0, 4)], np.float32) / 5
    embeddings, reference = unit[rng.integers(0, 5, images)], unit[rng.integers(0, 5, images)]
    classes = None if classes_of is None else rng.integers(0, images // classes_of + 1, images)
    scores = score(embeddings * 7, reference * 0.5, classes)
    as_stored = {"float_index": reference, "own_index": embeddings}
    others = [[i for i in range(images) if i != query] for query in range(images)]
    # max takes the first of equals.
    nearest = [max(others[q], key=(reference @ reference[q]).__getitem__) for q in range(images)]
    for name, index in as_stored.items():
        recalls = getattr(scores, name)
        assert recalls.neighbour == pytest.approx(plain_recall(embeddings, index, lambda q: {nearest[q]}))
        if classes is None:
            assert set(recalls.same_class.values()) == {None}
        else:
            of_class = plain_recall(embeddings, index, lambda q: {i for i in others[q] if classes[i] == classes[q]})
            assert recalls.same_class == pytest.approx(of_class)
    cosines = (embeddings * reference).sum(axis=1)
    assert (scores.cosine, scores.cosine_min) == pytest.approx((cosines.mean(), cosines.min()), abs=1e-6)
    assert scores.cosine_p1 == pytest.approx(np.percentile(cosines, 1), abs=1e-6)


def test_blocks_change_nothing_and_bound_the_memory(monkeypatch):
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(600, 16)).astype(np.float32)
    embeddings = reference + rng.normal(0, 0.3, reference.shape).astype(np.float32)
    classes = rng.integers(0, 30, 600)
    whole = score(embeddings, reference, classes)
    monkeypatch.setattr(edgeq.tasks.embedding, "_MAX_SIMILARITIES", 600 * 7)
    tracemalloc.start()
    assert score(embeddings, reference, classes) == whole
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 600 * 600 * 4  # one whole matrix of similarities
    assert 0.1 < known(whole)["recall_at_1"] < known(whole)["recall_at_10"] < 1


def test_the_float_model_itself_is_found_whole():
    reference = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    reference[7] = reference[3]  # a copy of an image is its neighbour
    assert known(score(reference, reference, None)) == {
        "cosine": pytest.approx(1), "cosine_p1": pytest.approx(1), "cosine_min": pytest.approx(1),
        **{f"{prefix}recall_at_{k}": 1 for prefix in ("", "self_") for k in RECALL_AT},
    }  # fmt: skip


def test_a_turned_space_is_told_by_the_float_index_alone():
    """Embeddings that all turn alike find one another, but nothing of the float model's."""
    rng = np.random.default_rng(2)
    reference = rng.normal(size=(400, 6)).astype(np.float32)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    numbers = known(score((reference @ turn).astype(np.float32), reference, None))
    assert numbers["self_recall_at_1"] > 0.99
    assert numbers["recall_at_1"] < 0.1


def test_zeros_and_huge_numbers_are_no_reason_to_fail():
    embeddings = np.array([[0, 0], [3e30, 0], [0, 1e-30]], np.float32)
    reference = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    scores: EmbeddingScores = score(embeddings, reference, np.array([0, 0, 1]))
    assert (scores.cosine_min, scores.cosine) == pytest.approx((0, 2 / 3))
    json.dumps(scores.numbers(), allow_nan=False)


def test_the_name_of_every_score():
    assert list(score(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), None).numbers()) == [
        "cosine", "cosine_p1", "cosine_min",
        *(f"{prefix}recall_at_{k}" for prefix in ("", "class_", "self_", "self_class_") for k in RECALL_AT),
    ]  # fmt: skip
