"""Perplexity of windows that overlap, and recall of vectors against a search that is written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.errors import InputError, MismatchError
from tests.tasks.language.written import score_all, write_lines

LINES = {"a": "a door and a dent", "b": "no"}


def write_truth(folder):
    return write_lines(folder / "t.jsonl", ({"id": key, "answer": text} for key, text in LINES.items()))


def test_perplexity_is_that_of_all_tokens(tmp_path):
    lines = [{"id": "a", "logprobs": [-1.0, -2.0, -3.0]}, {"id": "b", "logprobs": [-0.5]}]
    (found,) = score_all(write_lines(tmp_path / "l.jsonl", lines), "perplexity", write_truth(tmp_path))
    score = found.result.score
    assert (score.perplexity, score.tokens) == (pytest.approx(math.exp(6.5 / 4)), 4)
    assert score.bits_per_byte == pytest.approx(6.5 / math.log(2) / len("a door and a dentno"))
    assert found.low == pytest.approx(math.exp(0.5))
    assert found.high == pytest.approx(math.exp(2))


@given(
    st.lists(st.floats(-9, 0, width=32), min_size=1, max_size=40),
    st.integers(1, 8),
    st.integers(0, 8),
)
def test_of_a_token_in_several_windows_the_first_one_counts(tmp_path_factory, logprobs, stride, overlap):
    """Strides as perplexity is measured with: later windows repeat tokens with less context, whose values are wrong."""
    folder = tmp_path_factory.mktemp("windows")
    windows, end = [], 0
    for start in range(0, len(logprobs), stride):
        new = logprobs[end : start + stride + overlap]
        windows.append({"id": "a", "start": 1 + start, "logprobs": [-99.0] * (end - start) + new})
        end += len(new)
    lines = [{"model": "m", "precision": "fp32"}, *reversed(windows), {"id": "b", "logprobs": [0.0]}]
    (found,) = score_all(write_lines(folder / "l.jsonl", lines), "perplexity", write_truth(folder))
    assert found.result.score.tokens == len(logprobs) + 1
    assert found.result.score.perplexity == pytest.approx(math.exp(-sum(logprobs) / (len(logprobs) + 1)), rel=1e-5)
    assert found.result.precision == "fp32"


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([{"id": "a", "logprobs": [-1.0]}], "is about other texts than"),
        ([{"id": "a", "logprobs": [-1.0]}, {"id": "a", "start": 5, "logprobs": [-1.0]}, {"id": "b", "logprobs": [-1]}],
         "'a' has no log-probabilities for tokens 2 to 4"),
        ([{"id": "a", "logprobs": []}, {"id": "b", "logprobs": [-1]}], "'a' has no log-probabilities"),
        ([{"id": "a", "logprobs": [0.5]}, {"id": "b", "logprobs": [-1]}], "has the log-probability 0.5; wanted"),
        ([{"logprobs": [-1.0]}], "line 1 has no 'id'"),
    ],
)  # fmt: skip
def test_log_probabilities_that_do_not_fit_are_refused(tmp_path, lines, complaint):
    with pytest.raises((InputError, MismatchError)) as refused:
        score_all(write_lines(tmp_path / "l.jsonl", lines), "perplexity", write_truth(tmp_path))
    assert complaint in str(refused.value)


COUNTS = [2, 1, 3, 1, 2, 1, 2, 1, 1, 1, 2, 1]


def write_vectors(folder, name, images, texts, **facts):
    np.savez(folder / f"{name}.npz", images=images, texts=texts, **facts)
    return folder / f"{name}.npz"


def write_captions(folder):
    lines = ({"id": number, "answers": ["text"] * count} for number, count in enumerate(COUNTS))
    return write_lines(folder / "captions.jsonl", lines)


def drawn(seed=0, noise=1.0):
    generator = np.random.default_rng(seed)
    images = generator.normal(size=(len(COUNTS), 6)).astype(np.float32)
    texts = np.repeat(images, COUNTS, axis=0) + noise * generator.normal(size=(sum(COUNTS), 6)).astype(np.float32)
    return images, texts.astype(np.float32)


def recalls(images, texts, index_images, index_texts, at):
    """Returns recall from image to text and from text to image, by sorting everything."""
    owners = np.repeat(np.arange(len(COUNTS)), COUNTS)

    def cosine(first, second):
        return (first @ second.T) / np.outer(np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1))

    by_image = [set(owners[np.argsort(-row)[:at]]) for row in cosine(images, index_texts)]
    text = np.mean([number in found for number, found in enumerate(by_image)])
    by_text = [set(np.argsort(-row)[:at]) for row in cosine(texts, index_images)]
    hits = np.array([owner in each for owner, each in zip(owners, by_text, strict=True)])
    return text, np.mean([hits[owners == number].mean() for number in range(len(COUNTS))])


def test_recalls_are_those_of_a_full_search(tmp_path):
    (images, texts), (other_images, other_texts) = drawn(), drawn(1, 2.0)
    files = [
        write_vectors(tmp_path, "fp32", images, texts, model="clip", precision="fp32"),
        write_vectors(tmp_path, "w4", other_images, other_texts, model="clip", precision="w4"),
    ]
    first, second = score_all(files, "retrieval", write_captions(tmp_path))
    for found, own in ((first, (images, texts)), (second, (other_images, other_texts))):
        score = found.result.score
        wanted = [recalls(*own, *own, at) for at in (1, 5, 10)]
        assert (score.text_at_1, score.text_at_5, score.text_at_10) == pytest.approx([text for text, _ in wanted])
        assert (score.image_at_1, score.image_at_5, score.image_at_10) == pytest.approx([image for _, image in wanted])
        assert score.mean_recall == pytest.approx(np.mean(wanted))
        indexed = recalls(*own, images, texts, 1)
        assert (score.indexed_text_at_1, score.indexed_image_at_1) == pytest.approx(indexed)
    assert (first.result.score.image_cosine, first.difference) == (pytest.approx(1), None)
    assert second.difference == pytest.approx(
        second.result.score.mean_recall - first.result.score.mean_recall, abs=1e-6
    )
    assert second.difference_low < second.difference < second.difference_high


def test_vectors_that_are_all_the_same_find_nothing(tmp_path):
    images, texts = np.ones((len(COUNTS), 6), np.float32), np.ones((sum(COUNTS), 6), np.float32)
    (found,) = score_all(write_vectors(tmp_path, "same", images, texts), "retrieval", write_captions(tmp_path))
    assert (found.result.score.text_at_1, found.result.score.image_at_1) == (0, 0)


def test_vectors_in_another_order_are_suspected(tmp_path):
    lines = ({"id": number, "answer": "text"} for number in range(40))
    truth = write_lines(tmp_path / "t.jsonl", lines)
    vectors = np.eye(40, dtype=np.float32)
    (found,) = score_all(write_vectors(tmp_path, "v", vectors, vectors[::-1]), "retrieval", truth)
    assert "may be in another order" in found.result.suspicions[0].text


def test_vectors_that_do_not_fit_are_refused(tmp_path):
    truth, (images, texts) = write_captions(tmp_path), drawn()
    broken = images.copy()
    broken[0, 0] = np.nan
    cases = [
        (images[1:], texts, "holds 11 images and 18 texts"),
        (images, texts[:, :5], "both need vectors of one length"),
        (broken, texts, "not finite"),
        (images.astype(np.int64), texts, "`images` is (12, 6) of int64"),
    ]
    for first, second, complaint in cases:
        with pytest.raises((InputError, MismatchError)) as refused:
            score_all(write_vectors(tmp_path, "v", first, second), "retrieval", truth)
        assert complaint in str(refused.value)
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(InputError, match="cannot be read as arrays"):
        score_all(tmp_path / "text.npz", "retrieval", truth)
    files = [write_vectors(tmp_path, "a", images, texts), write_vectors(tmp_path, "b", images[:, :3], texts[:, :3])]
    with pytest.raises(MismatchError, match="wanted files of one model"):
        score_all(files, "retrieval", truth)
