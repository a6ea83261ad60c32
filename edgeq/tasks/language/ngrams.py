"""BLEU and CIDEr-D of tokenised texts, from their papers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

LENGTHS = (1, 2, 3, 4)
"""Words of an n-gram."""

# "man's" is two words, as the tokenizer of the Penn Treebank has it.
_WORD = re.compile(r"'s\b|n't\b|\w+?(?=n't\b)|\w+|'\w+")
_SIGMA = 6.0
_SCALE = 10.0

Words = Sequence[str]
NGram = tuple[str, ...]


def words_of(text: str) -> tuple[str, ...]:
    """Returns the words of a text in lower case, without punctuation."""
    return tuple(_WORD.findall(text.lower().replace("’", "'")))


def bleu(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> tuple[float, float, float, float]:
    """Returns BLEU with n-grams of up to 1, 2, 3 and 4 words over a corpus, 0..1, without smoothing.

    ("BLEU: a Method for Automatic Evaluation of Machine Translation", Papineni et al., 2002)

    Args:
        candidates: Words of each candidate.
        references: Words of its references; the length nearest to the candidate's counts, of two the shorter.
    """
    matched, possible = Counter[int](), Counter[int]()
    length = reference_length = 0
    for words, others in zip(candidates, references, strict=True):
        length += len(words)
        reference_length += min((len(each) for each in others), key=lambda found: (abs(found - len(words)), found))
        for size in LENGTHS:
            counts = _counts(words, size)
            most: Counter[NGram] = Counter()
            for each in others:
                most |= _counts(each, size)
            matched[size] += (counts & most).total()
            possible[size] += counts.total()
    penalty = 1.0 if length >= reference_length else math.exp(1 - reference_length / length) if length else 0.0
    precisions = [matched[size] / possible[size] if possible[size] else 0.0 for size in LENGTHS]
    first, second, third, fourth = (penalty * _geometric_mean(precisions[:size]) for size in LENGTHS)
    return first, second, third, fourth


def cider(candidates: Mapping[int, Words], references: Sequence[Sequence[Words]]) -> NDArray[np.float64]:
    """Returns the CIDEr-D of each candidate `(N,)`, 0..10, in the order of their positions.

    N-grams count by how few images have them, their counts are clipped to the reference's, and a Gaussian penalises
    another length. ("CIDEr: Consensus-based Image Description Evaluation", Vedantam et al., 2015)

    Args:
        candidates: Position of an image -> words of its candidate.
        references: Words of the references of every image, candidates or not: they decide which n-grams are rare.
    """
    images = Counter[NGram]()
    for each in references:
        images.update({gram for words in each for size in LENGTHS for gram in _counts(words, size)})
    most = math.log(len(references))

    def vectors(words: Words) -> list[dict[NGram, float]]:
        return [
            {gram: count * (most - math.log(max(1, images[gram]))) for gram, count in _counts(words, size).items()}
            for size in LENGTHS
        ]

    found = []
    for number in sorted(candidates):
        own = vectors(candidates[number])
        likenesses = [
            _likeness(own, vectors(words)) * _length_penalty(candidates[number], words) for words in references[number]
        ]
        found.append(_SCALE * sum(likenesses) / len(likenesses))
    return np.array(found)


def _counts(words: Words, size: int) -> Counter[NGram]:
    return Counter(tuple(words[start : start + size]) for start in range(len(words) - size + 1))


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if all(values) else 0.0


def _likeness(own: Sequence[Mapping[NGram, float]], other: Sequence[Mapping[NGram, float]]) -> float:
    """Returns the mean over the lengths of the cosine of two vectors, the first one clipped to the second."""
    cosines = []
    for first, second in zip(own, other, strict=True):
        norm = math.hypot(*first.values()) * math.hypot(*second.values())
        product = sum(min(value, second.get(gram, 0.0)) * second.get(gram, 0.0) for gram, value in first.items())
        cosines.append(product / norm if norm else 0.0)
    return sum(cosines) / len(cosines)


def _length_penalty(words: Words, other: Words) -> float:
    return math.exp(-((len(words) - len(other)) ** 2) / (2 * _SIGMA**2))
